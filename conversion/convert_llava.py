"""Make H-MBA of LLaVA: its tower, projector and language model, and a new adapter that starts as the identity.

    python conversion/convert_llava.py --checkpoint llava-hf/llava-1.5-7b-hf --output_dir hmba-llava
    python conversion/convert_llava.py --checkpoint liuhaotian/llava-v1.5-7b --output_dir hmba-llava

Both layouts of LLaVA-1.5 are read, LLaVA's own and transformers', and of transformers every LLaVA-style checkpoint
whose tower gives one feature for each patch and whose projector has two layers. The result sees a still picture, or a
clip of that picture however long, as LLaVA sees the picture, until its adapter has learned. A picture that LLaVA would
read in tiles is read as a whole, and pictures are brought to a square by a white margin, as H-MBA's boxes need it.

A checkpoint is a folder, a Hub id (`org/name` or `org/name@revision`) or a file. Nothing in it is run. The result
holds processor, tokenizer, code and card, and is written one tensor at a time, whole or not at all. `--verify` reads
it again and compares every tensor with what it was made of, and in transformers' layout also the logits of a still
picture with those of transformers' own class, for which the model must fit into memory.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModel, LlamaConfig
from transformers.processing_utils import ProcessorMixin

from checkpoint_folders import (
    blank_model,
    card_name,
    fresh_adapter,
    load_tokenizer,
    read_generation_config,
    special_ids,
    wanted_tensors,
    whole_folder,
    write_card,
    write_model_files,
    write_shards,
)
from hmba_hf import HMBAConfig, HMBAProcessor
from rename_keys import (
    PROJECTOR,
    TOWER,
    Rule,
    TensorSpec,
    llava_rules,
    plan_renaming,
    single_dtype,
    tied_head_rules,
    transformers_llava_rules,
)
from tensor_files import FileTensors, local_path, parse_hashes
from tensor_sources import JoinedTensors, MemoryTensors, RenamedTensors, Tensors
from verification import compare_tensors, compare_with_llava
from vision_towers import VisionTower

# What transformers has of LLaVA's form: a tower, two layers, a language model. They differ in how they cut pictures.
FITTING = ("llava", "llava_next", "llava_next_video", "llava_onevision")
ORIGINAL = ("llava", "llava_llama")  # model types in LLaVA's own layout
IMAGE_TOKEN = "<image>"
SCALED = ("logit_scale", "logits_scaling", "final_logit_softcapping")
TEMPLATE_HELP = "default: for LLaVA-1.5 vicuna v1.1, with which it was trained, for others the source's"
CARD = """# H-MBA on LLaVA

Made by `conversion/convert_llava.py` of [hmba-hf](https://arxiv.org/abs/2501.04302) from `{checkpoint}`.
The adapter is new: until it is fine-tuned, the model sees the current frame alone, as LLaVA would.
The licences of what it was made of apply to it.
"""
# In front of a template that knows pictures: a video is one, and a text alone is a list of one block.
VIDEOS_ARE_PICTURES = """\
{%- set rewritten = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set blocks = namespace(found=[]) -%}
    {%- if message['content'] is string -%}
        {%- set blocks.found = [dict(type='text', text=message['content'])] -%}
    {%- else -%}
        {%- for block in message['content'] -%}
            {%- set kind = 'image' if block['type'] == 'video' else block['type'] -%}
            {%- set blocks.found = blocks.found + [dict(block, type=kind)] -%}
        {%- endfor -%}
    {%- endif -%}
    {%- set rewritten.messages = rewritten.messages + [dict(message, content=blocks.found)] -%}
{%- endfor -%}
{%- set messages = rewritten.messages -%}
"""


class Llava(NamedTuple):
    """A LLaVA: its tensors, its config.json, its tokenizer, H-MBA's configuration on it, and where its tower is."""

    folder: Path
    tensors: Tensors
    settings: dict[str, Any]
    tokenizer: Any
    config: HMBAConfig
    tower: VisionTower

    @property
    def is_original(self) -> bool:
        """Whether the layout is LLaVA's own."""
        return is_original(self.settings)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, Hub id or file")
    parser.add_argument("--vision", help="the tower, for LLaVA's own layout; when absent what its config names")
    parser.add_argument("--config", help="folder with config.json and tokenizer, where the checkpoint has none")
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--num_frames", type=int, default=5, help="of the adapter and of a clip")
    parser.add_argument("--chat_template", choices=("source", "vicuna"), help=TEMPLATE_HELP)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="that of the checkpoint if absent")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="NAME=HASH", help="of files of the checkpoint")
    parser.add_argument("--max_shard_size", default="5GB", help="of the files that are written")
    parser.add_argument("--seed", type=int, default=0, help="of the adapter")
    parser.add_argument("--verify", action="store_true", help="see above")
    return parser.parse_args()


