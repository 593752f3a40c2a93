"""Limits on what clients may ask of an endpoint, as options of `hmba serve`."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..models.decoding_containers import SourceLimits


def _limit(default: Any, of: str) -> Any:
    return field(default=default, metadata={"help": of})


@dataclass(kw_only=True)
class ServingLimits:
    """Limits on what clients may send, and on how much of it is held at once.

    Raises:
        ValueError: if one is not above zero.
    """

    max_upload_bytes: int = _limit(2**25, "of a request, an uploaded file or one behind an address")
    max_stored_bytes: int = _limit(2**30, "of all uploaded files, which are kept on disk for an hour")
    max_body_seconds: float = _limit(60.0, "in which a request must have come, and a file behind an address")
    max_request_seconds: float = _limit(300.0, "from a request to the end of its answer")
    max_requests: int = _limit(256, "that are read, wait or are answered at once")
    max_batch: int = _limit(8, "requests, or cameras, that the model reads together")
    max_new_tokens: int = _limit(1024, "of an answer")
    max_clips: int = _limit(8, "of a request, pictures among them")
    max_clip_seconds: float = _limit(3600.0, "of a video, by its header")
    max_frames: int = _limit(32, "that are read of a clip")
    max_pixels: int = _limit(2**23, "of a frame")
    max_streams: int = _limit(32, "cameras at once")
    max_frame_bytes: int = _limit(2**22, "of a camera's frame, as it is sent")
    allow_private_addresses: bool = field(
        default=False, metadata={"help": "fetch videos from this machine and its network, too, if clients name them"}
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name.startswith("max_") and not value > 0:
                raise ValueError(f"{limit.name} must be above zero, got {value}")

    @property
    def of_sources(self) -> SourceLimits:
        """Limits on a file and its claims."""
        return SourceLimits(max_pixels=self.max_pixels, max_bytes=self.max_upload_bytes)
