"""Clips of stretches of longer videos: one for each entry, in one pass through each video."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...models.decoding_video import VideoDecodeError
from ..clips import cut_clips, video_duration
from .converting import MEDIA_UNREADABLE, Converted, Entry
from .parquet_shards import Dropped

ENDS_EARLY = "segment_ends_before_it_starts"
AFTER_THE_VIDEO = "segment_after_the_video"
ENDS_WITH_THE_VIDEO = "ends_with_the_video"


class Stretch(NamedTuple):
    """What is cut out of a video for an entry.

    Attributes:
        start, end: in seconds of the video.
        notes: about the row, for the report.
    """

    start: float
    end: float
    notes: tuple[str, ...] = ()


class Cutting(NamedTuple):
    """How clips are cut.

    Attributes:
        fps: pictures a second.
        height: most rows of a picture; those of the video when absent.
        rules: `limits`, `source_fps` and `only_whole` of `cut_clips`.
    """

    fps: float
    height: int | None
    rules: dict[str, Any]


Place = Callable[[Entry, float], Stretch | Dropped]
MakeRow = Callable[[Entry, Stretch, bytes], dict[str, Any]]


def segment_problem(entry_id: str, start: float, end: float, duration: float) -> Dropped | None:
    """Return an annotated segment that ends before it starts, or that starts after its video, as a dropped entry."""
    if end < start:
        return Dropped(entry_id, ENDS_EARLY, f"from {start:g} to {end:g} s")
    if start >= duration:
        return Dropped(entry_id, AFTER_THE_VIDEO, f"from {start:g} s, the video ends at {duration:.3f} s")
    return None


def cut_entries(
    entries: Sequence[Entry], path: Path, place: Place, make_row: MakeRow, cutting: Cutting
) -> list[Converted | Dropped]:
    """Cut one clip for each entry out of the video that they share.

    Args:
        entries: of one video.
        path: of the video.
        place: returns what is cut for an entry, from it and the seconds of the video, or why nothing is.
        make_row: makes a row of an entry, its stretch and the bytes of its clip.
        cutting: how clips are cut.
    """
    outcomes: dict[str, Converted | Dropped] = {}
    stretches: dict[str, Stretch] = {}
    clips: list[bytes | VideoDecodeError] = []
    try:
        duration = video_duration(path, cutting.rules["limits"], cutting.rules["source_fps"])
        for entry in entries:
            placed = place(entry, duration)
            if isinstance(placed, Dropped):
                outcomes[entry.id] = placed
            else:
                stretches[entry.id] = placed
        if stretches:
            spans = [(stretch.start, stretch.end) for stretch in stretches.values()]
            clips = cut_clips(path, spans, cutting.fps, cutting.height, **cutting.rules)
    except (VideoDecodeError, FileNotFoundError) as error:
        return [_unreadable(entry.id, path, error) for entry in entries]
    by_id = {entry.id: entry for entry in entries}
    for (entry_id, stretch), clip in zip(stretches.items(), clips, strict=True):
        if isinstance(clip, bytes):
            outcomes[entry_id] = Converted(make_row(by_id[entry_id], stretch, clip), stretch.notes)
        else:
            outcomes[entry_id] = _unreadable(entry_id, path, clip)
    return [outcomes[entry.id] for entry in entries]


def _unreadable(entry_id: str, path: Path, error: Exception) -> Dropped:
    return Dropped(entry_id, MEDIA_UNREADABLE, str(error).replace(str(path), path.name))
