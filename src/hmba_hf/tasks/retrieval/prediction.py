"""Ranks of a split's pairs, for files of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.samples import SampleSequence
from ...evaluation.predicting import SplitArguments
from ...evaluation.splits import Splits, load_splits
from .gallery import build_gallery, rank_pairs, reranked


@dataclass
class PredictionArguments(SplitArguments):
    """Which model retrieves among which pairs of videos and texts."""

    num_read: int = field(
        default=128,
        metadata={"help": "best items of each query that are read together with it; 0 compares features alone"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_read < 0:
            raise ValueError(f"num_read must be 0 or more, got {self.num_read}")
        self.found: dict[str, dict[str, Any]] = {}  # predictions by split and id

    def options(self) -> dict[str, Any]:
        """The options of `look_up_ranks`."""
        return {"found": self.found}

    def recipe(self) -> dict[str, Any]:
        """The options that predictions depend on; a rank depends on all pairs of its split."""
        return {**super().recipe(), "num_read": self.num_read, "on_error": self.on_error}


class ReadPairs(SampleSequence[Any]):
    """The samples of a split, of which some could not be read before.

    Args:
        samples: of the split.
        errors: by their index.
    """

    def __init__(self, samples: Sequence[Any], errors: Mapping[int, Exception]):
        self.samples = samples
        self.errors = errors

    @property
    def rows(self) -> Any:
        """The rows of the dataset, if it has any."""
        return getattr(self.samples, "rows", None)

    def __len__(self) -> int:
        return len(self.samples)

    def read_sample(self, index: int) -> Any:
        """Read sample `index`, or raise the error that it had before."""
        if index in self.errors:
            raise self.errors[index]
        return self.samples[index]


def load_pairs(arguments: PredictionArguments, model: Any, processor: Any) -> Splits:
    """Load the pairs that options name, and rank those of each split among one another.

    Raises:
        ValueError: if a pair cannot be read and is not to be skipped, or as `load_splits`.
    """
    splits = load_splits(arguments.dataset_name, arguments.split, arguments.max_samples, limits=arguments.limits)
    was_training = model.training
    model.eval()
    read = {}
    for name, samples in zip(splits.names, splits.splits, strict=True):
        gallery = build_gallery(
            model,
            processor,
            samples,
            arguments.batch_size,
            on_error=arguments.on_error,
            reads_together=arguments.num_read > 0,
        )
        if not gallery.ids:
            first = next(iter(gallery.errors.values()))
            raise ValueError(f"{name!r} must have a pair that can be read, got none: {first}")
        scores = gallery.similarities()
        of_features = rank_pairs(gallery, scores, scores.T)
        both = {"features": of_features}
        if arguments.num_read:
            to_texts, to_videos = reranked(model, gallery, scores, arguments.num_read, arguments.batch_size)
            both["read"] = rank_pairs(gallery, to_texts, to_videos)
        for row, sample_id in enumerate(gallery.ids):
            arguments.found[f"{name}/{sample_id}"] = {way: ranks[row] for way, ranks in both.items()}
        read[name] = ReadPairs(samples, gallery.errors)
    model.train(was_training)
    return Splits(read)


def encode_ids(samples: Sequence[Any], processor: Any) -> list[str]:
    """Return the names under which `load_pairs` has put what it found for samples."""
    return [f"{sample.split}/{sample.id}" for sample in samples]


def look_up_ranks(model: Any, processor: Any, inputs: Sequence[str], options: Mapping[str, Any]) -> list[Any]:
    """Return what was found for pairs, by `features` and, read together, by `read`; see `rank_pairs`."""
    return [options["found"][name] for name in inputs]
