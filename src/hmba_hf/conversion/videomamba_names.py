"""Names of VideoMamba's original tensors, and of ours."""

from collections.abc import Iterable

from hmba_hf.conversion.rename_keys import Rule

BASE = "videomamba."
# In front of all names in the files of some training scripts.
PREFIXES = ("backbone.", "encoder.")
# In front of the vision half's names in the files of the multi-modal stage.
VISION_HALF = "vision_encoder."
# What those files hold beside the backbone and its pre-training.
OF_RETRIEVAL = (
    "pool_norm.*",
    "text_encoder.*",
    "vision_proj.*",
    "text_proj.*",
    "temp",
    "itm_head.*",
)
TEXT_HALF = "text_encoder.bert."
# Parts of one direction's state space, and what the original calls them in the other direction.
_OF_STATE_SPACE = {
    "conv1d.weight": "conv1d_b.weight",
    "conv1d.bias": "conv1d_b.bias",
    "x_proj.weight": "x_proj_b.weight",
    "dt_proj.weight": "dt_proj_b.weight",
    "dt_proj.bias": "dt_proj_b.bias",
    "A_log": "A_b_log",
    "D": "D_b",
}


def bare_names(stored: Iterable[str]) -> dict[str, str]:
    """Return the stored names by the names that the original model has for them, without a prefix.

    Raises:
        ValueError: if two tensors have one name.

    Source: OpenGVLab/VideoMamba, `run_class_finetuning.py`.
    """
    found: dict[str, str] = {}
    for name in stored:
        bare = name
        for prefix in (*PREFIXES, VISION_HALF):
            if name.startswith(prefix):
                bare = name.removeprefix(prefix)
        if bare in found:
            raise ValueError(f"{bare} must be one tensor, got {found[bare]} and {name}")
        found[bare] = name
    return found


def is_multi_modal(stored: Iterable[str]) -> bool:
    """Return whether names are those of the multi-modal stage."""
    return any(name.startswith(VISION_HALF) for name in stored)


def unused_rules(patterns: Iterable[str]) -> list[Rule]:
    """Return the first rules of a table for a model without these parts; no model has the teacher, a CLIP."""
    return [Rule(pattern) for pattern in ("clip_teacher.*", *patterns)]


def videomamba_rules(base: str = BASE, final_norm: str = "norm_f") -> list[Rule]:
    """Return the rules of all original models of one modality, and of the vision half of the multi-modal one.

    Args:
        base: prefix of the base model's names here; empty for `VideoMambaModel`.
        final_norm: its first name on the way back, `"norm_f"` in classifiers and `"norm"` in pre-training.

    Source: OpenGVLab/VideoMamba, `videomamba.py`, `videomamba_pretrain.py`, `videomamba_distill.py`.
    """
    norms = ["norm_f", "norm"]
    norms.sort(key=lambda name: name != final_norm)
    rules = [
        Rule("cls_token", (f"{base}embeddings.cls_token",)),
        Rule("pos_embed", (f"{base}embeddings.position_embeddings",)),
        Rule("temporal_pos_embedding", (f"{base}embeddings.temporal_embeddings",)),
        Rule("patch_embed.proj.*", (f"{base}embeddings.patch_embeddings.projection.*",)),
    ]
    mixer = f"{base}encoder.layers.*.mixer."
    for ours, reversed_name in _OF_STATE_SPACE.items():
        rules.append(Rule(f"layers.*.mixer.{ours}", (f"{mixer}forward_ssm.{ours}",)))
        rules.append(Rule(f"layers.*.mixer.{reversed_name}", (f"{mixer}reverse_ssm.{ours}",)))
    for projection in ("in_proj", "out_proj"):
        rules.append(Rule(f"layers.*.mixer.{projection}.weight", (f"{mixer}{projection}.weight",)))
    rules.append(Rule("layers.*.norm.weight", (f"{base}encoder.layers.*.norm.weight",)))
    for norm in norms:
        rules.append(Rule(f"{norm}.weight", (f"{base}norm.weight",)))
    return [
        *rules,
        Rule("head.*", ("classifier.*",)),
        Rule("distill_head.0.weight", ("distillation_head.norm.weight",)),
        Rule("distill_head.1.*", ("distillation_head.projection.*",)),
        Rule("clip_decoder.*.head.weight", ("alignment_heads.*.projection.weight",)),
        Rule("clip_decoder.*.head.bias", ("alignment_heads.*.projection.bias",)),
        Rule("clip_decoder.*.norm.weight", ("alignment_heads.*.norm.weight",)),
        Rule("clip_decoder.*.norm.bias", ("alignment_heads.*.norm.bias",)),
    ]


def retrieval_rules(num_text_layers: int, num_fusion_layers: int, vision: str = "") -> list[Rule]:
    """Return the rules of the whole model of the multi-modal stage.

    Args:
        num_text_layers: first layers of the text half, which see no video.
        num_fusion_layers: its others.
        vision: prefix of the vision half's original names.

    Source: OpenGVLab/VideoMamba, `umt_videomamba.py`; its BERT with cross-attention is that of salesforce/ALBEF.
    """
    rules = []
    for rule in videomamba_rules(final_norm="norm"):
        ours = tuple(f"vision_model.{our}" for our in rule.ours)
        rules.append(Rule(f"{vision}{rule.original}", ours))
    for layer in range(num_fusion_layers):
        original = f"{TEXT_HALF}encoder.layer.{num_text_layers + layer}.crossattention.*"
        rules.append(Rule(original, (f"cross_attentions.{layer}.*",)))
    head = "text_encoder.cls.predictions"
    words = "text_model.bert.embeddings.word_embeddings.weight"
    return [
        *rules,
        Rule(f"{vision}pool_norm.*", ("pooler.norm.*",)),
        Rule(f"{TEXT_HALF}embeddings.position_ids"),  # counts from 0
        # The head of masked language has the table of words, and one bias under two names.
        Rule(f"{head}.decoder.weight", (words,), is_alias=True),
        Rule(f"{head}.decoder.bias", ("text_model.cls.predictions.bias",), is_alias=True),
        Rule(f"{TEXT_HALF}*", ("text_model.bert.*",)),
        Rule("text_encoder.cls.*", ("text_model.cls.*",)),
        Rule("vision_proj.*", ("vision_projection.*",)),
        Rule("text_proj.*", ("text_projection.*",)),
        Rule("itm_head.*", ("matching_head.*",)),
        Rule("temp", ("logit_temperature",)),
    ]
