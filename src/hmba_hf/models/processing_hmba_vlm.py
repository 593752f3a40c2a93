"""The processor of H-MBA on a vision-language model: the base's own, in which a clip stands as one picture."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    file_options,
    read_settings,
)
from .loading_options import refuse_unknown_options, tokenizer_options

# isort: split
import numpy as np
from transformers.feature_extraction_utils import BatchFeature

try:  # what does not stand before a placeholder, unless it is sanitized text of a user
    from transformers.processing_utils import _UNMARKED
except ImportError:  # this transformers sanitizes none
    _UNMARKED = ""

from .batching_hmba import TEXT_INPUTS
from .batching_hmba_vlm import OFFSETS, PAST, PictureEncoder, as_picture, join_inputs
from .loading_processors import load_base_processor, restore_base_processor
from .parsing_answers import check_unchanged, offsets_before
from .parsing_boxes import ParsedBox
from .parsing_chats import as_pictures
from .parsing_dialects import BASES, DIALECTS, BoxDialect, dialect_of, find_dialect
from .prompting_hmba import check_time_format, text_behind_picture, write_time
from .reading_chats import VideoChatProcessor, check_placeholders, check_prompts, flatten_clips, limits_in
from .video_processing_hmba import HMBAVideoProcessor

if TYPE_CHECKING:  # transformers copies imported files into a saved checkpoint, and so the pipeline
    from .pipeline_hmba import VideoTextToTextPipeline  # noqa: F401

# Frames go to the base's image processor as they are.
_FRAMES_AS_THEY_ARE = {"do_expand_to_square": False, "do_resize": False, "do_rescale": False, "do_normalize": False}
# Options of a call about clips; all others are the base's.
_OF_CLIPS = (
    "timestamp",
    "num_frames",
    "fps",
    "source_fps",
    "only_whole",
    "limits",
    "video_metadata",
    "do_sample_frames",
    "input_data_format",
)
# Options of the video processor that may be stored with it.
_STORED_OF_CLIPS = ("num_frames", "fps", "source_fps", "only_whole")
# Options of the processor itself.
_OWN = ("boxes_dialect", "time_format")
# Options of image processors that decide how large the base sees a picture.
_SIZES = {"size", "min_pixels", "max_pixels", "do_resize", "crop_size", "do_center_crop"}
_KINDS = ("text_kwargs", "images_kwargs", "common_kwargs")


class HMBAVLMProcessor(VideoChatProcessor):
    """Turn prompts and videos into inputs of an H-MBA on a vision-language model, and answers into boxes.

    A prompt is one of the base, and a clip stands in it as one picture: `video_token` is the base's token for a
    picture. The current frame of each clip goes with the prompt through the base's own processor, which so gives
    exactly what it gives for that picture. All earlier frames go through it, too; their image inputs have `past_`
    before their names, oldest frame first, clip after clip. `past_lengths`, `(pictures,)`, counts the earlier frames
    of each picture, and `picture_tokens`, `(pictures,)`, its tokens in the prompt.

    `timestamp`, `num_frames`, `fps`, `source_fps`, `only_whole`, `limits` and `video_metadata` are options of a call
    about clips, see `HMBAVideoProcessor`, and so is `time_format`; all others are the base's. A picture among the
    videos, in `images` or in an image block of a chat is a clip of one frame.

    Args:
        base_processor: of the base, a processor of transformers for pictures and texts.
        video_processor: an `HMBAVideoProcessor` that leaves frames as they are; one of 5 frames at 2 fps when absent.
        boxes_dialect: how the base writes boxes, a name of `DIALECTS`; boxes are refused when it is absent.
            `from_base_pretrained` finds it by the base's model type, where that is known.
        time_format: text behind each clip in a prompt, in which `{seconds}` becomes the time of its current frame. A
            clip without a known time, such as a picture, gets no text. None: no text.

    Source: arXiv:2501.04302.
    """

    _auto_class = "AutoProcessor"
    own_video_processor = HMBAVideoProcessor
    auto_map_entry = "processing_hmba_vlm.HMBAVLMProcessor"
    block_type = "image"

    def __init__(
        self,
        base_processor: Any = None,
        video_processor: Any = None,
        boxes_dialect: str | None = None,
        time_format: str | None = None,
    ):
        for part in ("image_processor", "tokenizer"):
            if getattr(base_processor, part, None) is None:
                name = type(base_processor).__name__
                raise ValueError(
                    f"base_processor must be a processor of pictures and texts, got {name} without {part}"
                )
        if getattr(base_processor, "image_token", None) is None:
            raise ValueError(
                "base_processor must have an image_token, which stands for a picture in a prompt, got "
                f"{type(base_processor).__name__} without one"
            )
        if base_processor.image_token not in base_processor.tokenizer.get_vocab():
            raise ValueError(
                f"the tokenizer of base_processor must have its image_token, {base_processor.image_token!r}, got one "
                "without"
            )
        check_time_format(time_format)
        if boxes_dialect is not None:
            find_dialect(boxes_dialect)
        if video_processor is None:
            video_processor = HMBAVideoProcessor(**_FRAMES_AS_THEY_ARE)
        self.base_processor = base_processor
        super().__init__(video_processor, chat_template=base_processor.chat_template or self.tokenizer.chat_template)
        if changed := [name for name in (*_FRAMES_AS_THEY_ARE, "do_center_crop") if getattr(video_processor, name)]:
            raise ValueError(f"video_processor must leave frames as they are, got one with {changed}")
        self.boxes_dialect = boxes_dialect
        self.time_format = time_format

    @classmethod
    def from_base_pretrained(cls, base: Any, **options: Any) -> "HMBAVLMProcessor":
        """Build the processor of a model that `HMBAVLMForConditionalGeneration.from_base_pretrained` makes.

        It pads on the left, for generation.

        Args:
            base: folder or Hub id of the base, as given to the model.
            options: `boxes_dialect` in place of that of the base's model type and `time_format`; `num_frames`, which
                must match the model's, `fps`, `source_fps` and `only_whole` of the video
                processor; and those of the base's processor and its parts, such as `padding_side` or `size`, and of
                loading, such as `revision`.

        Raises:
            ValueError: for an option that nothing has, or a base without a processor of pictures and texts.
        """
        own = {name: options.pop(name) for name in _OWN if name in options}
        clips = {name: options.pop(name) for name in _STORED_OF_CLIPS if name in options}
        try:
            base_processor = load_base_processor(base, **options)
        except OSError as error:
            raise ValueError(
                f"the base {base} must have a processor of pictures and texts, got none: {error}"
            ) from error
        if "padding_side" not in options:
            base_processor.tokenizer.padding_side = "left"  # else answers of a batch follow the padding
        if own.get("boxes_dialect") is None:
            settings = read_settings(base, "config.json", **file_options(options))
            if settings.get("model_type") in BASES:
                own["boxes_dialect"] = dialect_of(settings["model_type"])
        processor = cls(base_processor, HMBAVideoProcessor(**_FRAMES_AS_THEY_ARE, **clips), **own)
        refuse_unknown_options(options, {*own, *_STORED_OF_CLIPS, *processor._stored_options_of_base()})
        return processor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        held = (processor_dict or {}).get("base_processor")
        if not isinstance(held, Mapping):
            raise ValueError(
                f"processor_config.json of {pretrained_model_name_or_path} must have the settings of a "
                "base_processor, got none: HMBAVLMProcessor.from_base_pretrained builds a processor from a base"
            )
        settings = {**held, "chat_template": processor_dict.get("chat_template")}
        base = restore_base_processor(pretrained_model_name_or_path, settings, **kwargs)
        arguments = super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)
        return [base, *arguments]

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from its parts and its own settings of a file; see `VideoTextProcessor`."""
        own: dict[str, Any] = {}
        for name in _OWN:
            if name in processor_dict:
                own[name] = processor_dict[name]
        return super().from_args_and_dict(args, own, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict, the base's within it, with the code that a saved processor carries."""
        held = self.base_processor.to_dict()
        pictures = held.pop("image_processor")
        settings = {
            "auto_map": {"AutoProcessor": self.auto_map_entry},
            "base_processor": held,
            "boxes_dialect": self.boxes_dialect,
            "image_processor": pictures,  # where `AutoImageProcessor` looks for it
            "processor_class": type(self).__name__,
            "video_processor": self.video_processor.to_dict(),
        }
        if self.time_format is not None:
            settings["time_format"] = self.time_format
        return settings

    def _save_files(self, folder: Any) -> Any:
        """Write the tokenizer of the base and its chat templates beside the settings."""
        own = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.chat_template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = own
        return super()._save_files(folder)

    @property
    def _pictures(self) -> PictureEncoder:
        return PictureEncoder(self.base_processor)

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the base."""
        return self.base_processor.tokenizer

    @property
    def image_processor(self) -> Any:
        """Image processor of the base."""
        return self.base_processor.image_processor

    @property
    def chat_template(self) -> Any:
        """Chat template of the base, or several by name."""
        return self.base_processor.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.base_processor.chat_template = template

    @property
    def video_token(self) -> str:
        """The base's token for a picture, which stands for a clip in a prompt."""
        return self.base_processor.image_token

    @property
    def video_token_id(self) -> int:
        """Id of the token that stands in encoded prompts for one row of a picture's features."""
        return self._pictures.token_id

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs, those of texts first: a trainer takes a sample's length from the first one."""
        names = dict.fromkeys([*self.tokenizer.model_input_names, *self.base_processor.model_input_names])
        pictures = [name for name in names if name not in TEXT_INPUTS]
        return [*names, *(PAST + name for name in pictures), "past_lengths", "picture_tokens"]

    def apply_chat_template(  # type: ignore[override]  # the other options are in `kwargs`
        self, conversation: Any, chat_template: str | None = None, **kwargs: Any
    ) -> Any:
        """Write a chat in the base's template, each clip as a picture, or turn it into inputs of the model.

        Arguments are those of `HMBAProcessor.apply_chat_template`.

        Raises:
            ValueError: if neither the base nor the call has a chat template, and as there.
        """
        if chat_template is None and not self.chat_template:
            raise ValueError("a chat must have a chat_template, of the base or of the call, got neither")
        return super().apply_chat_template(conversation, chat_template, **kwargs)

    # Methods with an underscore up to `__call__` are transformers' own hooks: it has no public ones in their place.

    def _normalize_conversations(self, conversation: Any) -> tuple[list, bool]:
        conversations, is_batched = super()._normalize_conversations(conversation)
        for messages in conversations:
            for message in messages:
                if "content" in message:
                    message["content"] = as_pictures(message["content"])
        return conversations, is_batched

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Turn prompts, and the videos and pictures that they name by `video_token`, into inputs of the model.

        Args:
            images, videos: in the order of the prompts, in any nesting; one of both.
            text: a prompt or a list of prompts.
            kwargs: options about clips and of the base's processor. `return_metadata=True` adds `video_metadata`, one
                `ClipMetadata` for each clip.

        Raises:
            ValueError: for an unknown option, a prompt that is no text, audio, as many clips as no prompt names,
                frames of one clip in several sizes, and as the video processor.
            VideoDecodeError: as the video processor.
        """
        self._check_options(kwargs)
        of_clips, of_base = self._split_options(kwargs)
        self._check_sizes(of_base)
        if text is None:
            raise ValueError("text must be given, with a token for each clip, got None")
        prompts = [text] if isinstance(text, str) else list(text)
        if not prompts:
            raise ValueError("text must be a prompt or a list of prompts, got an empty list")
        check_prompts(prompts)
        clips = flatten_clips(images, videos, audio, limits_in(kwargs) or self.video_processor.limits)
        placeholder = re.compile(_UNMARKED + re.escape(self.video_token))
        counts = [len(placeholder.findall(prompt)) for prompt in prompts]
        check_placeholders(sum(counts), clips, self.video_token)
        if not clips:
            return self._pictures.encode_texts(prompts, of_base)

        frames, described = self.video_processor.read_clips([clips], **of_clips)
        timed, times = self._with_times(prompts, placeholder, described, kwargs)
        encoded = self._pictures.encode(timed, _by_prompt(frames, counts), of_base)
        if OFFSETS in encoded:
            if "offset_mapping" in encoded:
                for one in zip(timed, encoded[OFFSETS], encoded["offset_mapping"], strict=True):
                    check_unchanged(*one)
            encoded[OFFSETS] = [offsets_before(*one) for one in zip(encoded[OFFSETS], times, strict=True)]
        if _wants(kwargs, "return_metadata"):
            encoded["video_metadata"] = described
        if not _wants(kwargs, "return_" + OFFSETS):
            encoded.pop(OFFSETS, None)
        return BatchFeature(encoded, skip_tensor_conversion=["video_metadata", OFFSETS])

    def _with_times(
        self, prompts: list[str], placeholder: re.Pattern, described: list[Any], options: Mapping[str, Any]
    ) -> tuple[list[str], list[list[tuple[int, str]]]]:
        """Write the time of each clip behind its picture.

        Returns:
            The prompts, and of each the place in the prompt before and the text of each time.
        """
        of_videos = {**(options.get("videos_kwargs") or {}), **options}
        time_format = of_videos.get("time_format", self.time_format)
        check_time_format(time_format)
        if time_format is None:
            return prompts, [[] for _ in prompts]
        closing = text_behind_picture(self.tokenizer, self.chat_template, self.video_token)
        rest = iter(described)
        timed = []
        times = []
        for prompt in prompts:
            placed = []
            for found in placeholder.finditer(prompt):
                place = found.end()
                if prompt.startswith(closing, place):
                    place += len(closing)
                placed.append((place, write_time(next(rest), time_format)))
            for place, text in reversed(placed):
                prompt = prompt[:place] + text + prompt[place:]
            timed.append(prompt)
            times.append(placed)
        return timed, times

    def frame_inputs(self, frames: Sequence[Any], return_tensors: str | None = "pt", **options: Any) -> dict[str, Any]:
        """Return the base's image inputs of single frames, in their order, for `get_frame_features` of the model.

        Args:
            frames: pictures in any form that `images` take.
            return_tensors: as of a call.
            options: `limits` and `input_data_format`, and those of the base's image processor.

        Raises:
            ValueError: for an unknown option, or without frames.
        """
        of_clips, of_base = self._split_options(options)
        self._check_options(of_base)
        if unread := sorted(of_clips.keys() - {"limits", "input_data_format"}):
            raise ValueError(f"options of single frames must be about pictures, got {unread}")
        clips = flatten_clips(list(frames), None, None, limits_in(options) or self.video_processor.limits)
        if not clips:
            raise ValueError("frames must be one picture or more, got none")
        arrays, _ = self.video_processor.read_clips([clips], **of_clips)
        pictures = [[as_picture(array[-1])] for array in arrays]
        return self._pictures.encode_alone(pictures, {**of_base, "return_tensors": return_tensors})

    def _split_options(self, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Part the options of a call into those about clips and those of the base's processor."""
        of_videos = {**(options.get("videos_kwargs") or {}), **options}
        of_clips = {name: of_videos[name] for name in _OF_CLIPS if name in of_videos}
        own = {*_OF_CLIPS, "videos_kwargs", "return_metadata", "time_format"}
        of_base = {name: value for name, value in options.items() if name not in own}
        return of_clips, of_base

    def _check_options(self, options: dict[str, Any]) -> None:
        """Refuse options of a call that nothing reads."""
        known = self._pictures.known_options()
        of_clips = {*_OF_CLIPS, "return_metadata", "time_format"}
        of_any = {*of_clips, "videos_kwargs", "common_kwargs"}.union(*known.values())
        unknown = options.keys() - of_any
        for kind, names in {**known, "videos_kwargs": of_clips}.items():
            unknown |= (options.get(kind) or {}).keys() - names
        if unknown:
            raise ValueError(f"options of a call must be about clips or of the base, got {sorted(unknown)}")

    def _check_sizes(self, of_base: Mapping[str, Any]) -> None:
        """Refuse another size of pictures in a call where boxes are in pixels of the resized picture."""
        if self.boxes_dialect is None or not self.dialect.needs_resized:
            return
        given = {*of_base}
        for kind in _KINDS:
            given |= {*(of_base.get(kind) or ())}
        if given & _SIZES:
            raise ValueError(
                f"sizes of pictures must be set in the image processor, since boxes are in pixels of the resized "
                f"picture, got {sorted(given & _SIZES)} in a call"
            )

    def _stored_options_of_base(self) -> set[str]:
        """Name the options with which a processor of the base's class can be loaded."""
        own = inspect.signature(type(self.base_processor).__init__).parameters
        return {*own, *self._pictures.known_options()["images_kwargs"], *tokenizer_options(type(self.tokenizer))}

    def join(self, encoded: list[dict[str, Any]], padding_side: str = "left") -> dict[str, Any]:
        """Join inputs of single prompts to those of a batch; see `join_inputs`."""
        return join_inputs(encoded, self.tokenizer.pad_token_id or 0, padding_side)

    @property
    def dialect(self) -> BoxDialect:
        """How the base writes boxes.

        Raises:
            ValueError: if it is not known.
        """
        if self.boxes_dialect is None:
            raise ValueError(
                f"boxes_dialect must be named for a base with a {type(self.base_processor).__name__}, whose boxes are "
                f"not known, one of {list(DIALECTS)}, got None"
            )
        return find_dialect(self.boxes_dialect)

    def ask_for_boxes(self, question: str) -> str:
        """Return a question with the words by which the base answers with boxes; see `BoxDialect.question`."""
        return self.dialect.question(question)

    def format_boxes(
        self, boxes: Sequence[Sequence[float]], size: tuple[int, int], labels: Sequence[str] | None = None
    ) -> str:
        """Write boxes in pixels of a frame as the base writes and reads them; see `BoxDialect.format_boxes`."""
        return self.dialect.format_boxes(boxes, size, resized=self._resize, labels=labels)

    def parse_boxes(self, text: str, size: tuple[int, int] | None = None) -> list[ParsedBox]:
        """Read every box of an answer; see `BoxDialect.parse_boxes`.

        Args:
            size: height and width of the original frame; needed where boxes are in pixels of the resized picture.
        """
        resized = None
        if size is not None and self._resize is not None:
            resized = self._resize(size)
        return self.dialect.parse_boxes(text, resized)

    def locate_boxes(self, text: str, size: tuple[int, int]) -> list[ParsedBox]:
        """Read every box of an answer as fractions of the original frame; see `BoxDialect.locate_boxes`."""
        return self.dialect.locate_boxes(text, size, resized=self._resize)

    def post_process_boxes(self, text: str | list[str], size: Any) -> list:
        """Return the boxes of an answer in pixels of the original frame; see `BoxDialect.post_process_boxes`."""
        return self.dialect.post_process_boxes(text, size, resized=self._resize)

    def strip_boxes(self, text: str) -> str:
        """Remove the box text of an answer, and nothing else."""
        return self.dialect.strip_boxes(text)

    @property
    def _resize(self) -> Callable[[tuple[int, int]], tuple[int, int]] | None:
        """Return how sizes of frames become those in the base, where boxes are in its pixels; else nothing."""
        return self.frame_size_in_base if self.dialect.needs_resized else None

    def frame_size_in_base(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width to which the base resizes a frame; see `PictureEncoder.resized_size`."""
        return self._pictures.resized_size(size)


def _wants(options: Mapping[str, Any], name: str) -> bool:
    """Return whether a call wants an output, by an option that may be among those of a kind."""
    kinds = [options, *(options.get(kind) or {} for kind in (*_KINDS, "videos_kwargs"))]
    return any(kind.get(name) for kind in kinds)


def _by_prompt(clips: list[np.ndarray], counts: list[int]) -> list[list[np.ndarray]]:
    """Part clips in the order of the prompts by their number in each."""
    rest = iter(clips)
    return [[next(rest) for _ in range(count)] for count in counts]


__all__ = ["HMBAVLMProcessor"]
