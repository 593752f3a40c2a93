"""Classes of clips, over several views of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ...data.actions.questioned import GENERIC
from ...data.loading import DRAWN
from ...data.micro_world.actions import MICRO_ACTIONS
from ...data.micro_world.questions import MICRO_DRIVING
from ...data.micro_world.world import MOTIONS
from ...evaluation.batches import predict_batches, split_batches
from ...evaluation.predicting import SplitArguments
from ...evaluation.splits import Splits, load_splits
from .encoding import Classified, clip_processor, encode_questions, read_views, reads_questions, takes_clips
from .heads import Heads, check_class_names, dataset_heads
from .questions import QUESTIONS, AskedSamples, Asking
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
    questions: str | None = field(
        default=None,
        metadata={
            "help": "what a model that reads questions is asked: nothing, or those of a source; generic when absent. "
            "Those of annotations are made from the right answers",
            "choices": QUESTIONS,
        },
    )
    hide_words: bool = field(
        default=False, metadata={"help": "hide the words of a clip's other labels in questions of annotations"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_temporal_views < 1:
            raise ValueError(f"num_temporal_views must be at least 1, got {self.num_temporal_views}")

    def recipe(self) -> dict[str, Any]:
        """The options that predictions depend on."""
        names = ["num_temporal_views", "num_spatial_views"]
        if self.questions is not None:
            names += ["questions", "hide_words"]
        if self.dataset_name in DRAWN:
            names.append("world_seed")
        if self.dataset_name == MICRO_DRIVING:
            names.append("motion")
        return {**super().recipe(), **{name: getattr(self, name) for name in names}}


def load_clips(arguments: PredictionArguments, model: Any, processor: Any) -> Splits:
    """Load the clips that options name, and let the processor take as many views of each as they say.

    Where the model is asked questions and the options name no source, they then name the generic ones.

    Raises:
        ValueError: if the classes of a split are not those of the model, if there are to be several views of a
            picture, if questions are named for a model that is asked none, or as `load_splits` and `Asking`.
    """
    num_views = arguments.num_temporal_views * arguments.num_spatial_views
    if num_views > 1 and not takes_clips(processor):
        raise ValueError(f"views of a picture must be 1, got {num_views}")
    views = clip_processor(processor)
    views.num_temporal_views = arguments.num_temporal_views
    views.num_spatial_views = arguments.num_spatial_views
    asks = Heads.of(model.config).asks
    if not asks and (arguments.questions is not None or arguments.hide_words):
        raise ValueError("questions and hide_words must be absent for a model that is asked nothing")
    options = drawn_options(arguments.dataset_name, arguments.world_seed, arguments.motion)
    samples = load_splits(
        arguments.dataset_name, arguments.split, arguments.max_samples, limits=arguments.limits, **options
    )
    for split in samples.splits:
        check_class_names(dataset_heads(split), model.config)
    if not asks:
        return samples
    arguments.questions = arguments.questions or GENERIC
    asked: dict[str, Any] = {}
    for name, split in zip(samples.names, samples.splits, strict=True):
        asking = Asking.of(
            model.config, processor, arguments.questions, arguments.hide_words, classes=dataset_heads(split)
        )
        asked[name] = AskedSamples(split, asking)
    return Splits(asked)


def drawn_options(name: str, seed: int, motion: str) -> dict[str, Any]:
    """Return the options of a dataset's clips, where they are drawn.

    Raises:
        ValueError: for an option that the clips of this dataset do not have.
    """
    if name == MICRO_DRIVING:
        return {"seed": seed, "motion": motion}
    if motion != MOTIONS[0]:
        raise ValueError(f"motion must be absent, since it is of drives with classes alone, got {motion!r}")
    if name in DRAWN:
        return {"seed": seed}
    if seed:
        raise ValueError(f"world_seed must be 0 where no clip is drawn, as in {name!r}, got {seed}")
    return {}


def encode_clips(samples: Sequence[Classified], processor: Any) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the views of samples, `(b, views, t, 3, h, w)`, with their questions where the model is asked any."""
    views = read_views(samples, processor)
    if not reads_questions(processor):
        return views
    return {"pixel_values_videos": views, **encode_questions(samples, processor)}


def classify_clips(
    model: Any, processor: Any, inputs: torch.Tensor | Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> list[Any]:
    """Return the most likely classes of each sample, as `Heads.best` does.

    Scores are probabilities, averaged over the views, of which one after the other goes through the model.

    Args:
        inputs: as `encode_clips` returns them.
    """
    if isinstance(inputs, torch.Tensor):
        inputs = {"pixel_values_videos": inputs}
    views = inputs["pixel_values_videos"]
    questions = {name: values.to(model.device) for name, values in inputs.items() if name != "pixel_values_videos"}
    heads = Heads.of(model.config)
    totals = dict.fromkeys(heads.names, torch.zeros(()))
    for view in views.unbind(dim=1):
        for head, logits in head_logits(model, view, questions).items():
            totals[head] = totals[head] + logits.float().softmax(dim=-1).cpu()
    probabilities = {head: total / views.shape[1] for head, total in totals.items()}
    return heads.best(probabilities, NUM_KEPT)


def predict_clips(
    model: Any, processor: Any, samples: Sequence[Classified], batch_size: int
) -> Iterator[tuple[Classified, Any]]:
    """Yield each sample with its prediction, as `classify_clips` makes it.

    Raises:
        ValueError: if a sample cannot be read.
    """
    encode = partial(encode_clips, processor=processor)
    predict = partial(classify_clips, model, processor, options={})
    batches = split_batches(len(samples), batch_size)
    known: Any = samples  # of either kind, which one sequence of `Sample` is not
    for outcomes in predict_batches(model, known, batches, encode=encode, predict=predict):
        for outcome in outcomes:
            sample: Any = outcome.sample
            yield sample, outcome.prediction


def head_logits(model: Any, clips: torch.Tensor, questions: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the logits of clips, `(b, t, 3, h, w)`, by head; a model of pictures takes clips of one frame.

    Args:
        questions: inputs of the model beside the clips.
    """
    clips = clips.to(model.device, model.dtype)
    if model.main_input_name == "pixel_values":
        output = model(pixel_values=clips[:, 0])
    else:
        output = model(pixel_values_videos=clips, **questions)
    return Heads.of(model.config).logits_of(output)
