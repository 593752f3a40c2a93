"""What a task supplies to the general rooms, which know none."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..metrics.bootstrap import Bootstrap

Record = dict[str, Any]


class Scores(NamedTuple):
    """Scores of a group of records.

    Attributes:
        values: by name.
        intervals: `(low, high)` by name, where they can be drawn.
        absent: why a score is absent, by name.
    """

    values: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    absent: dict[str, str]


class Scorer:
    """Compares the predictions of records with what they should be.

    Args:
        records: without an error.
        bootstrap: how intervals are drawn.

    Attributes:
        absent: why a score is absent from all groups of records, by the name of the score or of a part of the scores.
    """

    def __init__(self, records: Sequence[Record], bootstrap: Bootstrap):
        self.records = records
        self.bootstrap = bootstrap
        self.absent: dict[str, str] = {}

    def score(self, rows: Sequence[int]) -> Scores:
        """Score a group of records, given by their numbers; there is at least one."""
        raise NotImplementedError

    def each(self) -> Sequence[Mapping[str, Any]]:
        """Score every record by itself, `{name: value}` in the order of the records; nothing by default."""
        return [{} for _ in self.records]

    def counts(self) -> Mapping[str, int]:
        """Count records that have something to score, by what it is; nothing by default."""
        return {}

    def details(self) -> Mapping[str, Any]:
        """Return what a summary holds besides scores, such as a table of confusions; nothing by default."""
        return {}

    def settings(self) -> Mapping[str, Any]:
        """Return what the scores depend on besides the records, by the names of `Task.settings`."""
        return {}


def _read_nothing(sample: Any, processor: Any) -> Record:
    """Need nothing of a processor."""
    return {}


def _take_any(record: Record) -> None:
    """Check nothing."""


class CardMetric(NamedTuple):
    """How a card shows a score.

    Attributes:
        kind: the Hub's word for the kind of metric.
        title: the name that people know.
        settings: names of `Task.settings` that it depends on.
    """

    kind: str
    title: str
    settings: tuple[str, ...] = ()


class Task(NamedTuple):
    """What models are for, and how their predictions are made and scored.

    Attributes:
        name: in records.
        hub_task: the Hub's word for it.
        encode: makes the inputs of a batch, of samples and a processor.
        predict: makes the predictions of a batch, values of JSON, of a model, its processor, inputs and options. It
            moves the inputs to the device of the model.
        record: returns what scoring needs of a sample, as plain values; its `task` is the name.
        scorer: makes a `Scorer` of records without an error, how intervals are drawn, and settings by name.
        metrics: scores that a card shows. A score whose name ends in `_` and such a name is that of a part.
        reading: returns what reading a prediction about a sample needs of the processor, as plain values for the
            record; nothing by default.
        check_record: raises a `ValueError` for a record that cannot be scored.
        settings: what scores depend on besides the records: a sentence for people, with `{!r}` for the value, by name.
        versions: returns the versions of what scores depend on besides this package, torch and transformers.
        draw: draws a prediction for a card as an image of Pillow, of a sample that can be read, its prediction, a
            processor and the name of the model's family; `None` for cards without a picture.
        arguments: the class of its options of predictions for splits, a `SplitArguments`; that when absent.
        load: returns the `Splits` that its options name, of the options, a model and its processor, which it may set
            up by the options. It is needed to predict for splits that options name.
    """

    name: str
    hub_task: str
    encode: Callable[[Sequence[Any], Any], Any]
    predict: Callable[[Any, Any, Any, Mapping[str, Any]], Sequence[Any]]
    record: Callable[[Any], Record]
    scorer: Callable[..., Scorer]
    metrics: Mapping[str, CardMetric]
    reading: Callable[[Any, Any], Record] = _read_nothing
    check_record: Callable[[Record], None] = _take_any
    settings: Mapping[str, str] = MappingProxyType({})
    versions: Callable[[], Mapping[str, str | None]] = dict
    draw: Callable[[Any, Any, Any, str], Any] | None = None
    arguments: type | None = None
    load: Callable[[Any, Any, Any], Any] | None = None
