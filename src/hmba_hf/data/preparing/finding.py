"""Videos in a folder and below it, and paths that stay there."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

VIDEO_SUFFIXES = tuple(
    ".avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split(),
)
"""How names of videos end, in small letters."""


def list_videos(folder: str | Path, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> list[Path]:
    """List the videos in a folder and below it, also behind links, in the order of their paths; no hidden ones."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place) / name
            if not name.startswith(".") and path.suffix.lower() in suffixes:
                found.append(path)
    return sorted(found)


def is_inside(path: str | PurePath) -> bool:
    """Return whether a path that others have written stays in the folder that it is joined to."""
    path = PurePath(path)
    return not path.is_absolute() and ".." not in path.parts
