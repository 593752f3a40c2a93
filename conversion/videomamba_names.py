"""Names of VideoMamba's original tensors, and of ours."""

from rename_keys import Rule

BASE = "videomamba."
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


def videomamba_rules(base: str = BASE) -> list[Rule]:
    """Return the rules of all original models of one modality.

    Args:
        base: prefix of the base model's names here; empty for `VideoMambaModel`.

    Source: OpenGVLab/VideoMamba, `videomamba.py`, `videomamba_pretrain.py`, `videomamba_distill.py`.
    """
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
    return [
        *rules,
        Rule("layers.*.norm.weight", (f"{base}encoder.layers.*.norm.weight",)),
        Rule("norm_f.weight", (f"{base}norm.weight",)),
        Rule("norm.weight", (f"{base}norm.weight",)),  # of pre-training
        Rule("head.*", ("classifier.*",)),
        Rule("distill_head.0.weight", ("distillation_head.norm.weight",)),
        Rule("distill_head.1.*", ("distillation_head.projection.*",)),
        Rule("clip_decoder.*.head.weight", ("alignment_heads.*.projection.weight",)),
        Rule("clip_decoder.*.head.bias", ("alignment_heads.*.projection.bias",)),
        Rule("clip_decoder.*.norm.weight", ("alignment_heads.*.norm.weight",)),
        Rule("clip_decoder.*.norm.bias", ("alignment_heads.*.norm.bias",)),
    ]