def main() -> None:
    """Convert."""
    args = parse_arguments()
    convert(args)
    print(f"checkpoint: {args.output_dir}")


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    llava = read_llava(args)
    model = blank_model(llava.config)
    tensors, dtype, unused = plan_tensors(args, llava, model)
    if unused:
        print(f"not used and dropped: {len(unused)} tensors", *unused, sep="\n  ")
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, tensors, args.max_shard_size)
        settings = read_generation_config(llava.folder)
        write_model_files(folder, model, dtype, settings, build_processor(args, llava))
        write_card(folder, CARD.format(checkpoint=card_name(args.checkpoint)), [args.checkpoint])
        if args.verify:
            print(f"verified: {compare_tensors(folder, tensors)} tensors are what they were made of")
            if llava.settings["model_type"] == "llava" and not llava.is_original:
                error = compare_with_llava(folder, llava.folder)
                print(f"verified: the logits of a still picture are LLaVA's to {error:.1e}")


def read_llava(args: argparse.Namespace) -> Llava:
    """Open a LLaVA of either layout.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged, or is none that H-MBA can hold.
    """
    path = local_path(args.checkpoint)
    folder = local_path(args.config) if args.config else path if path.is_dir() else path.parent
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"a config.json is wanted, got none in {folder}: name a folder that has it by --config"
        )
    settings = json.loads((folder / "config.json").read_text())
    tensors, tokenizer = FileTensors(path, parse_hashes(args.sha256)), load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    if is_original(settings):
        tower = VisionTower(args.vision or settings["mm_vision_tower"])
        config = original_config(args, settings, tower, tokenizer)
    else:
        tower = VisionTower(str(folder))
        config = transformers_config(args, folder)
    return Llava(folder, tensors, settings, tokenizer, config, tower)


def is_original(settings: dict[str, Any]) -> bool:
    """Tell LLaVA's own layout from transformers'.

    Raises:
        ValueError: if it is neither.
    """
    if "mm_vision_tower" in settings and settings.get("model_type") in ORIGINAL:
        return True
    if settings.get("model_type") not in FITTING:
        raise ValueError(f"a model_type of {list(FITTING)} is wanted, got {settings.get('model_type')!r}")
    return False


def original_config(
    args: argparse.Namespace, settings: dict[str, Any], tower: VisionTower, tokenizer: Any
) -> HMBAConfig:
    """Build the configuration for LLaVA's own layout; the tokenizer gets a token for the picture, which it has not."""
    projectors = {"linear": None, "mlp2x_gelu": "gelu"}
    for name, allowed in (("mm_projector_type", projectors), ("mm_vision_select_feature", ("patch",))):
        if settings.get(name, next(iter(allowed))) not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {settings[name]!r}")
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]
    known = {*LlamaConfig.__annotations__, "rope_theta", "rope_scaling"}
    llama = {name: value for name, value in settings.items() if name in known}
    llama["vocab_size"] = max(llama["vocab_size"], image_token_id + 1)
    return HMBAConfig(
        vision_config=tower.config,
        text_config=LlamaConfig(**{**llama, **special_ids(tokenizer)}),
        video_token_id=image_token_id,
        vision_feature_layer=settings.get("mm_vision_select_layer", -2),
        num_frames=args.num_frames,
        projector_hidden_act=projectors[settings.get("mm_projector_type", "linear")],
    )


def transformers_config(args: argparse.Namespace, folder: Path) -> HMBAConfig:
    """Build the configuration for transformers' layout.

    Raises:
        ValueError: if the model sees in a way that H-MBA does not.
    """
    theirs: Any = AutoConfig.from_pretrained(folder)
    layers = theirs.vision_feature_layer
    layers = [layers] if isinstance(layers, int) else list(layers)
    if len(layers) > 1:
        raise ValueError(f"a projector of one layer's features is wanted, got vision_feature_layer={layers}")
    if scaled := [name for name in SCALED if getattr(theirs.text_config, name, None) is not None]:
        raise ValueError(f"a language model whose logits LLaVA would scale is wanted, got one with {scaled}")
    config = HMBAConfig(
        vision_config=theirs.vision_config,
        text_config=theirs.text_config,
        video_token_id=theirs.image_token_id,
        vision_feature_layer=layers[0],
        num_frames=args.num_frames,
        projector_hidden_act=theirs.projector_hidden_act,
        tie_word_embeddings=theirs.tie_word_embeddings,
    )
    with torch.device("meta"):
        tower, size = AutoModel.from_config(theirs.vision_config), config.frame_size
        tokens = tower(torch.empty(1, 3, *size), output_hidden_states=True).hidden_states[layers[0]].shape[1]
    dropped = 1 if theirs.vision_feature_select_strategy == "default" else 0
    if tokens - dropped != config.num_patches:
        raise ValueError(
            f"one feature for each of {config.num_patches} patches is wanted, got {tokens - dropped} of "
            f"{type(tower).__name__} with vision_feature_select_strategy={theirs.vision_feature_select_strategy!r}"
        )
    return config


