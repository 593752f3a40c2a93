"""Options with which videos are read, `mm_processor_kwargs`: those of a request, and those of an engine for all."""

from collections.abc import Mapping
from typing import Any

from ...models.decoding_streams import check_source_fps
from ...models.prompting_hmba import check_time_format
from ...models.sampling_video import check_sampling

# A longer clip of one request would take memory from all others.
MOST_FRAMES = 256
# Those of the video processor that are for clients: without sampling, a video would be decoded whole.
_NAMES = ("fps", "num_frames", "only_whole", "source_fps", "time_format")


def options_of_request(given: Any, videos: int) -> tuple[dict[str, Any], list[float | None] | None]:
    """Check the options of a request.

    Args:
        given: options by name; those in `videos_kwargs` count as well. `None` leaves an
            engine's, but `time_format=None` writes no times.
        videos: of the request.

    Returns:
        The options without `timestamp`, and the moment of each video; `None` where the request names none.

    Raises:
        ValueError: if one is unknown, of another type or out of its range.
    """
    options = _flatten(given)
    timestamp = options.pop("timestamp", None)
    _check(options, "options of a request", ("timestamp", *_NAMES))
    options = _given(options)
    if timestamp is None:
        return options, None
    moments = list(timestamp) if isinstance(timestamp, (list, tuple)) else [timestamp]
    for moment in moments:
        check_sampling(moment, None, None)
    if not isinstance(timestamp, (list, tuple)):
        moments *= videos
    if len(moments) != videos:
        raise ValueError(f"timestamp must be one number or one for each of {videos} videos, got {moments}")
    return options, moments


def options_of_engine(given: Any) -> dict[str, Any]:
    """Check the options of an engine, and return them.

    Args:
        given: options by name, or `None`; those in `videos_kwargs` count as well.

    Raises:
        ValueError: if one is unknown, of another type or out of its range.
    """
    options = _flatten(given)
    device = options.pop("device", "cpu")  # of vLLM's `mm_processor_device`
    if str(device) != "cpu":
        raise ValueError(f"device must be 'cpu', where H-MBA's videos are read, got {device!r}")
    timestamp = options.pop("timestamp", None)
    if timestamp is not None:
        raise ValueError(f"timestamp must be an option of a request, got {timestamp!r} for an engine")
    _check(options, "options of an engine", _NAMES)
    return _given(options)


def media_of_engine(given: Any, reader: str) -> dict[str, Any]:
    """Return how an engine opens videos, which another reader's options may say.

    Args:
        given: `media_io_kwargs` of videos, or `None`.
        reader: H-MBA's, which leaves videos whole.

    Raises:
        ValueError: if there are options beside it, which nothing would read.
    """
    options = {"video_backend": reader, **_by_name(given, "media_io_kwargs of videos")}
    others = sorted(map(str, options.keys() - {"video_backend"}))
    if options["video_backend"] == reader and others:
        raise ValueError(f"media_io_kwargs of videos must hold no options, as mm_processor_kwargs does, got {others}")
    return options


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out options that are `None`, which leaves what was chosen before; `time_format=None` writes no times."""
    return {name: value for name, value in options.items() if value is not None or name == "time_format"}


def check_length(num_frames: float) -> None:
    """Check that a clip is short enough.

    Raises:
        ValueError: if it is not.
    """
    if num_frames > MOST_FRAMES:
        raise ValueError(f"a clip must have at most {MOST_FRAMES} frames, got {num_frames}")


def _flatten(given: Any) -> dict[str, Any]:
    """Return options by name, with those of `videos_kwargs` among them."""
    options = _by_name(given, "mm_processor_kwargs")
    return options | _by_name(options.pop("videos_kwargs", None), "videos_kwargs")


def _by_name(given: Any, what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be options by name, got {given!r}")
    return dict(given)


def _check(options: dict[str, Any], what: str, known: tuple[str, ...]) -> None:
    """Check options other than `timestamp`.

    Raises:
        ValueError: if one is unknown, of another type or out of its range.
    """
    if unknown := sorted(map(str, options.keys() - {*known})):
        raise ValueError(f"{what} must be among {', '.join(known)}, got {unknown}")
    check_sampling(None, options.get("num_frames"), options.get("fps"))
    check_length(options.get("num_frames") or 1)
    check_source_fps(options.get("source_fps"))
    check_time_format(options.get("time_format"))
    only_whole = options.get("only_whole")
    if not isinstance(only_whole, bool | None):
        raise ValueError(f"only_whole must be true or false, got {only_whole!r}")


__all__ = ["MOST_FRAMES", "check_length", "media_of_engine", "options_of_engine", "options_of_request"]
