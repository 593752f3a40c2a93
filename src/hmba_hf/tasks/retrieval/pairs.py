"""What a pair of a video and a text is, whatever dataset it comes from."""

from typing import Any


def caption_of(sample: Any) -> str:
    """Return the text of a sample: its caption, or the name of its class.

    Raises:
        ValueError: if it has neither.
    """
    caption = getattr(sample, "caption", None) or getattr(sample, "label_name", None)
    if not caption:
        raise ValueError(f"sample {sample.id} must have a caption or the name of a class, got neither")
    return caption


def video_name_of(sample: Any) -> str:
    """Return the name of a sample's video, which samples with other captions may share."""
    return getattr(sample, "video_id", None) or sample.id
