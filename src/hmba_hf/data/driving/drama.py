"""DRAMA: which object in a two-second clip is a risk for the ego car, where it is, and why.

The raw download is `integrated_output_v2.json`, a list with one entry for each clip, and a folder `combined` with the
clips' frames; the box of an entry belongs to the key frame that it names. The intention of the ego car, which entries
hold too, has no place in the schema; the suggestion to it can become a tag.

Source: the official loader, a copy of which is `drama.py` in github.com/Sranc3/H-MBA at 9a8645d.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ...digests import digest_file
from ...files import parse_json
from ..preparing.converting import (
    MEDIA_MISSING,
    Entry,
    Plan,
    Preparation,
    RunOptions,
    name_differently,
    prepare,
    refuse_unused,
)
from ..preparing.finding import is_inside
from ..preparing.parquet_shards import Dropped
from ..preparing.publishing import CardText
from ..samples import BOX_MARKER, drama_features
from ..video_options import PictureOptions
from .drama_rows import UNNAMED_OBJECT, ClipAnnotation, ClipConverter, EntryError, read_numbers
from .released_layout import find_released_frames, plan_sentences

NO_RISK_ANSWER = "No object is at risk."

_ROWS_PER_FILE = 100
_FRAME_NAME = re.compile(r"frame_(\d+)\.png")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|had|will|may|might|can|could|would|should)\b", re.IGNORECASE)
_NO_SUBJECT = re.compile(
    r"[,;:()]|^(?:the )?ego\b|^(?:this|these|those)$|\b(?:and|or|but|to|of|in|on|at|by|with|from|for|than)$"
    r"|\b(?:as|because|since|when|where|while|if|so|that|which|who|whose|there|it|they|he|she|we)\b",
    re.IGNORECASE,
)
_MOST_WORDS = 12
_CARD = CardText(
    title="DRAMA",
    rows=(
        "One row for each clip: frames of it, the last one current, a question, an answer in which `<box>` stands "
        "for the box of what is at risk, and that box as fractions of the frame. See "
        "[DRAMA](https://usa.honda-ri.com/drama)."
    ),
    licence=(
        "DRAMA is given by the Honda Research Institute on request, to universities and for non-commercial research; "
        "no right to pass on its pictures or annotations is known to us."
    ),
    tags=("driving", "drama"),
    licence_name="drama",
    licence_link="https://usa.honda-ri.com/drama",
)


@dataclass
class DramaOptions(PictureOptions):
    """Which annotations and pictures of DRAMA are prepared, and how."""

    images: str = field(metadata={"help": "folder that holds `combined`, or the pictures of the released layout"})
    annotations: str | None = field(default=None, metadata={"help": "integrated_output_v2.json"})
    split_rule: Literal["official", "captioned"] = field(
        default="official",
        metadata={
            "help": "70/15/15 by order, of entries with risk, caption and box, or of those with caption and gif"
        },
    )
    keep_without_risk: bool = field(
        default=False,
        metadata={"help": "keep entries whose Risk is No, without a box; `captioned` counts them anyway"},
    )
    num_frames: int = field(default=5, metadata={"help": "frames of a clip, the current one included"})
    frame_step: int | None = field(
        default=None, metadata={"help": "frames from one to the next; spread over the whole clip when absent"}
    )
    height: int | None = field(default=None, metadata={"help": "most rows of a picture; the original's when absent"})
    annotations_only: bool = field(default=False, metadata={"help": "leave out the pictures"})
    tags: bool = field(
        default=False,
        metadata={
            "help": "add a column `tags` with the suggestion to the ego car, by which `hmba evaluate` splits scores"
        },
    )
    train_file: str | None = field(
        default=None, metadata={"help": "lines in the released layout, without annotations"}
    )
    validation_file: str | None = field(default=None, metadata={"help": "likewise"})
    test_file: str | None = field(default=None, metadata={"help": "likewise"})

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_step", "height"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not Path(self.images).is_dir():
            raise FileNotFoundError(f"images must be a folder of pictures, got {self.images!r}")
        if self.annotations_only:
            names = ["num_frames", "frame_step", "height"]
            refuse_unused(self, names, "annotations_only leaves the pictures out")
        if self.split_rule == "captioned":
            refuse_unused(self, ["keep_without_risk"], "split_rule captioned keeps what has caption and gif")
        if (self.annotations is None) == (not self.released_files):
            found = "neither" if self.annotations is None else "both"
            raise ValueError(
                f"either annotations or files of the released layout, such as train_file, must be given, got {found}"
            )
        if self.released_files:
            names = ["split_rule", "keep_without_risk", "frame_step", "tags"]
            refuse_unused(self, names, "files of the released layout have their splits and frames and no suggestions")

    @property
    def released_files(self) -> dict[str, str]:
        """The files of the released layout, by split."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in files.items() if path is not None}


@dataclass(frozen=True)
class _SplitRule:
    """Which entries are counted, and where in their order validation and test begin."""

    problem: Callable[["_Annotation"], str | None]
    cuts: Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class _Annotation:
    """The fields of one raw entry that matter; `key_frame` is the path below `combined`."""

    key_frame: str | None
    reference: str
    risk: str
    caption: str
    geometry: tuple[Any, ...]
    suggestion: str


