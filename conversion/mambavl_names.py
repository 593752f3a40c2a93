"""Names of MambaVL's original tensors, and of ours."""

from rename_keys import Rule

BASE = "mambavl."
# What the shared matrix of decays is called on the way back, where it has one name.
SHARED = "A_log"
# What the files hold that no forward reads in the fusion by Mamba.
UNREAD = ("B_log", "text_model.encoder.*", "text_model.pooler.*", "text_model.embeddings.position_ids")
_PROJECTIONS = {"0": "layers.0", "2": "layers.1", "4": "layers.2"}


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
