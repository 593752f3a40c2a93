"""Names of MambaVL's original tensors, and of ours."""

from collections.abc import Iterable

from hmba_hf.conversion.rename_keys import Rule

BASE = "mambavl."
# What the shared matrix of decays is called on the way back, where it has one name.
SHARED = "A_log"
# What the files hold that no forward reads in the fusion by Mamba.
UNREAD = ("B_log", "text_model.encoder.*", "text_model.pooler.*", "text_model.embeddings.position_ids")
# In front of the video model's names in the files of MambaVL, and in those of AVION itself.
ORVIT = "orvit."
VISUAL = "visual."
# What those files of AVION hold beside the video model.
OF_AVION = ("textual.*", "logit_scale", "image_projection", "text_projection", "fc_cls.*")
# Layers of an ORViT-Motionformer, and ours; those of its motion stream first, whose ends are also those of a block.
MOTION_LAYERS = {
    "motion_stream.attn.norm1": "motion_stream.block.norm1",
    "motion_stream.attn.attn.qkv": "motion_stream.block.attention.qkv",
    "motion_stream.attn.attn.proj": "motion_stream.block.attention.proj",
    "motion_stream.attn.norm2": "motion_stream.block.norm2",
    "motion_stream.attn.mlp.fc1": "motion_stream.block.mlp.fc1",
    "motion_stream.attn.mlp.fc2": "motion_stream.block.mlp.fc2",
    "motion_stream.c_coord_to_feature.0": "motion_stream.box_projection.fc1",
    "motion_stream.c_coord_to_feature.2": "motion_stream.box_projection.fc2",
    "motion_mlp.fc1": "motion_mlp.fc1",
    "motion_mlp.fc2": "motion_mlp.fc2",
    "patch_to_d.0": "crop_projection.fc1",
    "patch_to_d.2": "crop_projection.fc2",
    "c_coord_to_feature.0": "box_projection.fc1",
    "c_coord_to_feature.2": "box_projection.fc2",
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj_q": "attention.proj_q",
    "attn.proj_kv": "attention.proj_kv",
    "attn.proj": "attention.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# All names of an ORViT-Motionformer, which stands between all other tensors.
MOTIONFORMER = (
    "patch_embed.*",
    "patch_embed_3d.*",
    "cls_token",
    "pos_embed",
    "st_embed",
    "temp_embed",
    "blocks.*",
    "norm.*",
    "pre_logits.*",
)
_PROJECTIONS = {"0": "layers.0", "2": "layers.1", "4": "layers.2"}
# Layers of a block of AVION, and ours.
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# Names that AVION has for parts of a block without flash-attn, and with it, as in MambaVL.
_WITHOUT_FLASH = {
    ".attn.in_proj_": ".attn.Wqkv.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def released_names(stored: Iterable[str], prefix: str) -> dict[str, str]:
    """Return the stored names by those that a MambaVL with flash-attn has for them.

    Args:
        stored: names in a file.
        prefix: of the video model there.

    Raises:
        ValueError: if two tensors have one name.

    Source: zhaoyue-zephyrus/AVION, `models/utils.py`.
    """
    found: dict[str, str] = {}
    for name in stored:
        released = name
        if name.startswith(f"{prefix}transformer."):
            for without, with_flash in _WITHOUT_FLASH.items():
                released = released.replace(without, with_flash)
        if released in found:
            raise ValueError(f"{released} must be one tensor, got {found[released]} and {name}")
        found[released] = name
    return found


def parts_of_attention(names: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Return the names of queries, keys and values by the name of the tensor that holds all three.

    Args:
        names: of tensors, whole or in parts.
        prefix: of the video model.
    """
    parts = {}
    for name in names:
        for part in ("Wqkv", "q_proj"):
            if name.startswith(f"{prefix}transformer.") and f".attn.{part}." in name:
                before, _, after = name.partition(f".attn.{part}.")
                three = [f"{before}.attn.{letter}_proj.{after}" for letter in "qkv"]
                parts[f"{before}.attn.Wqkv.{after}"] = three
    return parts


def vision_rules(prefix: str = ORVIT, base: str = BASE) -> list[Rule]:
    """Return the rules of AVION's video model, whose queries, keys and values are tensors of their own.

    Args:
        prefix: of its original names.
        base: prefix of the base model's names here; empty for `MambaVLModel`.

    Source: zhaoyue-zephyrus/AVION, `models/transformer.py`.
    """
    vision = f"{base}vision_model."
    rules = [
        Rule(f"{prefix}image_projection"),  # of features of a clip, not of its tokens
        Rule(f"{prefix}class_embedding", (f"{vision}embeddings.class_embedding",)),
        Rule(f"{prefix}positional_embedding", (f"{vision}embeddings.position_embedding.weight",)),
        Rule(f"{prefix}temporal_embedding", (f"{vision}temporal_embeddings",)),
        Rule(f"{prefix}conv1.weight", (f"{vision}embeddings.patch_embedding.weight",)),
        Rule(f"{prefix}ln_pre.*", (f"{vision}pre_layrnorm.*",)),
        Rule(f"{prefix}ln_post.*", (f"{vision}post_layernorm.*",)),
    ]
    for original, ours in LAYERS.items():
        for kind in ("weight", "bias"):
            name = f"{prefix}transformer.resblocks.*.{original}.{kind}"
            rules.append(Rule(name, (f"{vision}encoder.layers.*.{ours}.{kind}",)))
    return rules


def motionformer_rules(prefix: str = "", base: str = BASE) -> list[Rule]:
    """Return the rules of an ORViT-Motionformer.

    Args:
        prefix: of its original names.
        base: prefix of the base model's names here; empty for `MambaVLModel`.

    Source: Dongzhikang/MambaVL, `video_model_builder.py`; eladb3/ORViT, `orvit.py`.
    """
    vision = f"{base}vision_model."
    rules = [
        Rule(f"{prefix}patch_embed_3d.proj.*", (f"{vision}patch_embedding.*",)),
        Rule(f"{prefix}cls_token", (f"{vision}class_embedding",), leading_axis=True),
        Rule(f"{prefix}pos_embed", (f"{vision}position_embeddings",), leading_axis=True),
        Rule(f"{prefix}temp_embed", (f"{vision}temporal_embeddings",), leading_axis=True),
        Rule(f"{prefix}norm.*", (f"{vision}norm.*",)),
        Rule(f"{prefix}pre_logits.fc.*", (f"{vision}pre_logits.*",)),
    ]
    for stream in ("motion_stream.", ""):
        ours = f"{vision}layers.*.{stream}object_embeddings"
        rules.append(Rule(f"{prefix}blocks.*.{stream}box_categories", (ours,)))
    for original, ours in MOTION_LAYERS.items():
        for kind in ("weight", "bias"):
            rules.append(Rule(f"{prefix}blocks.*.{original}.{kind}", (f"{vision}layers.*.{ours}.{kind}",)))
    return rules


def fusion_rules(base: str = BASE) -> list[Rule]:
    """Return the rules of all but the video model.

    Args:
        base: prefix of the base model's names here; empty for `MambaVLModel`.

    Source: Dongzhikang/MambaVL, `mamba_simple.py` and the models that use it.
    """
    fusion = f"{base}fusion."
    rules = [
        Rule(SHARED, (f"{fusion}video_mixer.A_log",)),
        Rule("mamba_video.*", (f"{fusion}video_mixer.*",)),
        Rule("mamba_text.*", (f"{fusion}text_mixer.*",)),
    ]
    for original, ours in _PROJECTIONS.items():
        rules.append(Rule(f"txt_proj.{original}.*", (f"{base}text_projection.{ours}.*",)))
    return [
        *[Rule(pattern) for pattern in UNREAD],
        *rules,
        Rule("text_model.embeddings.*", (f"{base}text_model.embeddings.*",)),
        Rule("head0.*", ("classifiers.verb.*",)),
        Rule("head1.*", ("classifiers.noun.*",)),
    ]
