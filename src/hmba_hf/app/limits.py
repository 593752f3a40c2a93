"""Limits on what the visitors of a page may send, as options of `hmba app`."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..models.decoding_containers import SourceLimits


def _limit(default: Any, of: str) -> Any:
    return field(default=default, metadata={"help": of})


@dataclass(kw_only=True)
class PageLimits:
    """Limits on clips, questions and answers.

    Raises:
        ValueError: if one is not above zero.
    """

    max_upload_bytes: int = _limit(2**26, "of an uploaded clip")
    max_clip_seconds: float = _limit(600.0, "of a clip, or of a camera in the stream tab")
    max_pixels: int = _limit(2**23, "of a frame")
    max_question: int = _limit(500, "characters of a question")
    max_new_tokens: int = _limit(128, "of an answer")
    max_streams: int = _limit(4, "files and cameras that are watched at once")
    max_records: int = _limit(200, "answers that a visit keeps")

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value > 0:
                raise ValueError(f"{limit.name} must be above zero, got {value}")

    @property
    def of_sources(self) -> SourceLimits:
        """Limits on a file and its claims."""
        return SourceLimits(max_pixels=self.max_pixels, max_bytes=self.max_upload_bytes)

    def check_question(self, question: str | None) -> str:
        """Return a question without the space around it.

        Raises:
            ValueError: if nothing is left, or too much.
        """
        text = (question or "").strip()
        if not text:
            raise ValueError("a question must have words, got none")
        if len(text) > self.max_question:
            raise ValueError(f"a question must have at most {self.max_question} characters, got {len(text)}")
        return text
