"""What processors of questions about videos share: the videos of a chat, and the places of its answers."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .reading_texts import VideoTextProcessor  # first: it refuses an old transformers

# isort: split
import numpy as np

from .decoding_clips import flatten_pictures, flatten_videos
from .decoding_containers import SourceLimits
from .loading_transformers import CHATS_KEEP_ORDER
from .parsing_answers import answer_spans, mark_tokens, token_spans
from .parsing_chats import block_video, check_blocks, clips_in, with_one_kind, with_pictures_loaded

_EXPRESSION = re.compile("{[{%]")
_GENERATION_BLOCK = re.compile(r"{%-?\s*generation\s*-?%}")
# Arguments of `apply_chat_template` that no template gets, or that differ from text to text.
_OPTIONS_OF_INPUTS = {
    "add_generation_prompt",
    "continue_final_message",
    "load_audio_from_video",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
}
# How the beginning of a chat is encoded by itself.
_SINGLE = {
    "tokenize": True,
    "return_dict": True,
    "return_tensors": None,
    "return_assistant_tokens_mask": False,
    "continue_final_message": False,
}


def limits_in(options: Mapping[str, Any]) -> Any:
    """Return the `limits` of a call, which may be among its options about videos; `None` for the defaults."""
    return options.get("limits") or (options.get("videos_kwargs") or {}).get("limits")


def flatten_clips(images: Any, videos: Any, audio: Any, limits: SourceLimits) -> list[Any] | None:
    """List the videos and pictures of a call in the order of its prompts; a picture is a clip of one frame.

    Args:
        images, videos, audio: of a call.
        limits: of the files of pictures.

    Raises:
        ValueError: for audio, and for pictures beside videos, whose order in the prompts is unknown.
    """
    of_chat = clips_in([images, videos])
    if of_chat:
        images = None
        videos = of_chat
    if audio is not None:
        raise ValueError(f"audio must be absent, since H-MBA reads videos and pictures, got {type(audio).__name__}")
    if images is not None and videos is not None:
        raise ValueError("images must be among the videos, in the order of the prompts, got images and videos")
    if videos is not None:
        return flatten_videos(with_pictures_loaded(videos, partial(_load_picture, limits=limits)))
    if images is not None:
        return flatten_pictures(images, limits) or None
    return None


def _load_picture(source: Any, limits: Any) -> Any:
    """Open one picture of a chat, in any form that `images` take."""
    pictures = flatten_pictures(source, limits)
    if len(pictures) != 1:
        raise ValueError(f"a frame or an image must be one picture, got {len(pictures)}")
    return pictures[0][0]


def check_prompts(prompts: list[Any]) -> None:
    """Raise a `ValueError` unless all prompts are strings."""
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"text must be a string or a list of strings, got {type(prompt).__name__}")


def check_placeholders(wanted: int, clips: list[Any] | None, token: str) -> None:
    """Raise a `ValueError` unless prompts with so many placeholders, each a `token`, name each video once."""
    given = len(clips or ())
    if wanted != given:
        raise ValueError(
            # The words of transformers, which its own tests of processors look for.
            f"the number of {token} tokens in the prompts should be the same as the number of videos, "
            f"got {wanted} tokens and {given} videos"
        )


class VideoChatProcessor(VideoTextProcessor):
    """A processor of prompts about videos, whose chats hold videos and pictures in any order."""

    block_type = "video"  # of content blocks, as which a chat template reads videos and pictures

    def apply_chat_template(  # type: ignore[override]  # the other options are in `kwargs`
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write a chat as a prompt, or with `tokenize=True` as inputs of the model; all arguments are transformers'.

        Args:
            chat_template: a template, or the name of one of several; when absent `"default"`, or `"tool_use"` if there
                are tools and a template of this name, as tokenizers choose.
            kwargs: with `return_assistant_tokens_mask=True` the inputs have `assistant_masks`, `(b, l)`: the tokens
                of answers. Without `{% generation %}` in the template, an answer is the text behind its prompt.

        Raises:
            ValueError: if answers shall be found so, and the template does not write them behind the prompt, or if
                there is no template of a name.
        """
        if isinstance(conversation, (list, tuple)) and not conversation:
            raise ValueError("a chat must hold a message, and a list of chats a chat, got an empty list")
        if not CHATS_KEEP_ORDER and (kwargs.get("tokenize") or self.block_type == "image"):
            conversation = with_one_kind(conversation, self.block_type)
        if kwargs.get("load_audio_from_video"):
            raise ValueError("load_audio_from_video must be absent, since H-MBA reads no audio, got True")
        if isinstance(self.chat_template, dict):
            own = "default"
            if tools is not None and "tool_use" in self.chat_template:
                own = "tool_use"
            chat_template = self.chat_template.get(chat_template or own, chat_template)
        if chat_template is not None and not _EXPRESSION.search(chat_template):  # it would be the prompt of every chat
            names = list(self.chat_template) if isinstance(self.chat_template, dict) else []
            raise ValueError(
                f"chat_template must be a template that reads the chat, or one of the names {names}, got "
                f"{chat_template!r}"
            )
        kwargs |= {"chat_template": chat_template, "tools": tools, "documents": documents}
        template = chat_template or self.chat_template
        wants_marks = kwargs.get("return_assistant_tokens_mask") and kwargs.get("return_dict")
        if wants_marks and isinstance(template, str) and not _GENERATION_BLOCK.search(template):
            return self._mark_answers(conversation, kwargs)
        return super().apply_chat_template(conversation, **kwargs)

    def _mark_answers(self, conversation: Any, options: dict[str, Any]) -> Any:
        """Return the inputs of a chat or of several, with a mask of the assistant's answers."""
        if not self.tokenizer.is_fast:
            raise ValueError(
                "the tokenizer must be one of the package tokenizers to mark answers, got one written in Python"
            )
        for name in ("continue_final_message", "sanitize_control_tokens"):
            if options.get(name):
                raise ValueError(f"{name} must be absent where answers are marked, got {options[name]!r}")
        write: Any = super().apply_chat_template
        for_template = {name: value for name, value in options.items() if name not in _OPTIONS_OF_INPUTS}

        def render(messages: Any, add_generation_prompt: bool) -> str:
            return write(messages, add_generation_prompt=add_generation_prompt, **for_template)

        chats = conversation
        if not isinstance(conversation[0], (list, tuple)):
            chats = [conversation]
        spans = [answer_spans(chat, render, self.tokenizer.eos_token or "") for chat in chats]
        processor_kwargs = dict(options.get("processor_kwargs") or {})
        processor_kwargs["return_offsets_mapping"] = True
        processor_kwargs["return_text_replacement_offsets"] = True
        inputs = write(
            conversation,
            **{**options, "return_assistant_tokens_mask": False, "processor_kwargs": processor_kwargs},
        )
        changes = inputs.pop("text_replacement_offsets", None)
        offsets = inputs.pop("offset_mapping")
        masks = []
        for number, of_chat in enumerate(spans):
            if changes is not None:
                masks.append(mark_tokens(of_chat, np.asarray(offsets[number]).tolist(), changes[number]))
            else:
                masks.append(self._mark_by_tokens(chats[number], inputs, number, write, options))
        inputs["assistant_masks"] = masks
        tensors = options.get("return_tensors", "auto")
        if tensors == "auto":
            tensors = None
        return inputs.convert_to_tensors(tensor_type=tensors)

    def _mark_by_tokens(
        self, chat: Any, inputs: Any, number: int, write: Callable[..., Any], options: dict[str, Any]
    ) -> list[int]:
        """Mark the answers of a chat by the tokens of its beginnings, where placeholders have no known places."""
        ids = np.asarray(inputs["input_ids"][number])
        places = np.flatnonzero(np.asarray(inputs["attention_mask"][number]))
        whole = ids[places].tolist()

        def encode(messages: Any, add_generation_prompt: bool) -> list[int]:
            encoded = write(messages, **{**options, **_SINGLE, "add_generation_prompt": add_generation_prompt})
            return np.asarray(encoded["input_ids"][0]).tolist()

        marks = np.zeros(len(ids), dtype=int)
        for start, end in token_spans(chat, whole, encode, self.tokenizer.eos_token_id):
            marks[places[start:end]] = 1
        return marks.tolist()

    def _adjust_assistant_masks_indices(self, processed_dict: Any, generation_indices: Any) -> Any:
        offsets = processed_dict["offset_mapping"]
        if hasattr(offsets, "tolist"):  # transformers walks through them, which takes long in a tensor
            processed_dict["offset_mapping"] = offsets.tolist()
        theirs: Any = super()
        return theirs._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _multimodal_inputs_from_conversations(
        self, conversations: list[list[dict]], audio_loading_params: dict, load_audio_from_video: bool = False
    ) -> tuple[list, list, list, dict]:
        blocks: list[dict] = []
        for conversation in conversations:
            for message in conversation:
                content = message.get("content")
                if isinstance(content, (list, tuple)):
                    blocks += content
        check_blocks(blocks)
        videos = [block_video(block) for block in blocks if block["type"] != "text"]
        return [], [videos], [], {}


__all__ = ["VideoChatProcessor", "check_placeholders", "check_prompts", "flatten_clips", "limits_in"]
