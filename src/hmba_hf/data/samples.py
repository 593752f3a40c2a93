"""One annotated clip, and the dataset rows in which the Hub stores it.

The marker `<box>` in a text is the place of a box. A processor fills in numbers in the box format of its model.
"""

import math
import reprlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, overload

from PIL import Image

from ..files import check_fields
from ..installation import missing_extra
from ..models.decoding_containers import LIMITS, SourceLimits
from ..models.decoding_stills import read_picture, upright, upright_rgb

BOX_MARKER = "<box>"
RISK_QUESTION = "Which object is at the highest risk for the ego car?"
BDDX_QUESTION = "What does the ego car do, and why?"
BDDX_PARTS = ("action", "justification")

Box = tuple[float, float, float, float]


@dataclass
class Sample:
    """One clip with a question, its answer and the boxes that both texts mention.

    Args:
        id: unique name, also used in error messages.
        question, answer: text in which the i-th `<box>`, counted through the question and then the answer, stands
            for `boxes[i]`.
        frames: pictures of one size, oldest first, the last one current; or instead
        video: path or bytes of a video file, with
        timestamp: seconds at which the current frame is shown; the last frame when absent.
        boxes: `(x1, y1, x2, y2)` in [0, 1] of the original frame.
        labels: what each box holds.
        split: `"train"`, `"validation"` or `"test"`.
        size: height and width of the original frame; taken from `frames` where there are any.
        tags: names of its groups, such as `"risk: pedestrian"`. Each group gets scores of its own.
        parts: names of the lines of the answer, such as `("action", "justification")`. Each part gets scores of its
            own, and the last one takes all remaining lines.
        others: boxes of the other objects that an answer could mean, as `boxes`.
    """

    id: str
    question: str
    answer: str
    frames: Sequence[Image.Image] | None = None
    video: str | Path | bytes | None = None
    timestamp: float | None = None
    boxes: Sequence[Box] = ()
    labels: Sequence[str] = ()
    split: str = "train"
    size: tuple[int, int] | None = None
    tags: Sequence[str] = ()
    parts: Sequence[str] = ()
    others: Sequence[Box] = ()

    def __post_init__(self) -> None:
        if not self.id or not self.question:
            raise ValueError(
                f"a sample must have an id and a question, got id={self.id!r}, question={self.question!r}"
            )
        self._check_picture()
        self.boxes = tuple(check_box(box, self.id) for box in self.boxes)
        self.others = tuple(check_box(box, self.id) for box in self.others)
        self.tags = tuple(self.tags)
        self.parts = tuple(self.parts)
        if len(self.labels) != len(self.boxes):
            raise ValueError(
                f"sample {self.id} must have one label for each box, got {len(self.labels)} for {len(self.boxes)}"
            )
        markers = (self.question + self.answer).count(BOX_MARKER)
        if markers != len(self.boxes):
            raise ValueError(
                f"sample {self.id} must have one {BOX_MARKER} for each box, got {markers} for {len(self.boxes)}"
            )

    def _check_picture(self) -> None:
        if (self.frames is None) == (self.video is None):
            found = "none" if self.video is None else "both"
            raise ValueError(f"sample {self.id} must have either frames or a video, got {found}")
        if self.frames is None:
            return
        if self.timestamp is not None:
            raise ValueError(f"sample {self.id} must have a timestamp only with a video, got one with frames")
        self.frames = [upright(frame, name=f"a frame of sample {self.id}") for frame in self.frames]
        sizes = {(frame.height, frame.width) for frame in self.frames}
        if len(sizes) != 1 or self.size not in (None, *sizes):
            raise ValueError(
                f"sample {self.id} must have frames of one size, got {sorted(sizes)} with size={self.size}"
            )
        self.size = sizes.pop()


AnySample = TypeVar("AnySample")