def _official_problem(annotation: _Annotation) -> str | None:
    if annotation.risk == "no":
        return "no_risk"
    if not annotation.caption:
        return "no_caption"
    if not annotation.geometry:
        return "no_box"
    return None


def _captioned_problem(annotation: _Annotation) -> str | None:
    if not annotation.caption:
        return "no_caption"
    if not annotation.reference.endswith(".gif"):
        return "no_gif"
    return None


# Products and not fractions, which gives the rounding of the originals.
# Differs: the official loader leaves out missing files before it counts. Here the split of an entry does not depend on
# how much has been downloaded.
# Source of `captioned`: the preparation of DRAMA in a copy of SwinBERT's repository.
SPLIT_RULES = {
    "official": _SplitRule(_official_problem, lambda n: (int(0.7 * n), int(0.85 * n))),
    "captioned": _SplitRule(_captioned_problem, lambda n: (int(n * 0.7), int(n * 0.7) + int(n * 0.15))),
}


def read_annotations(path: str | Path) -> list[Any]:
    """Read `integrated_output_v2.json`.

    Raises:
        ValueError: if it is no list in JSON.
    """
    try:
        entries = parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path} must hold a list of entries, got {type(entries).__name__}")
    return entries


def plan_clips(entries: Sequence[Any], split_rule: str, keep_without_risk: bool) -> Plan:
    """Put raw entries into splits, and list those that become no row.

    A kept entry that the rule does not count has the split of its neighbours.
    """
    rule = SPLIT_RULES[split_rule]
    annotations = [_read_annotation(entry) for entry in entries]
    counted = []
    for annotation in annotations:
        counted.append(annotation is not None and rule.problem(annotation) is None)
    validation, test = rule.cuts(sum(counted))
    planned: list[Entry] = []
    dropped: list[Dropped] = []
    taken: Counter[str] = Counter()
    before = 0
    for number, (annotation, counts) in enumerate(zip(annotations, counted, strict=True)):
        split = "train"
        if before >= test:
            split = "test"
        elif before >= validation:
            split = "validation"
        before += counts
        name = f"record {number}"
        try:
            if annotation is None:
                raise EntryError("record_malformed", "it is no object of names and values")
            key_frame = _key_frame(annotation)
            name = name_differently("_".join(PurePosixPath(key_frame).with_suffix("").parts), taken)
            content = _clip_annotation(annotation, rule, keep_without_risk)
            planned.append(Entry(name, split, key_frame, content))
        except EntryError as error:
            dropped.append(Dropped(name, error.reason, error.detail))
    return Plan(len(entries), planned, dropped)


def _read_annotation(entry: Any) -> _Annotation | None:
    if not isinstance(entry, Mapping):
        return None
    url = str(entry.get("s3_fileUrl") or "")
    path = PurePosixPath(url.partition("/combined/")[2])
    is_frame = len(path.parts) > 1 and is_inside(path) and _FRAME_NAME.fullmatch(path.name)
    geometry = entry.get("geometry") or ()
    if not isinstance(geometry, (list, tuple)):
        geometry = (geometry,)
    return _Annotation(
        key_frame=str(path) if is_frame else None,
        reference=str(entry.get("s3_instructionReference") or ""),
        risk=str(entry.get("Risk") or "").strip().lower(),
        caption=_text(entry, "Caption"),
        geometry=tuple(geometry),
        suggestion=_text(entry, "Suggestions (to the ego car)"),
    )


def _text(entry: Mapping[str, Any], name: str) -> str:
    """Read a text without stray spaces; an empty one where there is none."""
    text = " ".join(str(entry.get(name) or "").split())
    if text.upper() == "N/A":
        return ""
    return text


def _key_frame(annotation: _Annotation) -> str:
    if annotation.key_frame is None:
        raise EntryError("key_frame_unknown", "s3_fileUrl does not end in /combined/.../frame_<number>.png")
    return annotation.key_frame


def _clip_annotation(annotation: _Annotation, rule: _SplitRule, keep_without_risk: bool) -> ClipAnnotation:
    if annotation.risk not in ("yes", "no"):
        raise EntryError("risk_unknown", f"Risk is {annotation.risk!r}, neither yes nor no")
    if annotation.caption.count(BOX_MARKER):
        raise EntryError("caption_holds_a_marker", annotation.caption)
    problem = rule.problem(annotation)
    if problem is not None and not (problem == "no_risk" and keep_without_risk):
        raise EntryError(problem, f"left out by the split rule: {annotation.caption or 'no caption'}")
    tags: tuple[str, ...] = ()
    if annotation.suggestion:
        tags = (f"suggestion: {annotation.suggestion}",)
    if annotation.risk == "no":
        return ClipAnnotation(annotation.caption or NO_RISK_ANSWER, risk=False, tags=tags)
    if not annotation.geometry:
        return ClipAnnotation(annotation.caption, tags=tags)
    answer, label = mark_subject(annotation.caption)
    return ClipAnnotation(answer, (_corners(annotation.geometry),), (label,), tags=tags)


