"""What the metadata of a clip tell of its file: the truth, as far as it is known, or nothing."""

from dataclasses import dataclass
from fractions import Fraction

from .decoding_containers import SourceLimits, VideoDecodeError
from .decoding_streams import OpenVideo
from .sampling_video import ClipMetadata


class VideoTooLongError(VideoDecodeError):
    """A video whose header states more seconds than are allowed."""


def check_duration(video: OpenVideo, origin: Fraction, limits: SourceLimits) -> None:
    """Raise `VideoTooLongError` if the header states more seconds than allowed; `origin` is of the first frame."""
    seconds = video.packets.header_duration(origin)
    if seconds is not None and seconds > limits.max_video_seconds:
        raise VideoTooLongError(
            f"{video.name} must have at most {limits.max_video_seconds:g} seconds, got {seconds:g}"
        )


@dataclass(frozen=True)
class Known:
    """What the frames have shown of their file that have been decoded, times in seconds.

    Args:
        origin: of the first frame, on the clock of the container.
        end: of the last frame; `None` before it has been decoded.
        count: of all frames, likewise.
        seen_until: the latest time of any frame.
        has_breaks: whether the clock has gone back.
        is_steady: whether frames that follow each other have been one step of the rate apart.
    """

    origin: Fraction
    end: float | None
    count: int | None
    seen_until: Fraction
    has_breaks: bool
    is_steady: bool


def metadata_of_video(
    video: OpenVideo, known: Known, size: tuple[int, int] | None, times: list[float]
) -> ClipMetadata:
    """Describe a clip of the video whose frames, of a height and a width, are shown at `times`."""
    height, width = size or (None, None)
    duration = _duration(video, known)
    knows_rate = _knows_rate(video, known)
    count = known.count
    if count is None and duration is not None and knows_rate:
        count = round(duration * video.rate)
    return ClipMetadata(
        total_num_frames=count,
        fps=float(video.rate) if knows_rate else None,
        width=width,
        height=height,
        duration=duration,
        video_backend="pyav",
        frames_indices=[round(time * video.rate) for time in times] if video.is_counted or known.is_steady else None,
        frame_times=times,
    )


def _knows_rate(video: OpenVideo, known: Known) -> bool:
    if video.is_counted:
        return video.is_rate_known
    return known.is_steady or video.packets.states_average_rate


def _duration(video: OpenVideo, known: Known) -> float | None:
    """Seconds of the whole file, from its decoded frames or from a header that nothing contradicts."""
    if video.is_counted:
        is_known = video.is_rate_known and known.count is not None
        return float(known.count / video.rate) if is_known and known.count else None
    if known.has_breaks:
        return None
    if known.end is not None:
        return known.end
    if not video.packets.describes_pictures(known.origin):
        return None
    promised = video.packets.promised_duration(known.origin)
    return None if promised is None or promised <= known.seen_until else promised
