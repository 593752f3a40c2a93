"""The videos and pictures in the content blocks of a chat.

A picture stays as it was given until the options of the call are known, which limit the files that may be opened.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from transformers.video_utils import is_valid_video_frame


@dataclass(frozen=True)
class Picture:
    """A picture of a chat, not opened yet.

    Attributes:
        source: the picture in any form that a processor's `images` take.
    """

    source: Any


@dataclass(frozen=True)
class Clip:
    """A video or picture in a block of another kind, as a chat template reads it.

    Attributes:
        block: its own content block.
    """

    block: dict


def as_pictures(blocks: Any) -> Any:
    """Return content blocks in which each video is a picture, with a `Clip` as its source, as `block_video` knows.

    Args:
        blocks: the content of a message; text stays as it is.

    Raises:
        ValueError: as `check_blocks`.
    """
    if not isinstance(blocks, (list, tuple)):
        return blocks
    check_blocks(blocks)
    pictures = []
    for block in blocks:
        if block["type"] == "video":
            block = {"type": "image", "image": Clip(block)}
        pictures.append(block)
    return pictures


def clips_in(sources: Any) -> list[Clip]:
    """List the clips of a chat among the images or videos of a call, in any nesting."""
    if isinstance(sources, Clip):
        return [sources]
    clips: list[Clip] = []
    if isinstance(sources, (list, tuple)):
        for item in sources:
            clips += clips_in(item)
    return clips


def with_pictures_loaded(videos: Any, load: Callable[[Any], Any]) -> Any:
    """Return any nesting of videos in which each `Picture` is replaced by its frame.

    Args:
        videos: of `block_video`, a `Clip`, or lists of these.
        load: opens the source of a picture.
    """
    if isinstance(videos, Clip):
        return with_pictures_loaded(block_video(videos.block), load)
    if isinstance(videos, Picture):
        return load(videos.source)
    if isinstance(videos, (list, tuple)):
        return [with_pictures_loaded(item, load) for item in videos]
    return videos


def block_video(block: dict) -> Any:
    """Return the video of one content block; an image is a clip of one frame, and only it may be base64 text.

    Raises:
        ValueError: if the block holds no source.
    """
    source = _block_source(block)
    if isinstance(source, Clip):
        return block_video(source.block)
    if block["type"] == "image" or is_valid_video_frame(source):
        return [Picture(source)]
    if isinstance(source, (list, tuple)):
        return [Picture(frame) for frame in source]
    return source


def _block_source(block: dict) -> Any:
    keys: tuple[str, ...] = (block["type"], "url", "path")
    if block["type"] == "image":
        keys = (*keys, "base64")
    for key in keys:
        if block.get(key) is not None:
            return block[key]
    raise ValueError(f"a block of type {block['type']} must have one of the keys {keys}, got {sorted(block)}")


def check_blocks(blocks: Iterable[dict]) -> None:
    """Raise a `ValueError` for blocks that a chat template might skip, such as audio."""
    others = {str(block["type"]) for block in blocks} - {"video", "image", "text"}
    if others:
        raise ValueError(f"content blocks must be of type video, image or text, got {sorted(others)}")


def with_one_kind(conversation: Any, kind: str) -> Any:
    """Return a chat, or several, with its videos and pictures as blocks of one kind, with a `Clip` as their source.

    See `CHATS_KEEP_ORDER`.

    Args:
        kind: `"video"` or `"image"`.

    Raises:
        ValueError: as `check_blocks`.
    """
    if isinstance(conversation, (list, tuple)):
        return [with_one_kind(item, kind) for item in conversation]
    content = conversation.get("content")
    if not isinstance(content, (list, tuple)):
        return conversation
    blocks = []
    for block in content:
        if block["type"] == "image_url":
            address = block["image_url"]
            if isinstance(address, dict):
                address = address["url"]
            block = {"type": "image", "url": address}
        if block["type"] in ("video", "image"):
            block = {"type": kind, kind: Clip(block)}
        blocks.append(block)
    check_blocks(blocks)
    return {**conversation, "content": blocks}


__all__ = [
    "Clip",
    "Picture",
    "as_pictures",
    "block_video",
    "check_blocks",
    "clips_in",
    "with_one_kind",
    "with_pictures_loaded",
]
