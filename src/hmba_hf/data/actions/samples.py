"""One video with the class of its action, and the dataset row in which the Hub stores it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from PIL import Image

from ...files import check_fields
from ..samples import check_file, check_media, check_tags, file_content, import_datasets

Video = str | Path | bytes | tuple[Image.Image, ...]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ActionSample:
    """One video and the class of the action that it shows.

    Args:
        id: unique name, also used in error messages.
        video: path or bytes of a video file, or its frames, oldest first, of one size.
        label: number of the class from 0 on; `None` where it is not known, as in a test split without labels.
        label_name: name of the class.
        split: `"train"`, `"validation"` or `"test"`.
        tags: names of its groups. Each group gets scores of its own.

    Raises:
        ValueError: if it has no name, no video or an unknown split, or if its label is no number of a class.
    """

    id: str
    video: Video
    label: int | None = None
    label_name: str | None = None
    split: str = "train"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError(f"a sample must have an id, got id={self.id!r}")
        if isinstance(self.video, tuple) and not self.video:
            raise ValueError(f"sample {self.id} must have a video, got no frames")
        if self.split not in SPLITS:
            raise ValueError(f"sample {self.id} must have a split of {SPLITS}, got {self.split!r}")
        is_class = isinstance(self.label, Integral) and not isinstance(self.label, bool) and self.label >= 0
        if self.label is not None and not is_class:
            raise ValueError(f"sample {self.id} must have a label from 0 on or none, got {self.label!r}")


def action_features(label_names: Sequence[str], tags: bool = False) -> Any:
    """The `datasets.Features` of a row of an action; the video stays undecoded.

    Args:
        label_names: of all classes, in the order of their numbers.
        tags: whether there is a column of tags.
    """
    datasets = import_datasets()
    text = datasets.Value("string")
    columns = {
        "id": text,
        "video": datasets.Video(decode=False),
        "label": datasets.ClassLabel(names=list(label_names)),
        "label_name": text,
    }
    if tags:
        columns["tags"] = datasets.List(text)
    return datasets.Features(columns)


def to_action_row(sample: ActionSample, name: str | None = None) -> dict[str, Any]:
    """Write a sample of a video file as a row, its bytes inside; a class that is not known is `None`.

    Args:
        sample: whose video is a path or bytes.
        name: of the file in the row; the last part of its path, or its id, when absent.

    Raises:
        ValueError: if the sample has frames instead of a file.
    """
    if isinstance(sample.video, tuple):
        raise ValueError(f"sample {sample.id} must have a video file for a row, got frames")
    content = sample.video
    if not isinstance(content, bytes):
        name = name or Path(content).name
        content = Path(content).read_bytes()
    row: dict[str, Any] = {
        "id": sample.id,
        "video": {"bytes": content, "path": name or sample.id},
        "label": sample.label,
        "label_name": sample.label_name,
    }
    if sample.tags:
        row["tags"] = list(sample.tags)
    return row


def from_action_row(row: Mapping[str, Any], split: str = "train") -> ActionSample:
    """Read a row of an action, its video as `{"bytes", "path"}`, with or without a column `tags`.

    Raises:
        ValueError: if the row has no name or no video, or values of other types.
    """
    name = f"row {row['id']}"
    nothing: Any = type(None)
    check_fields(dict(row), name, id=str, label=(Integral, nothing))
    check_fields({"label_name": row.get("label_name")}, name, label_name=(str, nothing))
    check_tags(row, name)
    check_media(row["video"], name, "a video")
    check_file(row["video"], name)
    label = row["label"]
    return ActionSample(
        id=row["id"],
        video=file_content(row["video"]),
        label=None if label in (None, -1) else label,  # a class label of `datasets` is -1 where it is unknown
        label_name=row.get("label_name"),
        split=split,
        tags=tuple(row.get("tags") or ()),
    )
