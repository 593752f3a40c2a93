"""Limits on what the visitors of a page may send, as options of `hmba app`."""

from dataclasses import dataclass

from ..limits import check_limits, limit
from ..models.decoding_containers import SourceLimits


@dataclass(kw_only=True)
class PageLimits:
    """Limits on clips, questions and answers.

    Raises:
        ValueError: if one is not above zero, or `max_clip_seconds`, for which a camera is watched, above 10,000,000.
    """

    max_upload_bytes: int = limit(2**26, "of an uploaded clip")
    max_clip_seconds: float = limit(600.0, "of a clip, or of a camera in the stream tab")
    max_pixels: int = limit(2**23, "of a frame")
    max_question: int = limit(500, "characters of a question")
    max_new_tokens: int = limit(128, "of an answer")
    max_streams: int = limit(4, "files and cameras that are watched at once")
    max_records: int = limit(200, "answers that a visit keeps")

    def __post_init__(self) -> None:
        check_limits(self)

    @property
    def of_sources(self) -> SourceLimits:
        """Limits on a file and its claims."""
        return SourceLimits(max_pixels=self.max_pixels, max_bytes=self.max_upload_bytes)

    def check_question(self, question: str | None) -> str:
        """Return a question without the space around it.

        Raises:
            ValueError: if nothing is left, or too much, or no text.
        """
        text = (question or "").strip()
        if not text:
            raise ValueError("a question must have words, got none")
        if len(text) > self.max_question:
            raise ValueError(f"a question must have at most {self.max_question} characters, got {len(text)}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # half of a pair, which no tokenizer reads
            raise ValueError("a question must be whole characters, got a broken one")
        return text
