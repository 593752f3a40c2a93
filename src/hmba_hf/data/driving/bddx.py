"""BDD-X: what the ego car does in a stretch of a drive, and why.

The raw download is a CSV file and three lists of its rows, which `bddx_annotations` reads, and the videos of BDD100K,
out of which the clips are cut here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...digests import digest_file
from ...models.decoding_containers import LIMITS, SourceLimits
from ..preparing.converting import (
    MEDIA_MISSING,
    Convert,
    Converted,
    Entry,
    Plan,
    Preparation,
    RunOptions,
    prepare,
    refuse_unused,
)
from ..preparing.cutting import ENDS_WITH_THE_VIDEO, Cutting, Stretch, cut_entries, segment_problem
from ..preparing.finding import list_videos
from ..preparing.parquet_shards import LICENSE_FILE, Dropped
from ..preparing.publishing import CardText
from ..samples import bddx_features
from ..video_options import LocalVideoOptions
from .bddx_annotations import SPLIT_FILES, Segment, plan_segments, read_annotations, read_split_files
from .released_layout import DriveConverter, plan_actions

VIDEO_SUFFIXES = (".mov", ".mp4")

_ROWS_PER_FILE = 200
_OF_VIDEOS = ("max_aspect_ratio", "source_fps", "only_whole")
_RELEASED_FRAMES = 8  # the released code reads seven frames before the current one

_CARD = CardText(
    title="BDD-X",
    rows=(
        "One row for each segment of a drive: what the ego car does (`action`), why (`justification`), and a clip of "
        "it whose last picture is the current frame. {times} See "
        "[BDD-X](https://github.com/JinkyuKimUCB/BDD-X-dataset) and its paper, arXiv 1807.11546."
    ),
    licence=(
        "The annotations are copyright (c) 2018 The Regents of the University of California: for educational, "
        f"research and not-for-profit purposes, and every copy must carry the notice of their `{LICENSE_FILE}` file. "
        "The clips are parts of BDD100K's videos, which come under the terms of BDD100K; no right to pass them on is "
        "known to us."
    ),
    tags=("driving", "bdd-x"),
    licence_name="bdd-x",
    licence_link="https://github.com/JinkyuKimUCB/BDD-X-dataset",
)


_TIMES = {
    "raw": "`start` and `end` are the annotated seconds in the drive `video_id` of BDD100K; `segment` counts all "
    "segments of BDD-X from 0.",
    "released": "The released layout does not record where in its drive a clip lies: `start` is 0, `end` the length "
    "of the clip, and `segment` counts the clips of one `video_id`.",
}


@dataclass
class BDDXOptions(LocalVideoOptions):
    """Which annotations and videos of BDD-X are prepared, and how."""

    annotations: str | None = field(default=None, metadata={"help": "BDD-X-Annotations_v1.csv"})
    videos: str | None = field(
        default=None, metadata={"help": "folder of BDD100K's videos, at any depth; not with annotations_only"}
    )
    split_rule: Literal["split_files", "ranges"] = field(
        default="split_files", metadata={"help": "the official lists of rows, or ADAPT's ranges of rows"}
    )
    split_folder: str | None = field(
        default=None, metadata={"help": "folder of train.txt, val.txt and test.txt; that of the annotations if absent"}
    )
    fps: float | None = field(
        default=None, metadata={"help": "pictures a second: 10 of a video, 2 of the released layout when absent"}
    )
    height: int = field(default=360, metadata={"help": "most rows of a picture; those of the videos are 720"})
    annotations_only: bool = field(default=False, metadata={"help": "leave out the clips"})
    train_files: list[str] = field(
        default_factory=list,
        metadata={"help": "actions and justifications in the released layout, without annotations"},
    )
    validation_files: list[str] = field(default_factory=list, metadata={"help": "likewise"})
    test_files: list[str] = field(default_factory=list, metadata={"help": "likewise"})
    images: str | None = field(default=None, metadata={"help": "folder of the pictures of the released layout"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height < 2 or not 0.01 <= self.clip_fps <= 1000:
            raise ValueError(
                f"height must be at least 2 and fps from 0.01 to 1000, got {self.height} and {self.clip_fps}"
            )
        if (self.annotations is None) == (not self.released_files):
            found = "neither" if self.annotations is None else "both"
            raise ValueError(
                f"either annotations or files of the released layout, such as train_files, must be given, got {found}"
            )
        if self.annotations is None:
            refuse_unused(self, _OF_VIDEOS, "the released layout has pictures, not videos")
            unused = ["videos", "split_rule", "split_folder"]
            because = "files of the released layout have their splits"
        elif self.split_rule == "ranges":
            unused = ["images", "split_folder"]
            because = "the rule ranges reads no list, and the layout is the raw one"
        else:
            unused = ["images"]
            because = "the annotations are about videos"
        refuse_unused(self, unused, because)
        media = "images" if self.annotations is None else "videos"
        if self.annotations_only:
            unused = [media, "height", "max_pixels", *_OF_VIDEOS]
            if self.annotations is not None:
                unused.append("fps")
            refuse_unused(self, unused, "annotations_only leaves the clips out")
        elif not Path(getattr(self, media) or "missing").is_dir():
            raise FileNotFoundError(f"{media} must be a folder, got {getattr(self, media)!r}")

    @property
    def released_files(self) -> dict[str, list[str]]:
        """The files of the released layout, by split."""
        files = {"train": self.train_files, "validation": self.validation_files, "test": self.test_files}
        return {split: paths for split, paths in files.items() if paths}

    @property
    def clip_fps(self) -> float:
        """Pictures a second, as given, or the usual ones of the layout."""
        if self.fps is not None:
            return self.fps
        return 2.0 if self.annotations is None else 10.0


def find_videos(folder: str | Path) -> dict[str, Path]:
    """Find the videos in a folder and below it, also behind links, by their names without suffix; no hidden ones.

    Where several have one name, the first path counts.
    """
    return {path.stem: path for path in reversed(list_videos(folder, VIDEO_SUFFIXES))}


def widen_span(start: float, end: float, duration: float) -> tuple[float, float]:
    """End a span with its video, and widen one of no second or one second to two.

    A single second is added before the span, or after it in the first two seconds of the video. Two seconds are added
    on both sides, or on the side that has two.

    Source: github.com/jxbbb/ADAPT at 29d6c3d, `src/prepro/extract_frames.py`.
    Differs: the video's end is not rounded down to a second.
    """
    end = min(end, duration)
    length = round(end - start)
    before = 0
    after = 0
    if length == 0 and start < 2:
        after = 2
    elif length == 0 and duration - end < 2:
        before = 2
    elif length == 0:
        before = 1
        after = 1
    elif length == 1 and start < 2:
        after = 1
    elif length == 1:
        before = 1
    return start - before, min(end + after, duration)


def convert_segments(
    entries: Sequence[Entry],
    videos: Mapping[str, Path],
    fps: float,
    height: int | None,
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
) -> list[Converted | Dropped]:
    """Cut the segments of one video out of it; its options are those of `cut_clips`."""
    name = entries[0].media
    if name not in videos:
        return [Dropped(entry.id, MEDIA_MISSING, f"no video {name}") for entry in entries]
    rules: dict[str, Any] = {"limits": limits, "source_fps": source_fps, "only_whole": only_whole}
    return cut_entries(entries, videos[name], _place, _row_of, Cutting(fps, height, rules))


def _place(entry: Entry, duration: float) -> Stretch | Dropped:
    """Return the stretch of a segment in its video, or why there is none."""
    segment: Segment = entry.content
    problem = segment_problem(entry.id, segment.start, segment.end, duration)
    if problem is not None:
        return problem
    start, end = widen_span(segment.start, segment.end, duration)
    notes = []
    if end < segment.end:
        notes.append(ENDS_WITH_THE_VIDEO)
    if start < segment.start or end > segment.end:
        notes.append("widened_to_two_seconds")
    return Stretch(start, end, tuple(notes))


def _row_of(entry: Entry, stretch: Stretch, clip: bytes) -> dict[str, Any]:
    return _row(entry, clip)


def _row(entry: Entry, clip: bytes | None) -> dict[str, Any]:
    segment: Segment = entry.content
    video = None
    if clip is not None:
        video = {"bytes": clip, "path": f"{entry.id}.mp4"}
    return {
        "video": video,
        "video_id": segment.video_id,
        "segment": segment.index,
        "start": segment.start,
        "end": segment.end,
        "action": segment.action,
        "justification": segment.justification,
    }


def _without_clips(entries: Sequence[Entry]) -> list[Converted | Dropped]:
    return [Converted(_row(entry, None)) for entry in entries]


def prepare_bddx(options: BDDXOptions, run: RunOptions) -> dict[str, Any]:
    """Prepare BDD-X with these options, and return the report.

    Raises:
        ValueError: if the input is malformed.
        FileNotFoundError: if the input is missing.
        OSError: if the disk is full.
    """
    settings: dict[str, Any] = {"dataset": "bddx", "annotations_only": options.annotations_only}
    if not options.annotations_only:
        settings |= {"fps": options.clip_fps, "height": options.height} | options.stated()
    licence_file = None
    if options.annotations is not None:
        settings |= {"layout": "raw", "split_rule": options.split_rule}
        plan, settings["files"] = _plan_raw(options, Path(options.annotations))
        convert = _raw_converter(options)
        beside = Path(options.annotations).parent / LICENSE_FILE
        if beside.is_file():
            licence_file = beside
    else:
        files = {}
        for split, paths in options.released_files.items():
            files[split] = [digest_file(path) for path in paths]
        settings |= {"layout": "released", "files": files, "num_frames": _RELEASED_FRAMES}
        plan = plan_actions(options.released_files)
        convert = DriveConverter(
            folder=Path(options.images or ""),
            num_frames=_RELEASED_FRAMES,
            fps=options.clip_fps,
            height=options.height,
            annotations_only=options.annotations_only,
            limits=options.limits,
        )
    preparation = Preparation(
        plan=plan,
        convert=convert,
        features=bddx_features(),
        settings=settings,
        card=replace(_CARD, rows=_CARD.rows.format(times=_TIMES[settings["layout"]])),
        rows_per_file=run.file_size(_ROWS_PER_FILE, options.annotations_only),
        licence_file=licence_file,
    )
    return prepare(preparation, run)


def _plan_raw(options: BDDXOptions, annotations: Path) -> tuple[Plan, dict[str, str]]:
    """Plan the segments of the CSV file, and hash all files that decide about them."""
    read = read_annotations(annotations)
    files = {"annotations": digest_file(annotations)}
    if options.split_rule == "ranges":
        return plan_segments(read, None), files
    folder = Path(options.split_folder or annotations.parent)
    listed = read_split_files(folder)
    files |= {name: digest_file(folder / name) for name in SPLIT_FILES.values()}
    return plan_segments(read, listed), files


def _raw_converter(options: BDDXOptions) -> Convert:
    if options.annotations_only:
        return _without_clips
    videos = find_videos(options.videos or "")
    return partial(convert_segments, videos=videos, fps=options.clip_fps, height=options.height, **options.rules)
