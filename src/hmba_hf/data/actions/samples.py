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
        check_clip(self.id, self.video, self.split)
        check_label(self.label, f"sample {self.id}", "a label")


def check_clip(name: str, video: Video, split: str) -> None:
    """Raise `ValueError` unless a sample has a name, a video and a known split."""
    if not name:
        raise ValueError(f"a sample must have an id, got id={name!r}")
    if isinstance(video, tuple) and not video:
        raise ValueError(f"sample {name} must have a video, got no frames")
    if split not in SPLITS:
        raise ValueError(f"sample {name} must have a split of {SPLITS}, got {split!r}")


def check_label(label: Any, name: str, kind: str) -> None:
    """Raise `ValueError` unless a label is the number of a class, or none."""
    is_class = isinstance(label, Integral) and not isinstance(label, bool) and int(label) >= 0
    if label is not None and not is_class:
        raise ValueError(f"{name} must have {kind} from 0 on or none, got {label!r}")


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
    row: dict[str, Any] = {
        "id": sample.id,
        "video": to_file(sample.id, sample.video, name),
        "label": sample.label,
        "label_name": sample.label_name,
    }
    if sample.tags:
        row["tags"] = list(sample.tags)
    return row


def to_file(sample_id: str, video: Video, name: str | None = None) -> dict[str, Any]:
    """Return a video file as a row holds it, `{"bytes", "path"}`.

    Args:
        sample_id: name of its sample.
        video: path or bytes.
        name: of the file in the row; the last part of its path, or the name of its sample, when absent.

    Raises:
        ValueError: if there are frames instead of a file.
    """
    if isinstance(video, tuple):
        raise ValueError(f"sample {sample_id} must have a video file for a row, got frames")
    if isinstance(video, bytes):
        return {"bytes": video, "path": name or sample_id}
    return {"bytes": Path(video).read_bytes(), "path": name or Path(video).name}


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
        label=known_class(label),
        label_name=row.get("label_name"),
        split=split,
        tags=tuple(row.get("tags") or ()),
    )


def known_class(label: int | None) -> int | None:
    """Return the number of a class of a row; a class label of `datasets` is also -1 where it is unknown."""
    return None if label == -1 else label
