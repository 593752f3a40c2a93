"""From lists of actions and their videos to a dataset in the schema of actions."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ...digests import digest_file
from ...models.decoding_video import VideoDecodeError, decode_times
from ..preparing.converting import (
    MEDIA_MISSING,
    MEDIA_UNREADABLE,
    Converted,
    Entry,
    Plan,
    Preparation,
    RunOptions,
    name_differently,
    prepare,
)
from ..preparing.finding import is_inside, list_videos
from ..preparing.parquet_shards import Dropped
from ..preparing.publishing import CardText
from ..video_options import LocalVideoOptions
from .lists import ListedVideo, names_of, number_of, read_class_names, read_folders, read_list
from .samples import action_features

SEVERAL_VIDEOS = "several_videos"
UNKNOWN_CLASS = "unknown_class"

_ROWS_PER_FILE = 500
_ROWS = (
    "One row for each video: the file (`video`), the number of its class (`label`), whose names are in the features, "
    "and its name (`label_name`). {kept}"
)
_LIMITS = """\
- For research on the recognition of actions. A few people have filmed and labelled it: what they have overlooked is
  missing, and a class is what they have called so.
"""
_KEPT = {
    False: "The files are as they were found.",
    True: "The rows name the paths of the files, which are not in the dataset.",
}


@dataclass(kw_only=True)
class ActionOptions(LocalVideoOptions):
    """Which lists and videos of actions are prepared, and how."""

    videos: str = field(
        metadata={"help": "folder of the videos; without lists, its folders are named by their classes"}
    )
    train_files: list[str] = field(
        default_factory=list, metadata={"help": "lists of Kinetics, of Something-Something, or of paths and labels"}
    )
    validation_files: list[str] = field(default_factory=list, metadata={"help": "likewise"})
    test_files: list[str] = field(default_factory=list, metadata={"help": "likewise, with or without labels"})
    labels: str | None = field(
        default=None,
        metadata={"help": "file of the names of all classes; those of the lists in their order if absent"},
    )
    by_path: bool = field(default=False, metadata={"help": "keep the paths of the videos instead of their bytes"})
    title: str = field(default="Actions", metadata={"help": "name of the dataset in its card"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(self.videos).is_dir():
            raise FileNotFoundError(f"videos must be a folder, got {self.videos!r}")

    @property
    def files(self) -> dict[str, list[str]]:
        """The lists by split."""
        files = {"train": self.train_files, "validation": self.validation_files, "test": self.test_files}
        return {split: paths for split, paths in files.items() if paths}


@dataclass(frozen=True)
class ActionContent:
    """What becomes of an entry besides its video.

    Args:
        label: number of its class, if known.
        label_name: name of its class, if known.
    """

    fingerprint_name: ClassVar = "ActionContent"

    label: int | None
    label_name: str | None


class Problem(NamedTuple):
    """Why an entry has no video: the reason as the report counts it, and what was found."""

    reason: str
    detail: str


class VideoIndex:
    """The videos below a folder, by path and by name.

    Args:
        folder: of the videos.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._by_name: dict[str, list[Path]] = {}
        for path in list_videos(folder):
            for name in {path.stem, path.name}:
                self._by_name.setdefault(name, []).append(path)

    def find(self, video: str) -> list[Path]:
        """Return the files that a list may mean.

        A path is one in the folder, or ends in one, since lists may have paths of another machine. A name, with or
        without suffix, is that of a file at any depth. No path leads out of the folder, since others write lists.
        """
        place = Path(video)
        place = place.relative_to(place.anchor)
        for first in range(len(place.parts)):
            ending = Path(*place.parts[first:])
            if is_inside(ending) and os.path.isfile(self.folder / ending):  # false for a name too long, too
                return [self.folder / ending]
        return self._by_name.get(video, [])

    def find_one(self, video: str) -> "Path | Problem":
        """Return the one file that a list means, or why there is none."""
        paths = self.find(video)
        if len(paths) == 1:
            return paths[0]
        if not paths:
            return Problem(MEDIA_MISSING, f"no video {video}")
        places = ", ".join(str(path.relative_to(self.folder)) for path in paths[:3])
        return Problem(SEVERAL_VIDEOS, f"{len(paths)} videos {video}: {places}")


