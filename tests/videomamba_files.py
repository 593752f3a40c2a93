"""Files of the original VideoMamba, rebuilt from recorded numbers, and their conversion by the command line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from original_checkpoints import run_conversion
from tiny_pairs import TEXT, tiny_pair_tokenizer, tiny_retrieval


def convert(checkpoint, output_dir, *options):
    """Convert by the command line; return the folder of the result."""
    run_conversion("convert_videomamba.py", "--checkpoint", checkpoint, "--output_dir", output_dir, *options)
    return output_dir


def weights_of(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save_layout(path, weights, layout="bare"):
    """Save weights in one of the layouts of the original's files; return the path of the file."""
    if layout == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif layout in ("model", "module"):
        torch.save({layout: weights, "epoch": 3, "optimizer": {"state": {}}}, path)
    elif layout == "before torch 1.6":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        prefix = "" if layout == "bare" else layout
        torch.save({f"{prefix}{name}": tensor for name, tensor in weights.items()}, path)
    return path


def rebuild(golden, folder, name="videomamba_small", prefix="w.", layout="bare", **changes):
    """Rebuild an original file from recorded numbers; return its path, its weights and all that is recorded."""
    tensors, _ = golden(name)
    weights = {**weights_of(tensors, prefix), **changes}
    return save_layout(folder / "original.pth", weights, layout), weights, tensors


def refused(path, *options, match, error=ValueError):
    """See that a conversion is refused and leaves nothing behind."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(error, match=match):
        convert(path, path.parent / "ours", *options)
    assert sorted(path.parent.rglob("*")) == before


def assert_identical(tensors, wanted):
    """See that names, dtypes and bytes are the same."""
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert tensors[name].shape == tensor.shape, name
        assert tensors[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name


def both_halves(width=24, heads=4):
    """Return a tiny model of the multi-modal stage, whose vision half is of the size of the recorded one.

    Args:
        width: of its text half.
        heads: likewise, of its attention.
    """
    vision = {"hidden_size": 48, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "num_frames": 4}
    text = {**TEXT, "hidden_size": width, "num_attention_heads": heads}
    model = tiny_retrieval(vision_config={**vision, "alignment_size": 20}, text_config=text)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    nn.init.constant_(model.logit_temperature, 0.2)
    return model


def multi_modal(model, vision):
    """The state dict of the multi-modal stage: the vision half of the original, all else of a model of ours."""
    weights = {f"vision_encoder.{name}": tensor for name, tensor in vision.items()}
    for name, tensor in model.text_model.state_dict().items():
        weights[f"text_encoder.{name}"] = tensor.clone()
    for layer, attention in enumerate(model.cross_attentions, start=model.config.num_text_layers):
        for name, tensor in attention.state_dict().items():
            weights[f"text_encoder.bert.encoder.layer.{layer}.crossattention.{name}"] = tensor.clone()
    for ours, theirs in (("vision_projection", "vision_proj"), ("text_projection", "text_proj")):
        for name, tensor in getattr(model, ours).state_dict().items():
            weights[f"{theirs}.{name}"] = tensor.clone()
    weights["itm_head.weight"] = model.matching_head.weight.detach().clone()
    weights["itm_head.bias"] = model.matching_head.bias.detach().clone()
    weights["temp"] = model.logit_temperature.detach().clone()
    weights["text_encoder.bert.embeddings.position_ids"] = torch.arange(TEXT["max_position_embeddings"])[None]
    weights["clip_teacher.visual_projection"] = torch.randn(8, 4)
    return weights


def write_videomambas(folder, golden):
    """Write tiny files of all kinds under the names of published ones, and the names of the classes of one."""
    pictures = folder / "OpenGVLab" / "VideoMamba"
    pictures.mkdir(parents=True)
    kinds = {
        pictures / "videomamba_t16_in1k_res224.pth": ("videomamba_image_small", "w_image."),
        folder / "videomamba_m16_k400_f16_res224.pth": ("videomamba_small", "w."),
        folder / "videomamba_m16_k400_mask_pt_f8_res224.pth": ("videomamba_pretrain_small", "w_pt."),
    }
    for path, (name, prefix) in kinds.items():
        save_layout(path, weights_of(golden(name)[0], prefix), "model")
    (folder / "k400.json").write_text(json.dumps([f"action {number}" for number in range(10)]))
    vision = weights_of(golden("videomamba_mm_small")[0], "w.")
    weights = multi_modal(both_halves(width=64, heads=1), vision)
    save_layout(folder / "videomamba_m16_25M_f8_res224.pth", weights, "model")
    tiny_pair_tokenizer().save_pretrained(folder / "google-bert" / "bert-base-uncased")
