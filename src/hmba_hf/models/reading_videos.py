"""What video processors of all families share: files by the rules of the house, options that are checked, saving."""

from typing import Any

from .loading_options import (  # first, since it refuses a transformers that is too old
    are_options_checked,
    checking_options,
    pushing_options,
    refuse_unknown_options,
)

# isort: split
import numpy as np
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, validate_kwargs
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from .decoding_containers import LIMITS, SourceLimits
from .decoding_pictures import add_colours, channels_first, layout_of
from .decoding_stills import decode_picture, load_frame, upright_rgb
from .decoding_streams import check_source_fps
from .decoding_video import decode_frames
from .sampling_video import check_rate, check_sampling, metadata_of

# Options that files hold only where they are stated.
_LEFT_OUT_IF_ABSENT = ("source_fps", "only_whole")
# Keys that `to_dict` adds to the options, which files therefore hold.
_KEYS_OF_FILES = {"auto_map", "processor_class", "video_processor_type"}


class VideoFileKwargs(VideosKwargs, total=False):
    """Options of a call: those of transformers' video processors, and the rules for files.

    `source_fps` is the rate of videos without timestamps, such as raw H.264, instead of a declared one. `only_whole`
    refuses frames that the decoder had to mend. `limits` are those of a file and its claims.
    """

    source_fps: float | int | None
    only_whole: bool | None
    limits: SourceLimits | None


