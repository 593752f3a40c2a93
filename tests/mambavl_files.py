"""Files of the original MambaVL, rebuilt from recorded numbers and drawn ones, and their conversion."""

import torch

from original_checkpoints import run_conversion
from tiny_questions import tiny_question_tokenizer

HEADS = {"verb": 9, "noun": 13}
WORDS = 60
WIDTH = 32


def convert(checkpoint, output_dir, *options):
    """Convert by the command line; return the folder of the result."""
    run_conversion("convert_mambavl.py", "--checkpoint", checkpoint, "--output_dir", output_dir, *options)
    return output_dir


def recorded_fusion(golden):
    """The recorded fusion, and beside it the embeddings of texts, of random numbers as in the published files."""
    tensors, _ = golden("mambavl_fusion_small")
    weights = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w.")}
    draw = torch.Generator().manual_seed(1)
    text = "text_model.embeddings."
    weights[f"{text}word_embeddings.weight"] = torch.randn(WORDS, 24, generator=draw)
    weights[f"{text}position_embeddings.weight"] = torch.randn(50, 24, generator=draw)
    weights[f"{text}token_type_embeddings.weight"] = torch.randn(1, 24, generator=draw)
    weights[f"{text}LayerNorm.weight"] = 1 + 0.1 * torch.randn(24, generator=draw)
    weights[f"{text}LayerNorm.bias"] = 0.1 * torch.randn(24, generator=draw)
    return weights


def unread_tensors():
    """What the files hold that the fusion by Mamba does not read."""
    draw = torch.Generator().manual_seed(2)
    return {
        "B_log": torch.randn(2 * WIDTH, 16, generator=draw),
        "text_model.embeddings.position_ids": torch.arange(50)[None],
        "text_model.encoder.layer.0.output.dense.weight": torch.randn(24, 24, generator=draw),
        "text_model.pooler.dense.bias": torch.randn(24, generator=draw),
    }


