"""Classes of clips, over several views of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...data.actions.samples import ActionSample
from ...data.micro_world.actions import MICRO_ACTIONS
from ...data.micro_world.world import MOTIONS
from ...evaluation.predicting import SplitArguments
from ...evaluation.splits import Splits, load_splits
from ...models.video_processing_videomamba import VideoMambaVideoProcessor
from .encoding import read_views
from .records import NUM_KEPT


@dataclass
class PredictionArguments(SplitArguments):
    """Which model classifies which clips, and over which views."""

    dataset_name: str = field(
        default=MICRO_ACTIONS, metadata={"help": f"folder, Hub id (org/name, org/name@revision) or {MICRO_ACTIONS}"}
    )
    num_temporal_views: int = field(
        default=1, metadata={"help": "clips of each video; the paper takes 4, for Something-Something 2, for COIN 10"}
    )
    num_spatial_views: int = field(
        default=1,
        metadata={"help": "squares of each clip, which the paper takes from left to right", "choices": [1, 3]},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_temporal_views < 1:
            raise ValueError(f"num_temporal_views must be at least 1, got {self.num_temporal_views}")

    def recipe(self) -> dict[str, Any]:
        """The options that predictions depend on."""
        names = ["num_temporal_views", "num_spatial_views"]
        if self.dataset_name == MICRO_ACTIONS:
            names.append("world_seed")
        return {**super().recipe(), **{name: getattr(self, name) for name in names}}


def load_clips(arguments: PredictionArguments, model: Any, processor: Any) -> Splits:
    """Load the clips that options name, and let the processor take as many views of each as they say.

    Raises:
        ValueError: if the classes of a split are not those of the model, if there are to be several views of a
            picture, or as `load_splits`.
    """
    num_views = arguments.num_temporal_views * arguments.num_spatial_views
    if num_views > 1 and not isinstance(processor, VideoMambaVideoProcessor):
        raise ValueError(f"views of a picture must be 1, got {num_views}")
    processor.num_temporal_views = arguments.num_temporal_views
    processor.num_spatial_views = arguments.num_spatial_views
    options = drawn_options(arguments.dataset_name, arguments.world_seed, arguments.motion)
    samples = load_splits(
        arguments.dataset_name, arguments.split, arguments.max_samples, limits=arguments.limits, **options
    )
    for split in samples.splits:
        check_class_names(class_names(split), model.config)
    return samples


def drawn_options(name: str, seed: int, motion: str) -> dict[str, Any]:
    """Return the options of a dataset's clips, where they are drawn.

    Raises:
        ValueError: for options of the micro-world, whose clips have no classes.
    """
    if motion != MOTIONS[0]:
        raise ValueError(f"motion must be absent, since clips of the micro-world have no classes, got {motion!r}")
    if name == MICRO_ACTIONS:
        return {"seed": seed}
    if seed:
        raise ValueError(f"world_seed must be 0 where no clip is drawn, as in {name!r}, got {seed}")
    return {}


def encode_clips(samples: Sequence[ActionSample], processor: Any) -> torch.Tensor:
    """Return the views of samples, `(b, views, t, 3, h, w)`."""
    return read_views(samples, processor)


def classify_clips(model: Any, processor: Any, inputs: torch.Tensor, options: Mapping[str, Any]) -> list[Any]:
    """Return the most likely classes of each sample, `{"class", "label", "score"}` each, from the likeliest one on.

    Scores are probabilities, averaged over the views, of which one after the other goes through the model.

    Args:
        inputs: `(b, views, t, 3, h, w)`.
    """
    total = torch.zeros(())
    for view in inputs.unbind(dim=1):
        total = total + class_logits(model, view).float().softmax(dim=-1).cpu()
    scores, classes = (total / inputs.shape[1]).topk(min(NUM_KEPT, total.shape[-1]))
    names = model.config.id2label
    predictions = []
    for row_scores, row_classes in zip(scores.tolist(), classes.tolist(), strict=True):
        row = []
        for score, number in zip(row_scores, row_classes, strict=True):
            row.append({"class": number, "label": names[number], "score": score})
        predictions.append(row)
    return predictions


def class_logits(model: Any, clips: torch.Tensor) -> torch.Tensor:
    """Return the logits of clips, `(b, t, 3, h, w)`; a model of pictures takes clips of one frame."""
    clips = clips.to(model.device, model.dtype)
    if model.main_input_name == "pixel_values":
        return model(pixel_values=clips[:, 0]).logits
    return model(pixel_values_videos=clips).logits


def class_names(samples: Any) -> list[str] | None:
    """Return the names of the classes of a dataset, in the order of their numbers; `None` where it holds none."""
    label = getattr(getattr(samples, "rows", samples), "features", None) or {}
    return getattr(label.get("label"), "names", None)


def check_class_names(names: Sequence[str] | None, config: Any) -> None:
    """Raise a `ValueError` if a model has other classes than a dataset, by number or by name."""
    if names is None:
        return
    own = own_class_names(config) or names
    if len(names) != config.num_labels:
        raise ValueError(f"classes of the model must be {len(names)}, as in the dataset, got {config.num_labels}")
    for number, (wanted, found) in enumerate(zip(names, own, strict=True)):
        if wanted != found:
            raise ValueError(f"class {number} of the model must be {wanted!r}, as in the dataset, got {found!r}")


def own_class_names(config: Any) -> list[str] | None:
    """Return the names of the classes of a model; `None` where transformers has made them up."""
    names = [config.id2label[number] for number in range(config.num_labels)]
    if names == [f"LABEL_{number}" for number in range(config.num_labels)]:
        return None
    return names
