"""Options of every command for the files that it reads: limits, a rate, and whether frames must be whole."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..models.decoding_containers import LIMITS, SourceLimits
from ..models.decoding_streams import check_source_fps

_HELP = {limit.name: limit.metadata for limit in fields(SourceLimits)}


@dataclass(kw_only=True)
class PictureOptions:
    """How pictures on disk are read."""

    max_pixels: int = field(default=LIMITS.max_pixels, metadata=_HELP["max_pixels"])

    def __post_init__(self) -> None:
        _ = self.limits  # raises for a wrong one

    @property
    def limits(self) -> SourceLimits:
        """Limits on a file and its claims."""
        options = self._options()
        limits = {}
        for limit in fields(SourceLimits):
            if limit.name in options:
                limits[limit.name] = getattr(self, limit.name)
        return SourceLimits(**limits)

    def stated(self) -> dict[str, Any]:
        """The options that differ from their defaults, on which results depend; those of version 0.1 have none."""
        stated = {}
        for name, default in self._options().items():
            value = getattr(self, name)
            if value != default:
                stated[name] = value
        return stated

    def _options(self) -> dict[str, Any]:
        """Names and defaults of the options of this file, without further ones of a command."""
        own = {option.name for option in fields(VideoOptions)}
        options = {}
        for option in fields(self):
            if option.name in own:
                options[option.name] = option.default
        return options


@dataclass(kw_only=True)
class LocalVideoOptions(PictureOptions):
    """How videos on disk are read."""

    max_aspect_ratio: float = field(default=LIMITS.max_aspect_ratio, metadata=_HELP["max_aspect_ratio"])
    source_fps: float | None = field(
        default=None, metadata={"help": "frames per second of videos without timestamps, such as raw H.264"}
    )
    only_whole: bool = field(default=False, metadata={"help": "take a frame that had to be mended for unreadable"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source_fps(self.source_fps)
        if not isinstance(self.only_whole, bool):
            raise ValueError(f"only_whole must be true or false, got {self.only_whole!r}")

    @property
    def rules(self) -> dict[str, Any]:
        """Keyword arguments of `decode_frames`, `iter_frames` and of a video processor's `set_source_rules`."""
        return {"limits": self.limits, "source_fps": self.source_fps, "only_whole": self.only_whole}


@dataclass(kw_only=True)
class VideoOptions(LocalVideoOptions):
    """How videos are read that may also be compressed, or lie behind an address."""

    max_bytes: int = field(default=LIMITS.max_bytes, metadata=_HELP["max_bytes"])
    max_unstated_bytes: int = field(default=LIMITS.max_unstated_bytes, metadata=_HELP["max_unstated_bytes"])
    max_seconds: float = field(default=LIMITS.max_seconds, metadata=_HELP["max_seconds"])
    max_download_seconds: float = field(default=LIMITS.max_download_seconds, metadata=_HELP["max_download_seconds"])
