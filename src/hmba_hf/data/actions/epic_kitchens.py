"""EPIC-KITCHENS-100: which verb and which noun an action in a kitchen has, while it is seen or before it begins.

The clips are cut out of the videos by the times of the annotations, never by frame numbers. For recognition, a clip is
the annotated segment. For anticipation, it ends some time before the action starts, and none of the action is seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...digests import digest_file
from ...models.sampling_video import LONGEST_ROUNDING, TIME_TOLERANCE
from ..preparing.converting import Converted, Entry, Preparation, RunOptions, prepare, refuse_unused
from ..preparing.cutting import (
    ENDS_WITH_THE_VIDEO,
    Cutting,
    Place,
    Stretch,
    cut_entries,
    segment_problem,
)
from ..preparing.parquet_shards import Dropped
from ..preparing.publishing import CardText
from ..samples import import_datasets
from ..video_options import LocalVideoOptions
from .epic_kitchens_annotations import (
    HEADS,
    Action,
    Groups,
    Questions,
    plan_actions,
    read_classes,
    read_participants,
    read_tail,
)
from .preparing import Problem, VideoIndex
from .question_files import QuestionFile, read_questions
from .questioned import ANNOTATION, PREDICTED, QuestionedSample, questioned_features, to_questioned_row

NOTHING_TO_OBSERVE = "nothing_to_observe"
SHORT_WINDOW = "observes_less_than_the_window"

_ROWS_PER_FILE = 500
_OF_ANTICIPATION = ("anticipation_time", "window")
_ROWS = """\
One row for each action: a clip (`video`), the numbers of its classes by head (`labels`), whose names are in the
features, their names (`label_names`), questions about it (`questions`), and its groups (`tags`). `start` and `stop`
are the annotated seconds of the action in `video_id`, `clip_start` and `clip_end` those of the clip. {task}

