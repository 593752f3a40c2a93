"""Prompts, videos and box text of H-MBA: what the language model reads and what its answer says."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading_checkpoints import check_file_names, load_tokenizer  # first: it refuses a transformers that is too old

# isort: split
import numpy as np
from transformers import AutoConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import load_image
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import is_valid_video_frame

from .parsing_boxes import ParsedBox, format_boxes, parse_boxes, post_process_boxes, strip_boxes
from .video_processing_hmba import HMBAVideoProcessor, flatten_videos

if TYPE_CHECKING:  # makes the pipeline travel with a saved processor
    from .pipeline_hmba import VideoTextToTextPipeline  # noqa: F401


# Content blocks become plain text, so that what follows may be any chat template that knows only strings.
_FLATTEN_BLOCKS = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if content is not string -%}
        {%- set content -%}
            {%- for block in message['content'] -%}
                {%- if block['type'] in ['video', 'image'] -%}
                    {{- VIDEO_TOKEN -}}
                {%- elif block['type'] == 'text' -%}
                    {{- block['text'] -}}
                {%- else -%}
                    {{- raise_exception('expected a block of type video, image or text, got ' ~ block['type']) -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endset -%}
    {%- endif -%}
    {%- set flat.messages = flat.messages + [dict(message, content=content)] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""

_VICUNA = """\
{%- set system = "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions." -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{%- if system -%}
    {{- system ~ ' ' -}}
{%- endif -%}
{%- for message in turns -%}
    {%- if message['role'] == 'user' -%}
        {{- 'USER: ' ~ message['content'] ~ ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' -}}
        {%- generation -%}
            {{- message['content'] ~ eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('expected the role user or assistant, got ' ~ message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""


def _load_frame(frame: Any) -> Any:
    return load_image(str(frame)) if isinstance(frame, (str, Path)) else frame


def _load_block(block: dict) -> Any:
    """Return the video of one content block; an image is a clip of one frame, and it alone may come as base64 text."""
    keys = (block["type"], "url", "path", *(["base64"] if block["type"] == "image" else []))
    source = next((block[key] for key in keys if block.get(key) is not None), None)
    if source is None:
        raise ValueError(f"expected a {block['type']} block with one of the keys {keys}, got {sorted(block)}")
    if block["type"] == "image" or is_valid_video_frame(source):
        return [_load_frame(source)]
    return [_load_frame(frame) for frame in source] if isinstance(source, (list, tuple)) else source


def _default_chat_template(tokenizer: Any, video_token: str) -> str:
    """Return the tokenizer's own chat template, made to accept videos, or vicuna v1.1 if it has none."""
    own = getattr(tokenizer, "chat_template", None)
    own = own.get("default") if isinstance(own, dict) else own
    flatten = _FLATTEN_BLOCKS.replace("VIDEO_TOKEN", json.dumps(video_token))
    return own if own and own.startswith(flatten) else flatten + (own or _VICUNA)


class HMBAProcessor(ProcessorMixin):
    """Turn prompts and videos into model inputs, and answers into boxes.

    In a prompt each video is written as one `video_token`, which becomes
    `video_start_token + video_token * num_patches + video_end_token`: the tokens of a single frame, however long the
    clip is. `timestamp`, `num_frames` and `fps` go to the video processor. A picture among the videos or in an image
    block of a chat is a clip of one frame.

    Args:
        chat_template: the tokenizer's own if it has one, else vicuna v1.1. Masks for training need a template with
            `{% generation %}`, which vicuna's here has.
        patch_size: side of a vision patch in pixels, of the frames that the video processor returns.

    Source: github.com/Sranc3/H-MBA at 9a8645d; its `video_token` is `<im_patch>` between `<im_start>` and `<im_end>`.
    """

    _auto_class = "AutoProcessor"

    format_boxes = staticmethod(format_boxes)
    parse_boxes = staticmethod(parse_boxes)
    post_process_boxes = staticmethod(post_process_boxes)
    strip_boxes = staticmethod(strip_boxes)

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        patch_size: int = 14,
        video_token: str = "<video>",
        video_start_token: str | None = None,
        video_end_token: str | None = None,
    ):
        chat_template = chat_template or _default_chat_template(tokenizer, video_token)
        super().__init__(video_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.video_token = video_token
        self.video_start_token = video_start_token
        self.video_end_token = video_end_token
        vocabulary = tokenizer.get_vocab()
        for token in (video_token, video_start_token, video_end_token):
            if token is not None and token not in vocabulary:
                raise ValueError(
                    f"expected a tokenizer with the special token {token!r}; add it with add_special_tokens"
                )
        self.video_token_id = vocabulary[video_token]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor as every processor of transformers is loaded.

        Raises:
            ValueError: if it names a tokenizer's file that lies elsewhere.
        """
        listed = "fast_tokenizer_files"
        check_file_names(
            pretrained_model_name_or_path, "tokenizer_config.json", lambda held: held.get(listed) or (), kwargs
        )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, video_token: str = "<video>", **kwargs: Any
    ) -> "HMBAProcessor":
        """Build the processor of a model joined by `HMBAForConditionalGeneration.from_vision_text_pretrained`.

        Args:
            vision, text, video_token: as given to the model; the token is added to the language model's tokenizer,
                which pads with its unknown or end token if it has none for padding.
            kwargs: `num_frames`, which must match the model's, `fps`, and further options of the video processor
                instead of the vision tower's frame size, mean and std.
        """
        config = AutoConfig.from_pretrained(vision)
        config = getattr(config, "vision_config", config)
        tokenizer = load_tokenizer(text)
        tokenizer.add_tokens([video_token], special_tokens=True)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
        options, _ = ImageProcessingMixin.get_image_processor_dict(vision)
        options = {name: options[name] for name in ("image_mean", "image_std") if name in options}
        sides = (config.image_size, config.patch_size)  # one number or two
        (height, width), (patch_size, _) = (np.broadcast_to(side, 2).tolist() for side in sides)
        # As the model has it: no patch covers the rest.
        options["size"] = {"height": height - height % patch_size, "width": width - width % patch_size}
        video_processor = HMBAVideoProcessor(**{**options, **kwargs})
        return cls(video_processor, tokenizer, patch_size=patch_size, video_token=video_token)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Accept a video processor also without torchvision, where transformers does not export its base class."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"expected a video processor, got {type(argument).__name__}")
        return VideoProcessorMixin

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple:
        """Return the prompts as a list and the videos as a flat list in prompt order."""
        images, text, _, audio = super().prepare_inputs_layout(images=images, text=text, audio=audio, **kwargs)
        return images, text, None if videos is None else flatten_videos(videos), audio

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Check that the prompts are strings and name each video once."""
        if text is None and videos is None:
            raise ValueError("expected text, videos or both, got neither")
        if text is None:
            return
        for prompt in text:
            if not isinstance(prompt, str):
                raise ValueError(f"expected text as a string or a list of strings, got {type(prompt).__name__}")
        wanted, given = sum(prompt.count(self.video_token) for prompt in text), len(videos or ())
        if wanted != given:
            raise ValueError(
                f"the number of {self.video_token} tokens in the prompts should be the same as the number of videos, "
                f"got {wanted} tokens and {given} videos"
            )

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        inputs = self.video_processor([videos], **kwargs)
        return inputs, [self.replace_video_token(inputs, index) for index in range(len(videos))]

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs: Any) -> str:
        """Return the text that stands for one video: a token for each patch of one frame."""
        height, width = video_inputs["pixel_values_videos"][video_idx].shape[-2:]
        tokens = self.video_token * self._num_patches(height, width)
        return f"{self.video_start_token or ''}{tokens}{self.video_end_token or ''}"

    def _num_patches(self, height: int, width: int) -> int:
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"expected frames whose height and width are multiples of patch_size={self.patch_size}, "
                f"got {height} x {width}"
            )
        return (height // self.patch_size) * (width // self.patch_size)

    def _get_num_multimodal_tokens(self, video_sizes: list[list[int]] | None = None, **kwargs: Any) -> MultiModalData:
        """Count the video tokens for videos of `(frames, height, width)` each, by what a blank frame of it becomes."""
        if video_sizes is None:
            return MultiModalData()
        options = self._merge_kwargs(**kwargs)["videos_kwargs"]
        counts = []
        for _, height, width in video_sizes:
            blank = self.video_processor(np.zeros((height, width, 3), np.uint8), **options)["pixel_values_videos"]
            counts.append(self._num_patches(*blank.shape[-2:]))
        return MultiModalData(num_video_tokens=counts)

    def _multimodal_inputs_from_conversations(
        self, conversations: list[list[dict]], audio_loading_params: dict, load_audio_from_video: bool = False
    ) -> tuple[list, list, list, dict]:
        contents = [message.get("content") for conversation in conversations for message in conversation]
        blocks = [block for content in contents if isinstance(content, (list, tuple)) for block in content]
        return [], [[_load_block(block) for block in blocks if block["type"] in ("video", "image")]], [], {}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict, with the code that a saved processor carries."""
        return {**super().to_dict(), "auto_map": {"AutoProcessor": "processing_hmba.HMBAProcessor"}}


__all__ = ["HMBAProcessor", "ParsedBox", "format_boxes", "parse_boxes", "post_process_boxes", "strip_boxes"]