def plan_tensors(args: argparse.Namespace, llava: Llava, model: Any) -> tuple[Tensors, torch.dtype, list[str]]:
    """Find out where each tensor comes from; return them, their dtype, and the names of those that are not used."""
    wanted, source, rows = wanted_tensors(model), llava.tensors, {}
    embeddings = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    fresh = MemoryTensors(fresh_adapter(llava.config, args.seed) | missing_biases(llava, wanted))
    from_source = {name: spec for name, spec in wanted.items() if name not in fresh.specs}
    if llava.is_original:
        for name in (f"{embeddings}.weight", "lm_head.weight"):
            (rows[name], width), dtype = wanted[name]
            from_source[name] = TensorSpec((llava.settings["vocab_size"], width), dtype)
    has_tower = not llava.is_original or any(name.startswith("model.vision_tower.") for name in source.specs)
    if not has_tower:
        from_source = {name: spec for name, spec in from_source.items() if not name.startswith(TOWER)}
    renaming = plan_renaming(source.specs, llava_table(llava, wanted, f"{embeddings}.weight"), from_source)
    dtype = getattr(torch, args.dtype) if args.dtype else single_dtype(source.specs, renaming)
    parts: list[Tensors] = [RenamedTensors(source, renaming, dtype, rows)]
    if not has_tower:
        parts.append(llava.tower.renamed(wanted, dtype))
    parts.append(RenamedTensors(fresh, plan_renaming(fresh.specs, [Rule("*", ("*",))], fresh.specs), dtype))
    return JoinedTensors(*parts), dtype, renaming.unused


def missing_biases(llava: Llava, wanted: dict[str, TensorSpec]) -> dict[str, torch.Tensor]:
    """Return zeros for the biases of a projector that has none."""
    if llava.settings.get("multimodal_projector_bias", True):
        return {}
    names = [name for name in wanted if name.startswith(PROJECTOR) and name.endswith(".bias")]
    return {name: torch.zeros(wanted[name].shape) for name in names}


def llava_table(llava: Llava, wanted: dict[str, TensorSpec], embeddings: str) -> list[Rule]:
    """Return the table of a layout."""
    if llava.is_original:
        return llava_rules(llava.config.projector_hidden_act is not None, wanted)
    rules = transformers_llava_rules(wanted)
    return tied_head_rules(embeddings) + rules if llava.config.tie_word_embeddings else rules


def build_processor(args: argparse.Namespace, llava: Llava) -> HMBAProcessor:
    """Build the processor: LLaVA's pictures, tokens and prompts."""
    token = llava.tokenizer.convert_ids_to_tokens(llava.config.video_token_id)
    joined = HMBAProcessor.from_vision_text_pretrained(
        str(llava.tower.path), str(llava.folder), video_token=token, num_frames=llava.config.num_frames
    )
    is_llava_1_5 = llava.settings["model_type"] in ORIGINAL and llava.config.text_config.model_type == "llama"
    is_vicuna = (args.chat_template or ("vicuna" if is_llava_1_5 else "source")) == "vicuna"
    template = None if is_vicuna else ProcessorMixin.get_processor_dict(llava.folder)[0].get("chat_template")
    if is_vicuna or template is not None:
        llava.tokenizer.chat_template = None  # else it would be saved instead
    options: dict[str, Any] = {"patch_size": joined.patch_size, "video_token": token}
    if llava.settings.get("mm_use_im_start_end"):
        options |= {"video_start_token": "<im_start>", "video_end_token": "<im_end>"}
    if template is not None:
        options["chat_template"] = VIDEOS_ARE_PICTURES + template
    processor: Any = HMBAProcessor(joined.video_processor, llava.tokenizer, **options)
    if template is None:  # LLaVA writes a line break after each picture
        processor.chat_template = processor.chat_template.replace(json.dumps(token), json.dumps(f"{token}\n"))
    if "endgeneration" not in processor.chat_template:
        print(
            "the source's chat template does not mark its answers, as training needs it: --chat_template vicuna does"
        )
    return processor


if __name__ == "__main__":
    main()