def convert_actions(
    entries: Sequence[Entry], index: VideoIndex, by_path: bool, rules: Mapping[str, Any]
) -> list[Converted | Dropped]:
    """Make rows of entries that share their video; its start, its middle and its end are decoded once.

    Args:
        entries: each with an `ActionContent`.
        index: of the videos.
        by_path: keep the path of the video instead of its bytes.
        rules: of `decode_times`.
    """
    path = index.find_one(entries[0].media)
    if isinstance(path, Problem):
        return [Dropped(entry.id, *path) for entry in entries]
    try:
        decode_times(path, lambda duration, rate: [duration / 2], prepare=lambda picture: picture[:1, :1], **rules)
        content = None if by_path else path.read_bytes()
    except (VideoDecodeError, FileNotFoundError) as error:
        detail = str(error).replace(str(path), path.name)
        return [Dropped(entry.id, MEDIA_UNREADABLE, detail) for entry in entries]
    video = {"bytes": content, "path": str(path.absolute()) if by_path else path.name}
    rows: list[Converted | Dropped] = []
    for entry in entries:
        row = {"id": entry.id, "video": video, "label": entry.content.label, "label_name": entry.content.label_name}
        rows.append(Converted(row))
    return rows


def prepare_actions(options: ActionOptions, run: RunOptions) -> dict[str, Any]:
    """Prepare a dataset of actions with these options, and return the report.

    Raises:
        ValueError: if a list is malformed or has no labels.
        FileNotFoundError: if a list is missing.
        OSError: if the disk is full.
    """
    files: dict[str, Any] = {}
    lists: dict[str, Sequence[ListedVideo | Dropped]] = {}
    for split, paths in options.files.items():
        entries: list[ListedVideo | Dropped] = []
        for path in paths:
            entries += read_list(path, split)
        lists[split] = entries
        files[split] = [digest_file(path) for path in paths]
    if not lists:
        lists |= read_folders(options.videos)
    names = names_of(lists) if options.labels is None else read_class_names(options.labels)
    settings: dict[str, Any] = {"dataset": "actions", "by_path": options.by_path, "files": files} | options.stated()
    if options.labels is not None:
        settings["labels"] = digest_file(options.labels)
    preparation = Preparation(
        plan=plan_actions(lists, names),
        convert=partial(
            convert_actions, index=VideoIndex(options.videos), by_path=options.by_path, rules=options.rules
        ),
        features=action_features(names),
        settings=settings,
        card=CardText(
            title=options.title,
            rows=_ROWS.format(kept=_KEPT[options.by_path]),
            licence="The videos and their labels come under the terms of the dataset that they were taken from.",
            tags=("action-recognition",),
            task="video-classification",
            program="hmba finetune classification",
            limits=_LIMITS,
        ),
        rows_per_file=run.file_size(_ROWS_PER_FILE, options.by_path),
    )
    return prepare(preparation, run)


def plan_actions(lists: Mapping[str, Sequence[ListedVideo | Dropped]], names: Sequence[str]) -> Plan:
    """Plan the videos of all lists; entries of unknown classes become no rows.

    Args:
        lists: by split.
        names: of the classes, in the order of their numbers.
    """
    taken: Counter[str] = Counter()
    numbers = {name: number for number, name in enumerate(names)}
    entries: list[Entry] = []
    dropped: list[Dropped] = []
    for split, videos in lists.items():
        for video in videos:
            if isinstance(video, Dropped):
                dropped.append(video)
                continue
            name = name_differently(video.id, taken)
            try:
                label = number_of(video.label, names, numbers)
            except ValueError as error:
                dropped.append(Dropped(name, UNKNOWN_CLASS, str(error)))
                continue
            content = ActionContent(label, None if label is None else names[label])
            entries.append(Entry(name, split, video.video, content))
    return Plan(len(entries) + len(dropped), entries, dropped)