def fusion_shapes(width, text_width=768, heads=HEADS, words=WORDS, places=50):
    """The shapes of all but the video model, of any width."""
    inner, rank = 2 * width, -(-width // 16)
    text = "text_model.embeddings."
    shapes = {
        "A_log": (inner, 16),
        "txt_proj.0.weight": (width, text_width),
        "txt_proj.2.weight": (width, width),
        "txt_proj.2.bias": (width,),
        "txt_proj.4.weight": (width, width),
        "txt_proj.4.bias": (width,),
        f"{text}word_embeddings.weight": (words, text_width),
        f"{text}position_embeddings.weight": (places, text_width),
        f"{text}token_type_embeddings.weight": (1, text_width),
        f"{text}LayerNorm.weight": (text_width,),
        f"{text}LayerNorm.bias": (text_width,),
    }
    for mixer in ("mamba_video.", "mamba_text."):
        shapes[f"{mixer}D"] = (inner,)
        shapes[f"{mixer}in_proj.weight"] = (2 * inner, width)
        shapes[f"{mixer}conv1d.weight"] = (inner, 1, 4)
        shapes[f"{mixer}conv1d.bias"] = (inner,)
        shapes[f"{mixer}x_proj.weight"] = (rank + 32, inner)
        shapes[f"{mixer}dt_proj.weight"] = (inner, rank)
        shapes[f"{mixer}dt_proj.bias"] = (inner,)
        shapes[f"{mixer}out_proj.weight"] = (width, inner)
    for number, count in enumerate(heads.values()):
        shapes[f"head{number}.weight"] = (count, width)
        shapes[f"head{number}.bias"] = (count,)
    return shapes


def avion_shapes(width, layers=2, hidden=40, patch=8, places=4, frames=4):
    """The shapes of AVION's video model, by its names with flash-attn."""
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (1 + places, width),
        "temporal_embedding": (frames, width),
        "conv1.weight": (width, 3 * patch * patch),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }
    if frames == 1:
        del shapes["temporal_embedding"]
    of_a_block = {
        "ln_1": (width,),
        "attn.Wqkv": (3 * width, width),
        "attn.out_proj": (width, width),
        "ln_2": (width,),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    for layer in range(layers):
        for name, shape in of_a_block.items():
            shapes[f"transformer.resblocks.{layer}.{name}.weight"] = shape
            shapes[f"transformer.resblocks.{layer}.{name}.bias"] = shape[:1]
    return shapes


def avion(prefix="orvit.", flash=True, width=WIDTH, **sizes):
    """A tiny video model of AVION, by its names with flash-attn or without."""
    weights = {f"{prefix}{name}": tensor for name, tensor in draw(avion_shapes(width, **sizes)).items()}
    if flash:
        return weights
    plain = {}
    for name, tensor in weights.items():
        for theirs, ours in (("attn.Wqkv.", "attn.in_proj_"), ("mlp.fc1.", "mlp.c_fc."), ("mlp.fc2.", "mlp.c_proj.")):
            name = name.replace(theirs, ours)
        plain[name] = tensor.unflatten(1, (3, 8, 8)) if name.endswith("conv1.weight") else tensor
    return plain


def motionformer_shapes(width, layers=3, hidden=40, patch=8, places=4, steps=2, seeing=(1, 2), objects=3):
    """The shapes of an ORViT-Motionformer, by its names."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + places, width),
        "temp_embed": (1, steps, width),
        "patch_embed_3d.proj.weight": (width, 3, 2, patch, patch),
        "patch_embed_3d.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "pre_logits.fc.weight": (width, width),
        "pre_logits.fc.bias": (width,),
    }
    perceptron = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    of_a_block = {
        "norm1": (width,),
        "attn.qkv": (3 * width, width),
        "attn.proj_q": (width, width),
        "attn.proj_kv": (2 * width, width),
        "attn.proj": (width, width),
        "norm2": (width,),
        **perceptron,
    }
    of_motion = {"norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,)}
    of_objects = {f"motion_stream.attn.{name}": shape for name, shape in {**of_motion, **perceptron}.items()}
    of_objects |= {f"motion_{name}": shape for name, shape in perceptron.items()}
    for layer in range(layers):
        block = f"blocks.{layer}."
        for name, shape in {**of_a_block, **(of_objects if layer in seeing else {})}.items():
            shapes[f"{block}{name}.weight"] = shape
            shapes[f"{block}{name}.bias"] = shape[:1]
        if layer in seeing:
            shapes[f"{block}patch_to_d.0.weight"] = (width // 2, width)
            shapes[f"{block}patch_to_d.2.weight"] = (width, width // 2)
            for stream in ("", "motion_stream."):
                shapes[f"{block}{stream}box_categories"] = (steps, objects, width)
                shapes[f"{block}{stream}c_coord_to_feature.0.weight"] = (width // 2, 4)
                shapes[f"{block}{stream}c_coord_to_feature.2.weight"] = (width, width // 2)
    return shapes


def motionformer(prefix="", width=WIDTH, **sizes):
    """A tiny ORViT-Motionformer, by its names."""
    return {f"{prefix}{name}": tensor for name, tensor in draw(motionformer_shapes(width, **sizes)).items()}


def draw(shapes):
    """Draw tensors of these shapes."""
    generator = torch.Generator().manual_seed(3)
    return {name: 0.3 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def write_mambavls(folder):
    """Write tiny files under the names of published ones, AVION's, the names of classes, and a tokenizer."""
    heads = {"verb": 2, "noun": 3}
    for head, count in heads.items():
        rows = [f"{number},{head} {number},[]" for number in range(count)]
        (folder / f"EPIC_100_{head}_classes.csv").write_text("\n".join(["id,key,instances", *rows]) + "\n")
    fusion = draw(fusion_shapes(64, text_width=24, heads=heads))
    save_pyth(folder / "mambavl_avion_b.pyth", {**fusion, **avion(width=64)})
    save_pyth(folder / "mambavl_avion_l.pyth", fusion)
    save_pyth(folder / "mambavl_anticipation.pyth", {**fusion, **motionformer(width=64)})
    torch.save({"state_dict": avion("visual.", width=64)}, folder / "avion_finetune_cls_lavila_vitl_best.pt")
    tokenizer = folder / "FacebookAI" / "roberta-base"
    tiny_question_tokenizer().save_pretrained(tokenizer)
    convert(folder / "mambavl_avion_l.pyth", folder / "asked-features", "--tokenizer", tokenizer)


def save_pyth(path, weights, prefix=""):
    """Save weights as PySlowFast does, beside its settings, its optimizer and its scaler; return the path."""
    momentum = {number: {"momentum_buffer": torch.zeros(2)} for number in range(2)}
    groups = [{"lr": 1e-3, "params": [0, 1], "nesterov": True}]
    content = {
        "epoch": 34,
        "model_state": {f"{prefix}{name}": tensor for name, tensor in weights.items()},
        "optimizer_state": {"state": momentum, "param_groups": groups},
        "cfg": "MODEL:\n  MODEL_NAME: AVION_B\n",
        "scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
    }
    torch.save(content, path)
    return path
