"""A row of the DRAMA schema from pictures on disk, a text and boxes in pixels."""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ...models.decoding_containers import LIMITS, SourceLimits, VideoDecodeError
from ...models.decoding_stills import read_picture, read_picture_header
from ..preparing.converting import MEDIA_MISSING, MEDIA_UNREADABLE, Converted, Entry
from ..preparing.parquet_shards import Dropped
from ..preparing.tables import NO_UNICODE, is_unicode
from ..samples import BOX_MARKER, Box

# The templates of the released code without their placeholder of the picture, which is a part of the message here.
QUESTIONS = (
    "Please tell which object is at the highest risk for the ego car in the image and give coordinates "
    "[x1,y1,x2,y2] for the object you mention.",
    "Analyze which object is most noteworthy for the ego car within the photo and provide bounding box info for the "
    "referenced object.",
)
UNNAMED_OBJECT = "important object"  # the label of a box whose words in the text are not known
JPEG_QUALITY = 95


class EntryError(ValueError):
    """An entry that cannot become a row: a short name of the reason, and the details."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ClipAnnotation:
    """What is at risk in a clip, in a text and boxes.

    Args:
        answer: text in which the i-th `<box>` stands for `boxes[i]`.
        boxes: `(x1, y1, x2, y2)` in pixels of the original frame, any two opposite corners.
        labels: what each box holds.
        risk: whether there is an object at risk.
        tags: names of groups that the clip belongs to.
    """

    fingerprint_name: ClassVar = "Scene"

    answer: str
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    labels: tuple[str, ...] = ()
    risk: bool = True
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        markers = self.answer.count(BOX_MARKER)
        if markers != len(self.boxes) or len(self.labels) != len(self.boxes):
            raise EntryError("boxes_do_not_fit_the_text", f"{markers} places for {len(self.boxes)} boxes")
        for text in (self.answer, *self.labels, *self.tags):
            if not is_unicode(text):
                raise EntryError(NO_UNICODE, ascii(text))


@dataclass(frozen=True)
class ClipConverter:
    """Turns entries whose content is a `ClipAnnotation` into rows.

    Args:
        find_frames: the paths of an entry's pictures, oldest first and current last, and remarks about them; raises
            `EntryError`.
        root: folder of the pictures, which messages leave out.
        height: most rows of a picture; those of the original when absent.
        annotations_only: leave out the pictures, but read the size of the current one.
        tags: write the tags of a clip in a column of their own.
        limits: within which pictures are read.
    """

    find_frames: Callable[[Entry], tuple[list[Path], tuple[str, ...]]]
    root: Path
    height: int | None
    annotations_only: bool
    tags: bool
    limits: SourceLimits = LIMITS

    def __call__(self, entries: Sequence[Entry]) -> list[Converted | Dropped]:
        """Convert each entry by itself."""
        return [self._convert(entry) for entry in entries]

    def _convert(self, entry: Entry) -> Converted | Dropped:
        annotation: ClipAnnotation = entry.content
        try:
            paths, notes = self.find_frames(entry)
            size = read_picture_size(paths[-1], self.limits)
            fitted = [fit_box(box, size) for box in annotation.boxes]
            frames = None
            if self.annotations_only:
                notes = ()
            else:
                frames, size = read_frames(paths, self.height, self.limits)
        except EntryError as error:
            return Dropped(entry.id, error.reason, error.detail.replace(f"{self.root}/", ""))
        boxes = []
        is_any_cut = False
        for box, is_cut in fitted:
            boxes.append(box)
            is_any_cut = is_any_cut or is_cut
        if is_any_cut:
            notes = (*notes, "box_cut_at_the_edge")
        row = _row(entry, boxes, frames, size)
        if self.tags:
            row["tags"] = list(annotation.tags)
        return Converted(row, notes)


def _row(entry: Entry, boxes: Sequence[Box], frames: list[bytes] | None, size: tuple[int, int]) -> dict[str, Any]:
    annotation: ClipAnnotation = entry.content
    pictures = None
    if frames is not None:
        pictures = []
        for number, content in enumerate(frames):
            pictures.append({"bytes": content, "path": f"{entry.id}_{number}.jpg"})
    objects = []
    for box, label in zip(boxes, annotation.labels, strict=True):
        objects.append({"bbox": list(box), "category": label})
    return {
        "id": entry.id,
        "frames": pictures,
        "width": size[0],
        "height": size[1],
        "question": choose_question(entry.id),
        "answer": annotation.answer,
        "caption": annotation.answer.replace(BOX_MARKER, ""),
        "risk": "Yes" if annotation.risk else "No",
        "objects": objects,
    }


def choose_question(name: str) -> str:
    """Choose one of the two released questions, always the same for the same name.

    Differs: the released code draws one at each access.
    """
    return QUESTIONS[zlib.crc32(name.encode()) % len(QUESTIONS)]


def read_number(value: Any) -> float | None:
    """Read a number, or a text of one; `None` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def read_numbers(values: Any) -> list[float] | None:
    """Read a list of what `read_number` reads; `None` for anything else."""
    if not isinstance(values, (list, tuple)):
        return None
    numbers = []
    for value in values:
        number = read_number(value)
        if number is None:
            return None
        numbers.append(number)
    return numbers