class SampleSequence(Sequence[AnySample]):
    """Samples that are made on demand, by index, also from the end, or several by a slice."""

    @abstractmethod
    def read_sample(self, index: int) -> AnySample:
        """Make sample `index`, from 0 on."""

    @overload
    def __getitem__(self, index: int) -> AnySample: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnySample]: ...
    def __getitem__(self, index: int | slice) -> AnySample | list[AnySample]:
        """Read sample `index`, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self.read_sample(number) for number in range(len(self))[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"an index must be from {-len(self)} to {len(self) - 1}, got {index}")
        return self.read_sample(index % len(self))


def check_box(box: Sequence[float], name: str) -> Box:
    """Return `(x1, y1, x2, y2)` as floats.

    Raises:
        ValueError: naming the sample, if they are not four numbers of a box in the unit square.
    """
    if len(box) != 4 or not all(isinstance(value, Real) and -math.inf < value < math.inf for value in box):
        raise ValueError(f"sample {name}: a box must be four finite numbers, got {list(box)}")
    x1, y1, x2, y2 = box
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(f"sample {name}: a box must have 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1, got {list(box)}")
    return float(x1), float(y1), float(x2), float(y2)


def fill_boxes(text: str, box_texts: Sequence[str]) -> str:
    """Replace the markers of `text` by as many `box_texts`, in order."""
    first, *pieces = text.split(BOX_MARKER)
    if len(pieces) != len(box_texts):
        raise ValueError(f"boxes must be {len(pieces)} for {text!r}, got {len(box_texts)}")
    filled = first
    for box, piece in zip(box_texts, pieces, strict=True):
        filled += box + piece
    return filled


def to_drama_row(sample: Sample) -> dict[str, Any]:
    """Write a sample of frames as a row of the DRAMA schema; it has a risk if it has a box."""
    if sample.frames is None or sample.size is None:
        raise ValueError(f"sample {sample.id} must have frames for a DRAMA row, got a video")
    objects = []
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        objects.append({"bbox": list(box), "category": label})
    return {
        "id": sample.id,
        "frames": list(sample.frames),
        "width": sample.size[1],
        "height": sample.size[0],
        "question": sample.question,
        "answer": sample.answer,
        "caption": sample.answer.replace(BOX_MARKER, ""),
        "risk": "Yes" if objects else "No",
        "objects": objects,
    }


def from_drama_row(row: Mapping[str, Any], split: str = "train", limits: SourceLimits = LIMITS) -> Sample:
    """Read a row of the DRAMA schema, its frames decoded or as `{"bytes", "path"}`, with or without a column `tags`.

    Pictures are read within `limits`.

    Raises:
        ValueError: if the dataset holds annotations only, or if the values of the row do not fit each other.
    """
    _check_drama_row(row)
    pictures = [_to_picture(frame, row["id"], limits) for frame in row["frames"]]
    return _drama_sample(row, split, frames=pictures)


def from_drama_row_without_pictures(row: Mapping[str, Any], split: str = "train") -> Sample:
    """Read a row of the DRAMA schema as in `from_drama_row`, with an empty video in the place of its frames."""
    _check_drama_row(row)
    for frame in row["frames"]:
        check_file(frame, f"row {row['id']}")
    return _drama_sample(row, split, video=b"")


def _drama_sample(row: Mapping[str, Any], split: str, **pictures: Any) -> Sample:
    return Sample(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        boxes=[tuple(item["bbox"]) for item in row["objects"]],
        labels=[item["category"] for item in row["objects"]],
        split=split,
        size=(row["height"], row["width"]),
        tags=row.get("tags") or (),
        **pictures,
    )


def _check_drama_row(row: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the values of a row have the types of the schema."""
    name = f"row {row['id']}"
    check_media(row["frames"], name, "frames")
    lists: Any = (list, tuple)
    texts: Any = {"id": str, "question": str, "answer": str}
    check_fields(dict(row), name, **texts, width=Integral, height=Integral, objects=lists, frames=lists)
    for item in row["objects"]:
        check_fields(item, f"{name}, objects", bbox=lists, category=str)
    check_tags(row, name)


def to_bddx_row(sample: Sample, start: float, end: float) -> dict[str, Any]:
    """Write a sample named `{video_id}_{segment}` as a row of the BDD-X schema.

    The first line of the answer is the action, the second its justification; `start` and `end` are the segment's
    seconds in the original drive.
    """
    video_id, _, segment = sample.id.rpartition("_")
    action, line_break, justification = sample.answer.partition("\n")
    if not video_id or not segment.isdecimal() or not line_break:
        raise ValueError(
            "a BDD-X row must have an id 'video_segment' and an answer of two lines, got "
            f"{sample.id!r}, {sample.answer!r}"
        )
    if sample.video is None:
        raise ValueError(f"sample {sample.id} must have a video for a BDD-X row, got frames")
    if sample.question != BDDX_QUESTION or sample.timestamp is not None or sample.boxes:
        raise ValueError(
            f"sample {sample.id}: a BDD-X row must answer {BDDX_QUESTION!r} at the end of its video without boxes, "
            f"got {sample.question!r}, timestamp={sample.timestamp} and {len(sample.boxes)} boxes"
        )
    content = sample.video
    if not isinstance(content, bytes):
        content = Path(content).read_bytes()
    return {
        "video": {"bytes": content, "path": f"{sample.id}.mp4"},
        "video_id": video_id,
        "segment": int(segment),
        "start": start,
        "end": end,
        "action": action,
        "justification": justification,
    }


