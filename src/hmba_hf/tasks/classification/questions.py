"""What a model is asked about a clip, where the questions come from, and what of them is hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.actions.questioned import ANNOTATION, GENERIC, SOURCES, QuestionedSample, questioned
from ...data.actions.samples import ActionSample
from ...data.samples import SampleSequence

NONE = "none"
QUESTIONS = (NONE, *SOURCES)
"""What can be asked: nothing, or questions of a source."""


def check_asking(source: str, hide_words: bool) -> None:
    """Raise a `ValueError` for an unknown source, or for words to hide in questions that are not of annotations.

    What is hidden depends on the right answers. A mask in a predicted question tells that the prediction is right.
    """
    if source not in QUESTIONS:
        raise ValueError(f"questions must be of {list(QUESTIONS)}, got {source!r}")
    if hide_words and source != ANNOTATION:
        raise ValueError(
            f"hide_words must come with questions {ANNOTATION!r}, got {source!r}: a mask tells of the right answers, "
            "which such questions must not know"
        )


@dataclass(frozen=True)
class Asking:
    """How a model is asked about clips.

    Args:
        source: one of `QUESTIONS`.
        hide_words: whether the words of a clip's other labels are hidden in the question of a head, which comes from
            annotations.
        processor: a `MambaVLProcessor`, which has the generic questions and hides words.
        heads: of the model.
        padding: of the processor.
        classes: names of the classes of the dataset by head, for samples that name their classes by number alone.

    Raises:
        ValueError: as `check_asking`, for words to hide by a tokenizer without a mask, or if the processor has no
            generic question for a head and is to ask it.
    """

    source: str
    hide_words: bool
    processor: Any
    heads: tuple[str, ...]
    padding: bool | str = True
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_asking(self.source, self.hide_words)
        if self.hide_words and self.processor.tokenizer.mask_token is None:
            raise ValueError("hide_words must be False for a tokenizer without a mask_token, got True")
        if self.source == GENERIC:
            for head in self.heads:
                if not (self.processor.questions or {}).get(head):
                    raise ValueError(
                        f"the processor must have a generic question for {head!r}, got {self.processor.questions}: "
                        "give one, or ask questions of another source"
                    )

    @classmethod
    def of(cls, config: Any, processor: Any, source: str, hide_words: bool, classes: Any = None) -> "Asking":
        """Ask as a model was made for; arguments as above.

        Args:
            config: of the model. One that reads padding as text, as the released code does, gets all of it.
        """
        padding = "max_length" if config.ignore_text_mask else True
        return cls(source, hide_words, processor, tuple(config.heads), padding, classes or {})

    def question(self, sample: QuestionedSample, head: str) -> str | None:
        """Return the question of a head about a sample, words hidden; `None` where it has none."""
        if self.source == NONE:
            return None
        if self.source == GENERIC:
            text = self.processor.questions[head]
        else:
            text = sample.questions_from(self.source).get(head)
        if text is None or not self.hide_words:
            return text
        hidden = []
        for other in sample.labels:
            name = self.name_of(sample, other)
            if other != head and name is not None:
                hidden.append(name)
        return self.processor.mask_words(text, hidden)

    def name_of(self, sample: QuestionedSample, head: str) -> str | None:
        """Return the name of the right class of a head; `None` where the class is not known."""
        label = sample.labels.get(head)
        named = sample.label_names.get(head)
        if named is None and label is not None and label < len(self.classes.get(head, ())):
            return self.classes[head][label]
        return named


@dataclass(frozen=True)
class AskedSample:
    """A clip, and what a model is asked about it.

    Args:
        sample: with labels for the heads of the model.
        asking: about it.
    """

    sample: QuestionedSample
    asking: Asking

    @property
    def id(self) -> str:
        """Name of the sample."""
        return self.sample.id

    @property
    def video(self) -> Any:
        """Its video."""
        return self.sample.video

    def texts(self) -> dict[str, str | None]:
        """Return the question of each head, words hidden; `None` where there is none."""
        return {head: self.asking.question(self.sample, head) for head in self.asking.heads}

    def questions(self) -> dict[str, str] | bool:
        """Return the question of each head as the processor takes them, `False` where nothing is asked.

        Raises:
            ValueError: if the sample has no question of the asked source for a head.
        """
        if self.asking.source == NONE:
            return False
        asked = {}
        for head, text in self.texts().items():
            if text is None:
                raise ValueError(
                    f"sample {self.id} must have a question of source {self.asking.source!r} for {head!r}, got none"
                )
            asked[head] = text
        return asked

    def answers(self) -> dict[str, str | None]:
        """Return the name of the right class of each head."""
        return {head: self.asking.name_of(self.sample, head) for head in self.asking.heads}


class AskedSamples(SampleSequence[AskedSample]):
    """The samples of a sequence, each with what a model is asked about it.

    Args:
        samples: `ActionSample`s or `QuestionedSample`s.
        asking: about each.
    """

    def __init__(self, samples: Sequence[Any], asking: Asking):
        self.samples = samples
        self.asking = asking

    @property
    def rows(self) -> Any:
        """Those of a dataset."""
        return getattr(self.samples, "rows", None)

    def __len__(self) -> int:
        return len(self.samples)

    def read_sample(self, index: int) -> AskedSample:
        """Read sample `index`.

        Raises:
            TypeError: if it is a sample of another task, which is a mistake of the whole dataset.
        """
        sample = self.samples[index]
        if not isinstance(sample, ActionSample | QuestionedSample):
            raise TypeError(
                f"sample {sample.id} must be an ActionSample or a QuestionedSample, got a {type(sample).__name__} of "
                "another task"
            )
        return AskedSample(questioned(sample), self.asking)


def labels_by_head(sample: ActionSample | AskedSample) -> Mapping[str, int | None]:
    """Return the numbers of a sample's classes by head."""
    if isinstance(sample, AskedSample):
        return sample.sample.labels
    return questioned(sample).labels


def describe(source: str, hide_words: bool) -> str:
    """Write where questions come from, for results: questions of two descriptions are not scored together."""
    return f"{source}, words of labels hidden" if hide_words else source
