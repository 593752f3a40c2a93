"""H-MBA's processor: prompts and videos become model inputs, and answers become boxes."""

from typing import TYPE_CHECKING, Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    file_options,
    load_pixel_options,
    load_tokenizer,
    load_vision_config,
)
from .loading_options import OPTIONS_OF_WHOLE, split_options

# isort: split
import numpy as np
from transformers.processing_utils import MultiModalData, ProcessingKwargs, VideosKwargs

from .batching_hmba import join_inputs
from .loading_transformers import with_defaults
from .parsing_boxes import ParsedBox, format_boxes, locate_boxes, parse_boxes, post_process_boxes, strip_boxes
from .prompting_hmba import check_time_format, default_chat_templates, write_time
from .reading_chats import VideoChatProcessor, check_placeholders, check_prompts, flatten_clips, limits_in
from .video_processing_hmba import HMBAVideoProcessor

if TYPE_CHECKING:  # transformers copies imported files into a saved checkpoint, and so the pipeline
    from .pipeline_hmba import VideoTextToTextPipeline  # noqa: F401


# Options of a joined processor for its prompts; all others are for its video processor.
_PROMPT_OPTIONS = ("chat_template", "video_start_token", "video_end_token", "time_format")


def _frame_geometry(config: Any) -> tuple[dict[str, int], int | list[int]]:
    """Return the size of a vision tower's frames, without the rest that no patch covers, and its `patch_size`."""
    sides = []
    for name in ("image_size", "patch_size"):
        side = getattr(config, name, None)
        if side is None:
            raise ValueError(f"the vision tower must have a {name}, got {type(config).__name__} without one")
        sides.append(np.broadcast_to(side, 2).tolist())  # one number or two
    (height, width), patch_size = sides
    size = {"height": height - height % patch_size[0], "width": width - width % patch_size[1]}
    if patch_size[0] == patch_size[1]:
        patch_size = patch_size[0]
    return size, patch_size


class HMBAVideosKwargs(VideosKwargs, total=False):
    """Options of a call about videos: those of transformers, and `time_format` in place of the processor's."""

    time_format: str | None


