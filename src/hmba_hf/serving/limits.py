"""Limits on what clients may ask of an endpoint, as options of `hmba serve`."""

from dataclasses import dataclass

from ..limits import check_limits, limit
from ..models.decoding_containers import SourceLimits


@dataclass(kw_only=True)
class ServingLimits:
    """Limits on what clients may send, and on how much of it is held at once.

    Raises:
        ValueError: if one is not above zero, or a time to wait is above 10,000,000 seconds.
    """

    max_upload_bytes: int = limit(2**25, "of a request, of an upload, and of all clips of a request")
    max_stored_bytes: int = limit(2**30, "of all uploaded files, which are kept on disk for an hour")
    max_stored_files: int = limit(4096, "that are kept so at once")
    max_head_seconds: float = limit(20.0, "in which a connection must have sent the head of a request")
    max_body_seconds: float = limit(60.0, "in which a request must have come, and a file behind an address")
    max_request_seconds: float = limit(300.0, "from a request to the end of its answer")
    max_requests: int = limit(256, "that are read, wait or are answered at once")
    max_batch: int = limit(8, "requests, or cameras, that the model reads together")
    max_new_tokens: int = limit(1024, "of an answer")
    max_clips: int = limit(8, "of a request, pictures among them")
    max_clip_seconds: float = limit(3600.0, "of a video, by its header")
    max_frames: int = limit(32, "that are read of a clip")
    max_pixels: int = limit(2**23, "of a frame")
    max_streams: int = limit(32, "cameras at once")
    max_idle_seconds: float = limit(300.0, "in which a camera must send something, else its connection ends")
    max_frame_bytes: int = limit(2**22, "of a camera's frame, as it is sent")
    allow_private_addresses: bool = limit(
        False, "fetch videos from this machine and its network, too, if clients name them"
    )

    def __post_init__(self) -> None:
        check_limits(self, "max_clip_seconds")

    @property
    def of_sources(self) -> SourceLimits:
        """Limits on a file and its claims."""
        return SourceLimits(
            max_pixels=self.max_pixels, max_bytes=self.max_upload_bytes, max_video_seconds=self.max_clip_seconds
        )
