"""The families of models: one row of a table each."""

from typing import Any, NamedTuple

import transformers


class Family(NamedTuple):
    """A family of models beside its files in `models/`.

    Attributes:
        model_type: in the configuration of its checkpoints.
        task: what its models do.
        auto_class: name of the Auto class of transformers that loads it.
        parts: prefixes of parameter names, by the name of the trainable part.
        pipeline_tag: on the Hub.
        tags: of its cards.
    """

    model_type: str
    task: str
    auto_class: str
    parts: dict[str, str | tuple[str, ...]]
    pipeline_tag: str
    tags: tuple[str, ...]


FAMILIES = (
    Family(
        model_type="hmba",
        task="answering",
        auto_class="AutoModelForImageTextToText",
        parts={
            "vision_tower": "model.vision_tower.",
            "adapter": "model.temporal_adapter.",
            "projector": "model.multi_modal_projector.",
            "language_model": ("model.language_model.", "lm_head."),
        },
        pipeline_tag="video-text-to-text",
        tags=("driving", "mamba", "video"),
    ),
)


def family_of(config: Any) -> Family:
    """Return the family of a configuration.

    Raises:
        ValueError: if it is of none.
    """
    for family in FAMILIES:
        if family.model_type == config.model_type:
            return family
    known = [family.model_type for family in FAMILIES]
    raise ValueError(f"model_type must be of {known}, got {config.model_type!r}")


def auto_class(family: Family) -> Any:
    """Return the Auto class of transformers that loads a family."""
    return getattr(transformers, family.auto_class)