@with_defaults
class HMBAProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call; those about videos include `time_format`."""

    videos_kwargs: HMBAVideosKwargs  # type: ignore[misc]  # with options of clips


class HMBAProcessor(VideoChatProcessor):
    """Turn prompts and videos into model inputs, and answers into boxes.

    A prompt holds one `video_token` for each video, which becomes
    `video_start_token + video_token * num_patches + video_end_token`: the tokens of a single frame, however long the
    clip is. `timestamp`, `num_frames`, `fps` and `source_fps` are options of the video processor. A picture among the
    videos, in `images` or in an image block of a chat is a clip of one frame.

    Args:
        chat_template: one template, or several by name, used unchanged. When absent, the tokenizer's own, each
            extended to accept videos, or vicuna v1.1 if it has none.
        patch_size: side of a vision patch in pixels, of the frames that the video processor returns, or its height
            and width.
        time_format: text behind each video, in which `{seconds}` becomes the time of its current frame with one
            decimal, such as `" at {seconds} s. "`. A clip without a known time, such as a picture, gets no text. It is
            saved with the processor, for a model must be asked as it was trained. None: no text.

    Source: github.com/Sranc3/H-MBA at 9a8645d; its `video_token` is `<im_patch>` between `<im_start>` and `<im_end>`.
    """

    _auto_class = "AutoProcessor"
    own_video_processor = HMBAVideoProcessor
    auto_map_entry = "processing_hmba.HMBAProcessor"
    valid_processor_kwargs: Any = HMBAProcessorKwargs

    format_boxes = staticmethod(format_boxes)
    locate_boxes = staticmethod(locate_boxes)
    parse_boxes = staticmethod(parse_boxes)
    post_process_boxes = staticmethod(post_process_boxes)
    strip_boxes = staticmethod(strip_boxes)

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | dict[str, str] | None = None,
        patch_size: int | list[int] = 14,
        video_token: str = "<video>",
        video_start_token: str | None = None,
        video_end_token: str | None = None,
        time_format: str | None = None,
    ):
        check_time_format(time_format)
        chat_template = chat_template or default_chat_templates(tokenizer, video_token)
        super().__init__(video_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.video_token = video_token
        self.video_start_token = video_start_token
        self.video_end_token = video_end_token
        self.time_format = time_format
        vocabulary = tokenizer.get_vocab()
        for token in (video_token, video_start_token, video_end_token):
            if token is not None and token not in vocabulary:
                raise ValueError(
                    f"the tokenizer must have the special token {token!r}, got one without: add it with "
                    "add_special_tokens"
                )
        self.video_token_id = vocabulary[video_token]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs, those of texts first: a trainer takes a sample's length from the first one."""
        names = super().model_input_names
        texts = [name for name in self.tokenizer.model_input_names if name in names]
        return [*texts, *(name for name in names if name not in texts)]

    def ask_for_boxes(self, question: str) -> str:
        """Return a question as it is: an H-MBA answers with boxes unasked."""
        return question

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, video_token: str = "<video>", **kwargs: Any
    ) -> "HMBAProcessor":
        """Build the processor of a model joined by `HMBAForConditionalGeneration.from_vision_text_pretrained`.

        Args:
            vision, text, video_token: as given to the model. The token joins the language model's tokenizer, which
                pads with its unknown or end token if it has none for padding.
            kwargs: options of the processor, such as `chat_template`, and of its video processor: `num_frames`, which
                must match the model's, `fps`, or `size`, `image_mean` and `image_std` in place of the vision tower's.
                Those of `from_pretrained`, such as `revision`, and `gguf_file` are as given to the model.

        The tokenizer pads on the left, so that each prompt of a batch gets the answer that it gets alone.

        Raises:
            ValueError: if neither has an option of that name, or if the vision tower has no `image_size`,
                `patch_size`, or mean and standard deviation of its pixels.
        """
        vision_options, text_options, kwargs = split_options(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in OPTIONS_OF_WHOLE}
        own = {name: kwargs.pop(name) for name in _PROMPT_OPTIONS if name in kwargs}
        if unknown := sorted(kwargs.keys() - HMBAVideoProcessor.stored_options()):
            known = [*_PROMPT_OPTIONS, *sorted(HMBAVideoProcessor.stored_options())]
            raise ValueError(f"options of a joined processor must be among {known}, got {unknown}")
        tokenizer = load_tokenizer(text, padding_side="left", **file_options(text_options))
        tokenizer.add_tokens([video_token], special_tokens=True)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
        files = file_options(vision_options)
        _, tower_config = load_vision_config(vision, **files)
        size, patch_size = _frame_geometry(tower_config)
        options = {"size": size, **load_pixel_options(vision, **files), **kwargs}
        for name in ("image_mean", "image_std"):
            if name not in options and options.get("do_normalize", True):
                raise ValueError(
                    f"{name} must be in the processor of the vision tower or given, got {vision!r} without"
                )
        return cls(HMBAVideoProcessor(**options), tokenizer, patch_size=patch_size, video_token=video_token, **own)

    def _save_files(self, folder: Any) -> Any:
        """Write its own chat templates, without others of its tokenizer."""
        own = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.chat_template
        try:
            return super()._save_files(folder)
        finally:
            self.tokenizer.chat_template = own

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple:
        """Return the prompts as a list, and the videos as a flat list in prompt order; a picture is one of one frame.

        Raises:
            ValueError: for audio, for pictures beside videos, whose order in the prompts is unknown, and for an option
                that neither tokenizer nor video processor has.
        """
        self._check_options(kwargs)
        clips = flatten_clips(images, videos, audio, limits_in(kwargs) or self.video_processor.limits)
        _, text, _, _ = super().prepare_inputs_layout(text=text, **kwargs)
        return None, text, clips, None

    def _check_options(self, options: dict[str, Any]) -> None:
        """Refuse options of a call that transformers would only log and drop."""
        kinds = self.valid_processor_kwargs.__annotations__
        text_options = {*kinds["text_kwargs"].__annotations__}
        video_options = {*kinds["videos_kwargs"].__annotations__, *self.video_processor.valid_kwargs.__annotations__}
        known = {*kinds, *text_options, *video_options, "common_kwargs"}
        known -= {"images_kwargs", "audio_kwargs"}
        unknown = (options.keys() - known) | (options.get("text_kwargs", {}).keys() - text_options)
        if unknown:
            raise ValueError(f"options of a call must be of tokenizer or video processor, got {sorted(unknown)}")

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> None:
        """Check that the prompts are strings and name each video once."""
        if text is None and videos is None:
            raise ValueError("text, videos or both must be given, got neither")
        if text is None:
            return
        check_prompts(text)
        check_placeholders(sum(prompt.count(self.video_token) for prompt in text), videos, self.video_token)

    def join(self, encoded: list[dict[str, Any]], padding_side: str = "left") -> dict[str, Any]:
        """Join inputs of single prompts to those of a batch; see `join_inputs` of `batching_hmba`."""
        return join_inputs(encoded, self.tokenizer.pad_token_id or 0, padding_side)

    # The methods below with an underscore are transformers' own hooks: it has no public ones in their place.

    def _process_videos(self, videos: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        time_format = kwargs.pop("time_format", self.time_format)
        check_time_format(time_format)
        if time_format is not None:
            kwargs["return_metadata"] = True
        inputs = self.video_processor([videos], **kwargs)
        texts = []
        for index in range(len(videos)):
            texts.append(self.replace_video_token(inputs, index, time_format=time_format))
        return inputs, texts

    def replace_video_token(
        self, video_inputs: dict, video_idx: int, time_format: str | None = None, **kwargs: Any
    ) -> str:
        """Return the text that stands for one video: a token for each patch of one frame, and its time if wanted."""
        height, width = video_inputs["pixel_values_videos"][video_idx].shape[-2:]
        tokens = self.video_token * self._num_patches(height, width)
        time = ""
        if time_format is not None:
            time = write_time(video_inputs["video_metadata"][video_idx], time_format)
        return f"{self.video_start_token or ''}{tokens}{self.video_end_token or ''}{time}"

    def _num_patches(self, height: int, width: int) -> int:
        patch_height, patch_width = np.broadcast_to(self.patch_size, 2).tolist()  # one number or two
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"height and width of frames must be multiples of patch_size={self.patch_size}, got {height} x {width}"
            )
        return (height // patch_height) * (width // patch_width)

    def _get_num_multimodal_tokens(self, video_sizes: list[list[int]] | None = None, **kwargs: Any) -> MultiModalData:
        """Count the video tokens for videos of `(frames, height, width)` each, from a blank frame of that size."""
        if video_sizes is None:
            return MultiModalData()
        options = self._merge_kwargs(self.valid_processor_kwargs, **kwargs)["videos_kwargs"]
        options.pop("time_format", None)  # it adds no video tokens
        counts = []
        for _, height, width in video_sizes:
            blank = self.video_processor(np.zeros((height, width, 3), np.uint8), **options)["pixel_values_videos"]
            counts.append(self._num_patches(*blank.shape[-2:]))
        return MultiModalData(num_video_tokens=counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict, with the code that a saved processor carries."""
        settings = super().to_dict()
        if self.time_format is None:  # files and recipes older than this option do not have it
            settings.pop("time_format", None)
        return settings


__all__ = ["HMBAProcessor", "ParsedBox", "format_boxes", "parse_boxes", "post_process_boxes", "strip_boxes"]