Each question has a `head` and a `source`. Those from `annotation` are made of the right answers: what a model scores
with them is an upper bound. Those that are `predicted` come from another model. Generic questions are in no row. See
[EPIC-KITCHENS-100](https://epic-kitchens.github.io) and its paper, arXiv 2006.13256."""
_TASKS = {
    "recognition": "The clip shows the action.",
    "anticipation": (
        "The clip ends {time:g} s before the action starts, shows up to {window:g} s, and nothing of the action."
    ),
}
_LICENCE = """\
The annotations and the videos are copyright of the authors of EPIC-KITCHENS-100 and published under CC BY-NC 4.0: give
credit, link the licence, state what was changed, and no commercial use. Changed here: clips are cut out of the videos,
at a lower rate and size."""
_LIMITS = """\
- For research on the recognition of actions. A few people have recorded themselves in their kitchens and narrated what
  they do: what they have not narrated is missing, and what is rare there is rare here.
- Not for watching people.
"""


@dataclass(kw_only=True)
class EpicKitchensOptions(LocalVideoOptions):
    """Which annotations, questions and videos of EPIC-KITCHENS-100 are prepared, and how."""

    videos: str = field(metadata={"help": "folder of the videos, at any depth, such as P01/videos/P01_01.MP4"})
    verb_classes: str = field(metadata={"help": "EPIC_100_verb_classes.csv"})
    noun_classes: str = field(metadata={"help": "EPIC_100_noun_classes.csv"})
    train_files: list[str] = field(default_factory=list, metadata={"help": "EPIC_100_train.csv"})
    validation_files: list[str] = field(default_factory=list, metadata={"help": "EPIC_100_validation.csv"})
    test_files: list[str] = field(
        default_factory=list, metadata={"help": "EPIC_100_test_timestamps.csv, which needs no labels"}
    )
    task: Literal["recognition", "anticipation"] = field(
        default="recognition", metadata={"help": "show the action, or what is before it"}
    )
    anticipation_time: float = field(
        default=1.0, metadata={"help": "seconds from the end of the clip to the start of the action, above 0"}
    )
    window: float = field(default=2.0, metadata={"help": "most seconds of a clip before an action"})
    annotation_questions: list[str] = field(
        default_factory=list,
        metadata={"help": "CSV or JSON with narration_id, verb_question and noun_question, made of the right answers"},
    )
    predicted_questions: list[str] = field(
        default_factory=list, metadata={"help": "likewise, made of what a model has predicted"}
    )
    label_questions: bool = field(
        default=False, metadata={"help": "make annotation questions of the names of the verb and the noun"}
    )
    validation_unseen: str | None = field(
        default=None, metadata={"help": "EPIC_100_unseen_participant_ids_validation.csv"}
    )
    test_unseen: str | None = field(default=None, metadata={"help": "EPIC_100_unseen_participant_ids_test.csv"})
    tail_verbs: str | None = field(default=None, metadata={"help": "EPIC_100_tail_verbs.csv"})
    tail_nouns: str | None = field(default=None, metadata={"help": "EPIC_100_tail_nouns.csv"})
    fps: float = field(default=30.0, metadata={"help": "pictures a second"})
    height: int = field(default=320, metadata={"help": "most rows of a picture; those of the videos are 1080"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height < 2 or not 0.01 <= self.fps <= 1000:
            raise ValueError(f"height must be at least 2 and fps from 0.01 to 1000, got {self.height} and {self.fps}")
        if self.task not in _TASKS:
            raise ValueError(f"task must be one of {list(_TASKS)}, got {self.task!r}")
        if not LONGEST_ROUNDING < self.anticipation_time < math.inf or not 0 < self.window < math.inf:
            raise ValueError(
                f"anticipation_time must be above {LONGEST_ROUNDING} s, to which times of frames may be rounded, and "
                f"window above 0 s, got {self.anticipation_time} and {self.window}"
            )
        if not self.files:
            raise ValueError("train_files, validation_files or test_files must be given, got none")
        if not Path(self.videos).is_dir():
            raise FileNotFoundError(f"videos must be a folder, got {self.videos!r}")
        if self.task == "recognition":
            refuse_unused(self, _OF_ANTICIPATION, "they belong to the task anticipation")
        if self.annotation_questions:
            refuse_unused(self, ["label_questions"], "files have the annotation questions")
        for split in ("validation", "test"):
            if split not in self.files:
                refuse_unused(self, [f"{split}_unseen"], f"there are no {split}_files")

    @property
    def files(self) -> dict[str, list[str]]:
        """The lists of actions by split."""
        files = {"train": self.train_files, "validation": self.validation_files, "test": self.test_files}
        return {split: paths for split, paths in files.items() if paths}

    @property
    def question_files(self) -> dict[str, list[str]]:
        """The files of questions by source."""
        files = {ANNOTATION: self.annotation_questions, PREDICTED: self.predicted_questions}
        return {source: paths for source, paths in files.items() if paths}

    @property
    def lists(self) -> dict[str, str]:
        """The files of classes and groups that are given, by option."""
        names = ("verb_classes", "noun_classes", "validation_unseen", "test_unseen", "tail_verbs", "tail_nouns")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def place_action(entry: Entry, duration: float) -> Stretch | Dropped:
    """Return the stretch of a video that shows an action; an action that outlasts its video ends with it."""
    action: Action = entry.content
    problem = segment_problem(entry.id, action.start, action.stop, duration)
    if problem is not None:
        return problem
    if action.stop > duration:
        return Stretch(action.start, duration, (ENDS_WITH_THE_VIDEO,))
    return Stretch(action.start, action.stop)


def place_before_action(
    entry: Entry, duration: float, anticipation_time: float, window: float, fps: float
) -> Stretch | Dropped:
    """Return the stretch of a video that is observed before an action, and whose last picture is at its end.

        [start - anticipation_time - window, start - anticipation_time]

    Args:
        entry: of an `Action`.
        duration: seconds of the video. What would lie before it is left out.
        anticipation_time: seconds from the end of the stretch to the start of the action.
        window: most seconds of the stretch.
        fps: of the clip, whose times are counted back from its end.

    Source: Damen et al. 2022, arXiv:2006.13256, section 4.4.
    Differs: the released code of MambaVL ends one or two frames before the start, and never leaves the annotated
    segment, so that it shows the beginning of the action.
    """
    action: Action = entry.content
    problem = segment_problem(entry.id, action.start, action.stop, duration)
    if problem is not None:
        return problem
    end = action.start - anticipation_time
    if end < -TIME_TOLERANCE:
        return Dropped(entry.id, NOTHING_TO_OBSERVE, f"it starts at {action.start:g} s, observed until {end:g} s")
    end = max(end, 0.0)
    start = max(end - window, 0.0)
    pictures = math.floor((end - start) * fps + TIME_TOLERANCE)
    notes: tuple[str, ...] = ()
    if end - window < -TIME_TOLERANCE:
        notes = (SHORT_WINDOW,)
    return Stretch(max(end - pictures / fps, 0.0), end, notes)


def convert_actions(
    entries: Sequence[Entry], index: VideoIndex, place: Place, cutting: Cutting, asked: Sequence[str]
) -> list[Converted | Dropped]:
    """Cut the actions of one video out of it.

    Args:
        entries: each with an `Action`.
        index: of the videos.
        place: returns what is cut for an entry, as in `cut_entries`.
        cutting: how clips are cut.
        asked: sources of which each action should have a question for each head; a note names one that it lacks.
    """
    name = entries[0].media
    path = index.find_one(name)
    if isinstance(path, Problem):
        return [Dropped(entry.id, *path) for entry in entries]
    outcomes: list[Converted | Dropped] = []
    for entry, outcome in zip(entries, cut_entries(entries, path, place, _row, cutting), strict=True):
        if isinstance(outcome, Converted):
            outcome = Converted(outcome.row, (*outcome.notes, *_missing_questions(entry.content, asked)))
        outcomes.append(outcome)
    return outcomes


def _missing_questions(action: Action, asked: Sequence[str]) -> list[str]:
    """Return a note for each head and source without a question; unknown answers make no annotation questions."""
    held = {(question.source, question.head) for question in action.questions}
    notes = []
    for source in asked:
        for head, label in action.labels.items():
            can_be_asked = source != ANNOTATION or label is not None
            if can_be_asked and (source, head) not in held:
                notes.append(f"without_{source}_question_of_{head}")
    return notes


def _row(entry: Entry, stretch: Stretch, clip: bytes) -> dict[str, Any]:
    action: Action = entry.content
    sample = QuestionedSample(
        id=entry.id,
        video=clip,
        labels=action.labels,
        label_names=action.label_names,
        questions=action.questions,
        split=entry.split,
        tags=action.tags,
    )
    return to_questioned_row(sample, f"{entry.id}.mp4") | {
        "video_id": entry.media,
        "participant_id": action.participant_id,
        "narration": action.narration,
        "start": action.start,
        "stop": action.stop,
        "clip_start": stretch.start,
        "clip_end": stretch.end,
    }


def epic_kitchens_features(heads: Mapping[str, Sequence[str]]) -> Any:
    """The `datasets.Features` of a row: those of `questioned_features`, and where the action is from."""
    datasets = import_datasets()
    text = datasets.Value("string")
    seconds = datasets.Value("float64")
    columns = dict.fromkeys(("video_id", "participant_id", "narration"), text)
    columns |= dict.fromkeys(("start", "stop", "clip_start", "clip_end"), seconds)
    return datasets.Features({**questioned_features(heads), **columns})


def prepare_epic_kitchens(options: EpicKitchensOptions, run: RunOptions) -> dict[str, Any]:
    """Prepare EPIC-KITCHENS-100 with these options, and return the report.

    Raises:
        ValueError: if a file is malformed.
        FileNotFoundError: if a file is missing.
        OSError: if the disk is full.
    """
    heads = {"verb": read_classes(options.verb_classes), "noun": read_classes(options.noun_classes)}
    questions = Questions(_read_all_questions(options), options.label_questions)
    asked = list(questions.files)
    if options.label_questions:
        asked.append(ANNOTATION)
    place: Place = place_action
    if options.task == "anticipation":
        place = partial(
            place_before_action,
            anticipation_time=options.anticipation_time,
            window=options.window,
            fps=options.fps,
        )
    cutting = Cutting(options.fps, options.height, options.rules)
    about = _TASKS[options.task].format(time=options.anticipation_time, window=options.window)
    preparation = Preparation(
        plan=plan_actions(options.files, heads, questions, _read_groups(options, heads)),
        convert=partial(convert_actions, index=VideoIndex(options.videos), place=place, cutting=cutting, asked=asked),
        features=epic_kitchens_features(heads),
        settings=_settings(options, asked),
        card=CardText(
            title="EPIC-KITCHENS-100",
            rows=_ROWS.format(task=about),
            licence=_LICENCE,
            tags=("action-recognition", "egocentric", "epic-kitchens"),
            licence_name="cc-by-nc-4.0",
            licence_link="https://creativecommons.org/licenses/by-nc/4.0/",
            task="video-classification",
            program="hmba finetune questions",
            limits=_LIMITS,
        ),
        rows_per_file=run.file_size(_ROWS_PER_FILE, annotations_only=False),
        licence_file=_licence_beside(options.verb_classes),
    )
    return prepare(preparation, run)


def _read_all_questions(options: EpicKitchensOptions) -> dict[str, QuestionFile]:
    read = {}
    for source, paths in options.question_files.items():
        read[source] = read_questions(paths, source, HEADS)
    return read


def _read_groups(options: EpicKitchensOptions, heads: Mapping[str, Sequence[str]]) -> Groups:
    groups = Groups()
    for split, path in (("validation", options.validation_unseen), ("test", options.test_unseen)):
        if path is not None:
            groups.unseen[split] = read_participants(path)
    for head, path in (("verb", options.tail_verbs), ("noun", options.tail_nouns)):
        if path is not None:
            groups.tail[head] = read_tail(path, head, len(heads[head]))
    return groups


def _settings(options: EpicKitchensOptions, asked: Sequence[str]) -> dict[str, Any]:
    """Return what decides about the rows, with the digests of all files."""
    files: dict[str, Any] = {}
    for kind, named in (("actions", options.files), ("questions", options.question_files)):
        for name, paths in named.items():
            files[f"{kind} {name}"] = [digest_file(path) for path in paths]
    for name, path in options.lists.items():
        files[name] = digest_file(path)
    settings = {
        "dataset": "epic-kitchens-100",
        "task": options.task,
        "fps": options.fps,
        "height": options.height,
        "questions": list(asked),
        "label_questions": options.label_questions,
        "files": files,
    }
    if options.task == "anticipation":
        settings |= {"anticipation_time": options.anticipation_time, "window": options.window}
    return settings | options.stated()


def _licence_beside(path: str) -> Path | None:
    beside = Path(path).parent / "license.txt"
    return beside if beside.is_file() else None