def _corners(geometry: Sequence[Any]) -> tuple[float, float, float, float]:
    """Read the diagonal of a box, points 0 and 2, whose numbers may be strings."""
    corners: list[float] = []
    for point in geometry[0:3:2]:
        numbers = read_numbers(point) or []
        corners += numbers[:2]
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise EntryError("box_malformed", f"geometry is {list(geometry)!r}")
    x1, y1, x2, y2 = corners
    return x1, y1, x2, y2


def mark_subject(caption: str) -> tuple[str, str]:
    """Put `<box>` into a caption, and return the label of the box with it.

    DRAMA does not annotate which words the box belongs to. Where the caption is `{subject} {is, are, may, ...} ...`
    with a plain subject other than the ego car, the subject is the label and the marker stands behind it. The released
    layout marks such captions in the same place. Otherwise the marker stands before the final punctuation.
    """
    verb = _VERB.search(caption)
    subject = ""
    if verb is not None:
        subject = caption[: verb.start()].rstrip()
    if subject and len(subject.split()) <= _MOST_WORDS and not _NO_SUBJECT.search(subject):
        return f"{subject}{BOX_MARKER}{caption[len(subject) :]}", subject
    text = caption.rstrip(" .!?")
    return f"{text}{BOX_MARKER}{caption[len(text) :]}", UNNAMED_OBJECT


def choose_frames(numbers: Sequence[int], key: int, num_frames: int, frame_step: int | None) -> list[int]:
    """Choose frames of a clip, oldest first, that end at its key frame.

    They are `frame_step` frames apart, or spread over all that the clip has up to the key frame. Where there are too
    few, the first one is repeated. How the authors of H-MBA chose their five frames is not known.

    Args:
        numbers: of the existing frames, `key` among them.
    """
    past = sorted(number for number in numbers if number <= key)
    last = len(past) - 1
    chosen = []
    for step in reversed(range(num_frames)):
        if frame_step is None and last + 1 >= num_frames:
            place = last - last * step // max(num_frames - 1, 1)
        else:
            place = max(last - step * (frame_step or 1), 0)
        chosen.append(past[place])
    return chosen


@dataclass(frozen=True)
class _RawFrames:
    """Finds the frames of a raw entry in the folder of its clip."""

    combined: Path
    num_frames: int
    frame_step: int | None

    def __call__(self, entry: Entry) -> tuple[list[Path], tuple[str, ...]]:
        key_frame = self.combined / entry.media
        match = _FRAME_NAME.fullmatch(key_frame.name)
        if match is None or not key_frame.is_file():
            raise EntryError(MEDIA_MISSING, entry.media)
        by_number: dict[int, Path] = {}
        for path in key_frame.parent.iterdir():
            name = _FRAME_NAME.fullmatch(path.name)
            if name is not None:
                by_number[int(name[1])] = path
        chosen = choose_frames(
            list(by_number), key=int(match[1]), num_frames=self.num_frames, frame_step=self.frame_step
        )
        notes: tuple[str, ...] = ()
        if len(set(chosen)) < len(chosen):
            notes = ("first_frame_repeated",)
        return [by_number[number] for number in chosen], notes


def prepare_drama(options: DramaOptions, run: RunOptions) -> dict[str, Any]:
    """Prepare DRAMA with these options, and return the report.

    Raises:
        ValueError: if the input is malformed.
        FileNotFoundError: if the input is missing.
        OSError: if the disk is full.
    """
    images = Path(options.images)
    settings: dict[str, Any] = {"dataset": "drama", "annotations_only": options.annotations_only}
    settings |= {"num_frames": options.num_frames, "height": options.height} | options.stated()
    if options.annotations is not None:
        settings |= {"layout": "raw", "files": {"annotations": digest_file(options.annotations)}}
        settings |= {"split_rule": options.split_rule, "keep_without_risk": options.keep_without_risk}
        settings |= {"frame_step": options.frame_step, "tags": options.tags}
        entries = read_annotations(options.annotations)
        plan = plan_clips(entries, options.split_rule, options.keep_without_risk)
        root = images / "combined"
        if not root.is_dir():
            root = images
        find_frames: Any = _RawFrames(root, options.num_frames, options.frame_step)
    else:
        files = {split: digest_file(path) for split, path in options.released_files.items()}
        settings |= {"layout": "released", "files": files}
        plan = plan_sentences(options.released_files)
        root = images
        find_frames = find_released_frames(images, options.num_frames)
    preparation = Preparation(
        plan=plan,
        convert=ClipConverter(
            find_frames=find_frames,
            root=root,
            height=options.height,
            annotations_only=options.annotations_only,
            tags=options.tags,
            limits=options.limits,
        ),
        features=drama_features(options.tags),
        settings=settings,
        card=_CARD,
        rows_per_file=run.file_size(_ROWS_PER_FILE, options.annotations_only),
    )
    return prepare(preparation, run)
