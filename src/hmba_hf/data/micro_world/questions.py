"""Drawn clips with a class for each of two heads, and questions about them.

`micro-questions` shows the disc of `micro-actions` in one colour and grey. The head `verb` names what it does, the
head `noun` what it is. Both are drawn evenly and, as long as `bond` is 0, apart from each other. So the best score of
a weaker observer is known by construction:

| observer                                     | verb | noun |
|----------------------------------------------|------|------|
| nothing                                      | 1/10 | 1/5  |
| one frame                                    | 1/10 | 1    |
| all frames, in unknown order                 | 1/2  | 1    |
| frames in order                              | 1    | 1    |
| the annotation question of the head, no clip | 2/5  | 1/5  |

`micro-driving` shows the drives of the micro-world. The head `action` names what the ego car does, the head `reason`
why, as in BDD-X. One of five events is drawn evenly; two of them share an action:

| observer                                     | action | reason |
|----------------------------------------------|--------|--------|
| nothing, or the current frame                | 2/5    | 1/5    |
| frames in order                              | 1      | 1      |
| the annotation question of the head, no clip | 1      | 4/5    |

Questions differ by source, as those of real datasets do:

- annotation questions are made from the right classes. That of one head has the words of the other head's class in it.
  That of a verb also has a form that fits the answer: one for verbs of moving, and one for each other pair. Hidden
  words leave the form as it is, and with it the 2/5 of the table.
- predicted questions are made alike, from the classes that a predictor with a known share of errors names.

Generic questions, in `GENERIC_QUESTIONS`, are the same for every clip and belong to a processor.

Results here do not transfer to real videos.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..actions.questioned import ANNOTATION, PREDICTED, Question, QuestionedSample, questioned_features
from ..samples import SampleSequence
from .actions import ACTION_NAMES, MicroActions, MicroActionsConfig, draw_scene
from .drawing import COLOURS
from .world import EGO_EVENTS, MicroWorld

MICRO_QUESTIONS = "micro-questions"
MICRO_DRIVING = "micro-driving"
PREDICTOR_ERRORS = 0.3
"""The share of wrong classes of the predictor that questions are made from, unless another one is asked for."""

DISC_COLOURS = ("red", "blue", "green", "yellow", "white")
"""The colours of discs in the order of their nouns: as many as there are pairs of opposite actions."""

HEADS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MICRO_QUESTIONS: {"verb": ACTION_NAMES, "noun": tuple(f"{colour} disc" for colour in DISC_COLOURS)},
    MICRO_DRIVING: {
        "action": tuple(dict.fromkeys(event.action.removeprefix("The car ") for event in EGO_EVENTS.values())),
        "reason": tuple(
            event.justification.removeprefix("because ").format(lead="vehicle", pedestrian="pedestrian")
            for event in EGO_EVENTS.values()
        ),
    },
}
"""The names of the classes by dataset and head, in the order of their numbers."""

GENERIC_QUESTIONS: Mapping[str, Mapping[str, str]] = {
    MICRO_QUESTIONS: {"verb": "What does the disc do?", "noun": "Which disc is it?"},
    MICRO_DRIVING: {"action": "What does the ego car do?", "reason": "Why?"},
}
"""A question for each head by dataset, which says nothing about the clip."""

_GREY = (128, 128, 128)
_VERB_QUESTIONS = {
    "moves": "Which way does the {noun} go?",
    "grows": "How does the size of the {noun} change?",
    "shrinks": "How does the size of the {noun} change?",
    "turns": "In which sense does the {noun} spin?",
    "starts": "What does the {noun} do halfway?",
    "stops": "What does the {noun} do halfway?",
}  # by the first word of the verb


class MicroQuestions(SampleSequence[QuestionedSample]):
    """Clips of one split of `micro-questions`.

    With the same versions of numpy and pillow, the same arguments and an index give the same clip.

    Args:
        config: of the clips.
        split: `"train"`, `"validation"` or `"test"`.
        size: number of clips.
        bond: share of clips whose colour is that of their verb, instead of any: red discs move left or right, blue
            ones up or down, and so on. Colours and verbs come as often as without, and each hints at the other.
        predictor_errors: share of classes that the predictor has wrong, each head for itself.

    Raises:
        ValueError: if a share is not in [0, 1], or for an unknown split or size.
    """

    def __init__(
        self,
        config: MicroActionsConfig | None = None,
        split: str = "train",
        size: int = 1000,
        bond: float = 0.0,
        predictor_errors: float = PREDICTOR_ERRORS,
    ):
        self.clips = MicroActions(config, split, size)
        self.bond = _share("bond", bond)
        self.predictor_errors = _share("predictor_errors", predictor_errors)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def features(self) -> Any:
        """The `datasets.Features` of its rows, which name the classes of its heads."""
        return questioned_features(HEADS[MICRO_QUESTIONS])

    def read_sample(self, index: int) -> QuestionedSample:
        """Read clip `index` with the classes that are drawn for it."""
        return self.questioned_sample(index, *self._labels(index))

    def questioned_sample(self, index: int, verb: int, noun: int) -> QuestionedSample:
        """Read clip `index` with a verb and a noun, by their numbers; all else is as in its own clip.

        Raises:
            ValueError: for a number of no class.
        """
        heads = HEADS[MICRO_QUESTIONS]
        labels = {"verb": verb, "noun": noun}
        for head, label in labels.items():
            if not 0 <= label < len(heads[head]):
                raise ValueError(f"{head} must be from 0 to {len(heads[head]) - 1}, got {label}")
        scene = draw_scene(self.clips.rng(index, "scene"))
        colour = COLOURS[DISC_COLOURS[noun]]
        background = next(drawn for drawn in scene.colours if drawn != colour)
        return _asked(
            MICRO_QUESTIONS,
            labels,
            _predict(MICRO_QUESTIONS, labels, self.clips.rng(index, "prediction"), self.predictor_errors),
            id=f"{self.clips.split}-question-{self.clips.config.seed}-{index:06d}",
            video=self.clips.draw(index, ACTION_NAMES[verb], scene._replace(colours=(background, colour, _GREY))),
            split=self.clips.split,
        )

    def _labels(self, index: int) -> tuple[int, int]:
        """The verb and the noun of a clip; without a bond, as many clips as there are pairs have each of them once."""
        number = len(ACTION_NAMES) * len(DISC_COLOURS)
        pair = int(self.clips.rng(index // number, "label").permutation(number)[index % number])
        verb, noun = divmod(pair, len(DISC_COLOURS))
        if self.clips.rng(index, "bond").random() < self.bond:
            noun = verb // 2  # opposite verbs are neighbours
        return verb, noun


class MicroDriving(SampleSequence[QuestionedSample]):
    """The drives of a micro-world, each with what the ego car does and why.

    Args:
        world: whose ego clips are drawn.
        predictor_errors: share of events that the predictor has wrong.

    Raises:
        ValueError: if the share is not in [0, 1].
    """

    def __init__(self, world: MicroWorld, predictor_errors: float = PREDICTOR_ERRORS):
        self.world = world
        self.predictor_errors = _share("predictor_errors", predictor_errors)

    def __len__(self) -> int:
        return len(self.world)

    @property
    def features(self) -> Any:
        """The `datasets.Features` of its rows, which name the classes of its heads."""
        return questioned_features(HEADS[MICRO_DRIVING])

    def read_sample(self, index: int) -> QuestionedSample:
        """Read drive `index` with the event that is drawn for it."""
        names = list(EGO_EVENTS)
        block, place = divmod(index, len(names))
        event = int(self.world.rng(block, "event").permutation(len(names))[place])
        predicted = _mistake(self.world.rng(index, "prediction"), event, len(names), self.predictor_errors)
        drive = self.world.ego_sample(index, names[event])
        return _asked(
            MICRO_DRIVING,
            _driving_labels(event),
            _driving_labels(predicted),
            id=drive.id,
            video=tuple(drive.frames or ()),
            split=drive.split,
        )


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share from 0 to 1, got {value!r}")
    return float(value)


def _driving_labels(event: int) -> dict[str, int]:
    """The classes of an event: each has its own reason."""
    action = list(EGO_EVENTS.values())[event].action.removeprefix("The car ")
    return {"action": HEADS[MICRO_DRIVING]["action"].index(action), "reason": event}


def _predict(dataset: str, labels: Mapping[str, int], rng: np.random.Generator, errors: float) -> dict[str, int]:
    """The classes that the predictor names."""
    predicted = {}
    for head, label in labels.items():
        predicted[head] = _mistake(rng, label, len(HEADS[dataset][head]), errors)
    return predicted


def _mistake(rng: np.random.Generator, label: int, number: int, errors: float) -> int:
    """The label, or in a share of draws another one of `number` classes, each as likely."""
    is_wrong = rng.random() < errors
    step = int(rng.integers(1, number))
    if is_wrong:
        return (label + step) % number
    return label


def _asked(dataset: str, labels: Mapping[str, int], predicted: Mapping[str, int], **values: Any) -> QuestionedSample:
    """A sample with the names of its classes, and with a question of each source for each head."""
    ask = ask_about_disc if dataset == MICRO_QUESTIONS else ask_about_drive
    questions = []
    for source, classes in ((PREDICTED, predicted), (ANNOTATION, labels)):
        for head, text in ask(**class_names(dataset, classes)).items():
            questions.append(Question(head, source, text))
    return QuestionedSample(
        labels=dict(labels), label_names=class_names(dataset, labels), questions=tuple(questions), **values
    )


def class_names(dataset: str, labels: Mapping[str, int]) -> dict[str, str]:
    """Return the names of classes by head."""
    return {head: HEADS[dataset][head][label] for head, label in labels.items()}


def ask_about_disc(verb: str, noun: str) -> dict[str, str]:
    """Return a question for each head of `micro-questions` that fits a verb and a noun."""
    form = _VERB_QUESTIONS[verb.split()[0]]
    return {"verb": form.format(noun=noun), "noun": f"What {verb}?"}


def ask_about_drive(action: str, reason: str) -> dict[str, str]:
    """Return a question for each head of `micro-driving` that fits an action and a reason."""
    return {"action": f"What does the ego car do when {reason}?", "reason": f"Why is it that the car {action}?"}
