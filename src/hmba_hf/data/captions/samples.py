"""One video with a caption, and the dataset row in which the Hub stores it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...files import check_fields
from ..samples import check_file, check_media, check_tags, file_content, import_datasets


@dataclass(frozen=True)
class CaptionSample:
    """One video and a text that tells what it shows.

    Args:
        id: unique name, also used in error messages.
        video: path or bytes of a video file, or its frames, oldest first, of one size.
        caption: the text.
        video_id: name of the video, which other captions may share; that of the sample when absent.
        split: `"train"`, `"validation"` or `"test"`.
        tags: names of its groups. Each group gets scores of its own.

    Raises:
        ValueError: if it has no name, no video or no caption.
    """

    id: str
    video: str | Path | bytes | tuple[Image.Image, ...]
    caption: str
    video_id: str | None = None
    split: str = "train"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError(f"a sample must have an id, got id={self.id!r}")
        if isinstance(self.video, tuple) and not self.video:
            raise ValueError(f"sample {self.id} must have a video, got no frames")
        if not isinstance(self.caption, str) or not self.caption.strip():
            raise ValueError(f"sample {self.id} must have a caption, got {self.caption!r}")


def caption_features() -> Any:
    """The `datasets.Features` of a row of a caption; the video stays undecoded."""
    datasets = import_datasets()
    text = datasets.Value("string")
    return datasets.Features({"id": text, "video": datasets.Video(decode=False), "caption": text, "video_id": text})


def from_caption_row(row: Mapping[str, Any], split: str = "train") -> CaptionSample:
    """Read a row of a caption, its video as `{"bytes", "path"}`, with or without columns `video_id` and `tags`.

    Raises:
        ValueError: if the row has no name, no video or no caption, or values of other types.
    """
    name = f"row {row['id']}"
    nothing: Any = type(None)
    check_fields(dict(row), name, id=str, caption=str)
    check_fields({"video_id": row.get("video_id")}, name, video_id=(str, nothing))
    check_tags(row, name)
    check_media(row["video"], name, "a video")
    check_file(row["video"], name)
    return CaptionSample(
        id=row["id"],
        video=file_content(row["video"]),
        caption=row["caption"],
        video_id=row.get("video_id"),
        split=split,
        tags=tuple(row.get("tags") or ()),
    )
