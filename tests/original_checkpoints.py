"""Tiny checkpoints as the original codes write them, and the converters, run by their command lines."""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tiny_models import tiny_tower
from tiny_runs import run_script

CONVERSION = Path(__file__).parents[1] / "conversion"
PICTURES = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.2]}
SHIKRA_TOKENS = ["<im_patch>", "<im_start>", "<im_end>"]
LLAVA_WORDS = 60
IMAGE_TOKEN_ID = LLAVA_WORDS
LLAVA_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAVA_TEXT = {**LLAVA_SIZES, "num_key_value_heads": 4, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}


def run_conversion(script, *words):
    """Run a converter with words of a command line, inside this process."""
    with mock.patch.object(sys, "argv", [script, *map(str, words)]):
        run_script(CONVERSION / script)


def save_tokenizer(folder, words, added=(), **options):
    """Save a tokenizer of `words` words, the special ones of Llama among them, and of added tokens after them."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)
    fast.add_tokens(list(added), special_tokens=True)
    fast.save_pretrained(folder)


def pretend_hub(monkeypatch, **folders):
    """Let repositories be folders here, by their names with `__` in the place of `/`."""
    held = {name.replace("__", "/"): folder for name, folder in folders.items()}
    monkeypatch.setattr("hmba_hf.conversion.tensor_files.snapshot_download", lambda repo, **options: str(held[repo]))


def golden_weights(tensors):
    """Return the state dict of the original whole model in `hmba_e2e_small`."""
    return {name.removeprefix("w."): tensor for name, tensor in tensors.items() if name.startswith("w.")}


def save_clip(folder, tensors, facts):
    """Save the tower of `hmba_e2e_small` as a CLIP of its own."""
    clip = facts["config"]["clip"]
    names = ("hidden_size", "intermediate_size", "image_size", "patch_size", "hidden_act", "layer_norm_eps")
    sizes = {"num_hidden_layers": clip["layers"], "num_attention_heads": clip["heads"]}
    model = CLIPVisionModel(CLIPVisionConfig(**sizes, **{name: clip[name] for name in names}))
    model.load_state_dict({k.removeprefix("clip."): v for k, v in tensors.items() if k.startswith("clip.")})
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    return folder


def save_original(tmp_path, tensors, facts):
    """Save all of the original whole model but its weights, its tower beside it; return its folder."""
    folder = tmp_path / "original"
    folder.mkdir()
    save_settings(folder, facts, save_clip(tmp_path / "clip", tensors, facts))
    return folder


def save_settings(folder, facts, clip):
    """Write config.json and tokenizer of the original whole model in `hmba_e2e_small`."""
    llama = facts["config"]["llama"]
    settings = {name: llama[name] for name in ("hidden_size", "intermediate_size", "rms_norm_eps")}
    settings |= {"model_type": "shikra", "num_hidden_layers": llama["layers"], "num_attention_heads": llama["heads"]}
    settings |= {"vocab_size": llama["vocab"], "mm_vision_tower": str(clip), "mm_vision_select_layer": -2}
    settings |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}  # as early Llamas have it, wrongly
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))  # as Vicuna has it
    save_tokenizer(folder, llama["vocab"] - len(SHIKRA_TOKENS), SHIKRA_TOKENS)


def save_weights(folder, weights, form="safetensors"):
    """Write a state dict in one of the forms that training leaves."""
    halves = [dict(list(weights.items())[half::2]) for half in (0, 1)]
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif form == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif form == "pt":
        torch.save({"state_dict": weights, "epoch": 3}, folder / "checkpoint.pt")
        torch.save({}, folder / "optimizer.pt")
    elif form == "fsdp":
        torch.save({f"module._fsdp_wrapped_module.{k}": v for k, v in weights.items()}, folder / "pytorch_model.bin")
    elif form == "before torch 1.6":
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif form == "sharded safetensors":
        write_shards(
            folder, halves, "model", "safetensors", lambda half, path: save_file(half, path, {"format": "pt"})
        )
    elif form == "sharded bin":
        write_shards(folder, halves, "pytorch_model", "bin", torch.save)
    else:
        raise ValueError(form)


def write_shards(folder, halves, name, kind, write):
    files = [f"{name}-0000{i + 1}-of-00002.{kind}" for i in range(2)]
    for half, file in zip(halves, files, strict=True):
        write(half, folder / file)
    weight_map = {key: file for half, file in zip(halves, files, strict=True) for key in half}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{name}.{kind}.index.json").write_text(json.dumps(index))


def without_adapter(weights):
    return {name: tensor for name, tensor in weights.items() if not name.startswith("model.hmba.")}


def deltas(weights, base):
    """Make what Shikra published: weights less their base, in float16."""
    made = {}
    for name, tensor in weights.items():
        made[name] = tensor.half()
        if name in base:
            made[name] = made[name].clone()
            made[name][: len(base[name])] -= base[name].half()
    return made


def save_shikra_delta(folder, weights, llama_folder):
    """Save a delta to a Llama of three rows less, tuned by a little, and the Llama; return both state dicts."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=67)).half()
    llama.save_pretrained(llama_folder)
    base = llama.state_dict()
    tuned = {k: v.half() for k, v in without_adapter(weights).items()}
    for name, tensor in base.items():
        tuned[name] = tuned[name].clone()
        tuned[name][: len(tensor)] = (tensor.float() + 0.002 * torch.randn(tensor.shape)).half()
    save_weights(folder, deltas(tuned, base), "sharded bin")
    return base, tuned


def llava_config(model_type="llava", vision=None, text="llama", **kwargs):
    """Build the configuration of a tiny LLaVA."""
    sizes = {**LLAVA_SIZES, "image_size": 28, "patch_size": 14, **kwargs.pop("vision_values", {})}
    vision = tiny_tower() if vision is None else AutoConfig.for_model(vision, **sizes)
    return AutoConfig.for_model(
        model_type,
        vision_config=vision,
        text_config=AutoConfig.for_model(text, **{**LLAVA_TEXT, **kwargs.pop("text_values", {})}),
        image_token_id=IMAGE_TOKEN_ID,
        image_token_index=IMAGE_TOKEN_ID,
        **kwargs,
    )


def save_llava(folder, config, template=None):
    """Save a LLaVA of random weights with tokenizer and processor settings; return it."""
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    save_tokenizer(folder, LLAVA_WORDS, ["<image>"], pad_token="</s>")
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return model