def from_bddx_row(row: Mapping[str, Any], split: str = "train") -> Sample:
    """Read a row of the BDD-X schema, its video as `{"bytes", "path"}`, with or without a column `tags`.

    The current frame is the last one of the clip.

    Raises:
        ValueError: if the dataset holds annotations only, or if the row has no name or no answer.
    """
    name = f"row {row['video_id']}_{row['segment']}"
    for key in ("video_id", "segment", "action", "justification"):
        if row[key] is None:
            raise ValueError(f"{name} must have a value for {key!r}, got none")
    check_fields(dict(row), name, video_id=str, segment=Integral, action=str, justification=str)
    check_tags(row, name)
    video = row["video"]
    check_media(video, name, "a video")
    check_file(video, name)
    return Sample(
        id=f"{row['video_id']}_{row['segment']}",
        question=BDDX_QUESTION,
        answer=f"{row['action']}\n{row['justification']}",
        video=file_content(video),
        split=split,
        tags=row.get("tags") or (),
        parts=BDDX_PARTS,
    )


def drama_features(tags: bool = False) -> Any:
    """The `datasets.Features` of the DRAMA schema, with the column `tags` if asked for.

    A `bbox` is `(x1, y1, x2, y2)` in [0, 1] of the original frame. Boxes in prompts and answers lie in [0, 1] of the
    padded square, where `HMBAProcessor.format_boxes` and `parse_boxes` write and read them.
    """
    datasets = import_datasets()
    box = {"bbox": datasets.List(datasets.Value("float32"), length=4), "category": datasets.Value("string")}
    text = datasets.Value("string")
    number = datasets.Value("int32")
    columns = {
        "id": text,
        "frames": datasets.List(datasets.Image()),
        "width": number,
        "height": number,
        "question": text,
        "answer": text,
        "caption": text,
        "risk": datasets.ClassLabel(names=["No", "Yes"]),
        "objects": datasets.List(box),
    }
    if tags:
        columns["tags"] = datasets.List(text)
    return datasets.Features(columns)


def bddx_features() -> Any:
    """The `datasets.Features` of the BDD-X schema; the video stays undecoded bytes."""
    datasets = import_datasets()
    text = datasets.Value("string")
    seconds = datasets.Value("float32")
    return datasets.Features(
        {
            "video": datasets.Video(decode=False),
            "video_id": text,
            "segment": datasets.Value("int32"),
            "start": seconds,
            "end": seconds,
            "action": text,
            "justification": text,
        }
    )


def import_datasets() -> Any:
    """Import the `datasets` library, or raise an `ImportError` with the command that installs it."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("reading or writing dataset rows needs", "train") from error
    return datasets


def check_media(media: Any, name: str, kind: str) -> None:
    """Raise `ValueError` if a row was prepared without its pictures or its video."""
    if media is None:
        raise ValueError(f"{name} must hold {kind}, got none: its dataset was prepared with annotations only")


def check_file(file: Any, name: str) -> None:
    """Raise `ValueError` unless a file of a row is `{"bytes", "path"}` with one of them."""
    held = file if isinstance(file, Mapping) else {}
    content = held.get("bytes")
    if not isinstance(content, bytes) and not (content is None and isinstance(held.get("path"), str)):
        raise ValueError(f"{name} must have files with 'bytes' or a 'path', got {reprlib.repr(file)}")


def check_tags(row: Mapping[str, Any], name: str) -> None:
    """Raise `ValueError` unless the tags of a row, if it has any, are texts."""
    tags = row.get("tags") or ()
    if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{name} must have a list of texts as tags, got {tags!r}")


def _to_picture(frame: Any, name: str, limits: SourceLimits) -> Image.Image:
    check_media(frame, f"row {name}", "a picture for each frame")
    if not isinstance(frame, Image.Image):
        check_file(frame, f"row {name}")
        return read_picture(file_content(frame), limits)
    return upright_rgb(frame, limits)


def file_content(file: Mapping[str, Any]) -> Any:
    """Return the bytes of a row's file, or its path where there are none."""
    if file.get("bytes") is None:
        return file["path"]
    return file["bytes"]