def fit_box(corners: Sequence[float], size: tuple[int, int]) -> tuple[Box, bool]:
    """Bring a box from pixels to [0, 1] of a picture of `size` (width, height), and return whether it was cut.

    Args:
        corners: `x, y, x, y` of two opposite corners.

    Raises:
        EntryError: if less than a pixel of it lies in the picture.
    """
    edges = []
    for first, second, length in ((corners[0], corners[2], size[0]), (corners[1], corners[3], size[1])):
        low, high = sorted((first, second))
        inside = max(low, 0.0), min(high, float(length))
        if not inside[1] - inside[0] >= 1:
            raise EntryError("box_empty", f"{list(corners)} in a picture of {size[0]} x {size[1]}")
        edges.append((inside[0] / length, inside[1] / length, inside != (low, high)))
    (x1, x2, cut_x), (y1, y2, cut_y) = edges
    return (x1, y1, x2, y2), cut_x or cut_y


def read_picture_size(path: Path, limits: SourceLimits = LIMITS) -> tuple[int, int]:
    """Width and height of a picture, upright, from its header."""
    return _read(read_picture_header, path, limits).size


def read_frames(
    paths: Sequence[Path], height: int | None, limits: SourceLimits = LIMITS
) -> tuple[list[bytes], tuple[int, int]]:
    """Read pictures as JPEG files, and their size, which must be the same for all.

    A JPEG file that needs no scaling or turning stays as it is.

    Raises:
        EntryError: if a picture is missing, cannot be read, or differs in size.
    """
    read = {path: _read_jpeg(path, height, limits) for path in dict.fromkeys(paths)}
    sizes = {size for _, size in read.values()}
    if len(sizes) > 1:
        raise EntryError(MEDIA_UNREADABLE, f"{paths[-1]} and frames before it differ in size: {sorted(sizes)}")
    return [read[path][0] for path in paths], sizes.pop()


def _read_jpeg(path: Path, height: int | None, limits: SourceLimits) -> tuple[bytes, tuple[int, int]]:
    header = _read(read_picture_header, path, limits)
    small = _read(read_picture, path, limits)
    is_small = height is None or small.height <= height
    if is_small and header.is_plain_jpeg:
        return path.read_bytes(), small.size
    if height is not None and not is_small:
        small = small.resize((max(round(small.width * height / small.height), 1), height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue(), small.size


def _read(reader: Callable[[Path, SourceLimits], Any], path: Path, limits: SourceLimits) -> Any:
    """Read a file by a function of `decoding_stills`, or raise `EntryError`."""
    try:
        return reader(path, limits)
    except FileNotFoundError as error:
        raise EntryError(MEDIA_MISSING, str(path)) from error
    except VideoDecodeError as error:
        raise EntryError(MEDIA_UNREADABLE, str(error)) from error