class VideoFileProcessor(VideoProcessorMixin, PilBackend):
    """A video processor that reads files by the rules of `decode_frames`, and refuses options that it does not know.

    A family's own has `valid_kwargs`, `auto_map_entry` and `preprocess`, which begins with `call_options`.
    """

    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    num_frames: int
    fps: float | None = None
    source_fps: float | None = None
    only_whole: bool | None = None
    limits: SourceLimits | None = None
    _wants_whole = False  # besides `only_whole`, as long as this object lives
    valid_kwargs: Any = VideoFileKwargs
    options_of_calls = frozenset({"video_metadata", "limits"})
    auto_map_entry: str

    def __init__(self, **kwargs: Any) -> None:
        if unknown := sorted(kwargs.keys() - self.stored_options() - _KEYS_OF_FILES):
            raise ValueError(f"options must be among {sorted(self.stored_options())}, got {unknown}")
        super().__init__(**kwargs)
        if self.num_frames is None:
            raise ValueError("num_frames must be a whole number, one or more, got None")
        check_sampling(None, self.num_frames, self.fps)
        if type(self).fps is not None:  # frames of others spread over the whole video
            check_rate(self.fps)
        self.num_frames = int(self.num_frames)
        check_source_fps(self.source_fps)

    @classmethod
    def stored_options(cls) -> set[str]:
        """Name the options that a video processor is made with; those of one call alone are not among them."""
        return {*cls.valid_kwargs.__annotations__} - cls.options_of_calls

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load it as every video processor of transformers is loaded.

        Raises:
            ValueError: for an unknown option, unless `return_unused_kwargs=True`. A processor checks the options of
                its parts itself, and a pipeline passes those of the model.
        """
        if "_from_pipeline" not in kwargs:
            cls._check_options(kwargs)
        with checking_options():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> None:
        if not are_options_checked() and not options.get("return_unused_kwargs"):
            own = {name for name in options if hasattr(cls, name)}
            refuse_unknown_options(options.keys() - own - {"return_unused_kwargs"}, cls.stored_options())

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]  # the name is that of video processors
        """Build it from the options of a file, without those of other processors; `kwargs` replace them.

        Raises:
            ValueError: for an unknown option, unless `return_unused_kwargs=True`.
        """
        cls._check_options(kwargs)
        known = {name: value for name, value in video_processor_dict.items() if name in cls.stored_options()}
        return super().from_dict(known, **kwargs)

    def set_source_fps(self, source_fps: float | None) -> None:
        """Set the rate of videos without timestamps; `None` leaves it as it is."""
        check_source_fps(source_fps)
        self.source_fps = self.source_fps if source_fps is None else source_fps

    def set_source_rules(
        self, source_fps: float | None = None, only_whole: bool = False, limits: SourceLimits | None = None
    ) -> None:
        """Set the rules for files, named as in `decode_frames`; absent ones stay as they are.

        Of them only the rate is saved with the video processor: the others are of one run.
        """
        self.set_source_fps(source_fps)
        self._wants_whole = only_whole or self._wants_whole
        self.limits = limits or self.limits

    @property
    def source_rules(self) -> dict[str, Any]:
        """How files are read by default: keyword arguments of `decode_frames`."""
        return {
            "limits": self.limits or LIMITS,
            "source_fps": self.source_fps,
            "only_whole": bool(self.only_whole or self._wants_whole),
        }

    def call_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check the options of a call, and complete them by those of the processor, in the forms of transformers.

        Raises:
            ValueError: if one is unknown, out of range, or would change nothing.
            TypeError: if one is of another type.
        """
        check_sampling(None, given.get("num_frames"), given.get("fps"))
        for name, kind in (("num_frames", int), ("fps", float)):
            if given.get(name) is not None:
                given[name] = kind(given[name])
        validate_kwargs(captured_kwargs=list(given), valid_processor_keys=list(self.valid_kwargs.__annotations__))
        validate_typed_dict(self.valid_kwargs, given)
        options = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        options |= {**self.source_rules, **given}
        if options["data_format"] not in (None, ChannelDimension.FIRST):
            raise ValueError(f"data_format must be 'channels_first', got {options['data_format']!r}")
        if options["device"] is not None and options["return_tensors"] != "pt":
            raise ValueError(f"device needs return_tensors='pt', got {options['return_tensors']!r}")
        options = self._standardize_kwargs(**options)
        self._validate_preprocess_kwargs(**options)
        return options

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> tuple[Any, Any]:
        """Decode a video, `(t, h, w, 3)`, and its metadata; or for a list a tuple of videos and one of their metadata.

        Args:
            video_url_or_urls: a file, as in `decode_frames`, or a list of files.
            sample_indices_fn: returns the wanted indices, from `metadata=` of all frames; all when absent.
        """
        if isinstance(video_url_or_urls, (list, tuple)):
            pairs = [self.fetch_videos(item, sample_indices_fn) for item in video_url_or_urls]
            return tuple(frames for frames, _ in pairs), tuple(metadata for _, metadata in pairs)
        frames, metadata = decode_frames(video_url_or_urls, num_frames=None, **self.source_rules)
        if sample_indices_fn is None:
            return frames, metadata
        chosen = np.asarray(sample_indices_fn(metadata=metadata))
        return frames[chosen], metadata_of(metadata, chosen)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Read a picture, by the rules of a video's frames, or a list of them, in any nesting."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(item) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, str):
            return load_frame(image_url_or_urls, self.limits or LIMITS)
        return super().fetch_images(image_url_or_urls)

    def process_image(
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Return a picture as `(c, h, w)`; one that Pillow has opened is turned upright and brought to 8 bits."""
        if do_convert_rgb:
            pixels = self.convert_to_rgb(image, input_data_format)
        elif isinstance(image, Image.Image):
            pixels = np.array(decode_picture(image, self.limits or LIMITS))
        else:
            pixels = np.asarray(image)
        if pixels.ndim == 2:
            return pixels[None]
        if isinstance(image, Image.Image):
            input_data_format = ChannelDimension.LAST
        return channels_first(pixels[None], input_data_format)[0]

    def convert_to_rgb(self, image: Any, input_data_format: Any = None) -> np.ndarray:
        """Return a picture in RGB, transparency over white: `(h, w, 3)` of Pillow's, an array in its own layout."""
        if isinstance(image, Image.Image):
            return np.array(upright_rgb(image, self.limits or LIMITS))
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[None]
        layout = layout_of(pixels[None], input_data_format)
        channels = channels_first(pixels[None], layout)[0]
        if len(channels) != 3:
            channels = add_colours(channels)
        return np.moveaxis(channels, 0, -1) if layout == ChannelDimension.LAST else channels

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save it with its code; arguments are those of transformers, of a push with `push_to_hub=True` alone."""
        of_push = pushing_options(self, save_directory, push_to_hub, kwargs)
        saved = super().save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(**of_push)
        return saved

    def to_dict(self) -> dict[str, Any]:
        """The options as they are saved, with the class of Auto classes, and rules of sources only if set."""
        options = super().to_dict()
        for name in (*self.options_of_calls, "_wants_whole"):  # among them limits, which no file may raise
            options.pop(name, None)
        # Files of older versions, and keys of cached features, lack the following options.
        options = {name: x for name, x in options.items() if x is not None or name not in _LEFT_OUT_IF_ABSENT}
        return {**options, "auto_map": {self._auto_class: self.auto_map_entry}}


def rules_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return how a call reads files: keyword arguments of `decode_frames`, from its options."""
    return {
        "limits": options["limits"] or LIMITS,
        "source_fps": options["source_fps"],
        "only_whole": bool(options["only_whole"]),
    }
