"""Video processor of H-MBA: decode, sample causally, pad to a white square, resize and normalise."""

import os
from collections.abc import Mapping
from typing import Any

from .loading_checkpoints import (  # first, since it refuses a transformers that is too old
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
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    validate_kwargs,
)
from transformers.processing_utils import VideosKwargs
from transformers.utils import is_torch_tensor
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata

from .decoding_containers import LIMITS, SourceLimits
from .decoding_pictures import add_colours, channels_first, checked_pixels
from .decoding_squares import expand_to_square, resize_squared
from .decoding_stills import decode_picture, load_frame, read_picture, upright_rgb
from .decoding_streams import check_source_fps
from .decoding_video import decode_frames
from .sampling_video import (
    TIME_TOLERANCE,
    ClipMetadata,
    causal_timestamps,
    check_sampling,
    describe_frames,
    known_times,
    latest_frames,
    metadata_of,
    rounding_of,
)

# A frame so many times as long as wide is never put on a whole square.
_LONG = 4
# Options that files hold only where they are stated.
_LEFT_OUT_IF_ABSENT = ("source_fps", "only_whole")
# Keys that `to_dict` adds to the options, which files therefore hold.
_KEYS_OF_FILES = {"auto_map", "processor_class", "video_processor_type"}


class HMBAVideoProcessorKwargs(VideosKwargs, total=False):
    """Options of a call: those of transformers' video processors, `timestamp`, `source_fps`, `do_expand_to_square`.

    `timestamp` is the time in seconds of the current frame, one number for all videos or one (or `None`) for each;
    `None` means the last frame. `source_fps` is the rate of videos without timestamps, such as raw H.264, instead of
    a declared one. `only_whole` refuses frames that the decoder had to mend. `limits` are those of a file and its
    claims.
    """

    timestamp: float | int | list[float | int | None] | tuple[float | int | None, ...] | None
    source_fps: float | int | None
    only_whole: bool | None
    limits: SourceLimits | None
    do_expand_to_square: bool | None


def flatten_videos(videos: Any, depth: int = 0) -> list[Any]:
    """List the clips in any nesting of them.

    A clip is a path, URL, bytes or file object; an array with 4 dimensions; a list of frames (PIL images or arrays);
    a single frame; or, as in transformers, a list of image paths inside a list of lists.
    """
    if _is_file(videos) or _is_frame(videos) or (_is_array(videos) and videos.ndim == 4):
        return [videos]
    if _is_array(videos) and videos.ndim == 5:
        return list(videos)
    if not isinstance(videos, (list, tuple)) or len(videos) == 0:
        got = f"{type(videos).__name__} of shape {tuple(getattr(videos, 'shape', ()))}"
        raise ValueError(
            f"videos must be a video, a list of frames or a list of videos, none of them empty, got {got}"
        )
    if all(_is_frame(item) for item in videos) or (depth == 2 and all(isinstance(item, str) for item in videos)):
        return [videos]
    return [clip for item in videos for clip in flatten_videos(item, depth + 1)]


def flatten_pictures(images: Any, limits: SourceLimits | None = None) -> list[Any]:
    """List the pictures in any nesting of them, each as a clip of one frame; files are read within `limits`.

    A picture is a path, URL, bytes, file object or base64 text; a PIL image; or an array with 2 or 3 dimensions. An
    array with more dimensions is a list of pictures. A prompt without any has an empty list in a list of lists.

    Raises:
        VideoDecodeError: a file holds no picture.
        ValueError: for anything else.
    """
    if isinstance(images, str):
        return [[load_frame(images, limits or LIMITS)]]
    if _is_file(images):
        return [[read_picture(images, limits or LIMITS)]]
    if _is_frame(images):
        return [[images]]
    if not isinstance(images, (list, tuple)) and not (_is_array(images) and images.ndim > 3):
        raise ValueError(f"images must be pictures or lists of pictures, got {type(images).__name__}")
    return [clip for item in images for clip in flatten_pictures(item, limits)]


def _is_file(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(value, "read")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_torch_tensor(value)


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim in (2, 3))


def _to_array(value: Any) -> np.ndarray:
    if is_torch_tensor(value):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


class HMBAVideoProcessor(VideoProcessorMixin, PilBackend):
    """Turn videos into `pixel_values_videos`, `(n, t, 3, h, w)`, the current frame last.

    A file is sampled causally: `num_frames` frames that end at `timestamp`, `1 / fps` seconds apart, each the latest
    frame not after its time; the first frame stands for times before the video. `do_sample_frames=False` takes every
    frame up to `timestamp`. Frames that come as images or arrays are taken as they are; they are sampled by the same
    rule when `timestamp`, `do_sample_frames=True`, or `num_frames` or `fps` of a call asks for it and `video_metadata`
    gives `fps` or `timestamps` (without them, the last `num_frames` frames are taken). An image is a clip of one
    frame. Clips of unequal length are padded with zeros on the old side, and `frame_mask`, `(n, t)`, marks the real
    frames.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_expand_to_square = True
    num_frames = 5
    fps = 2.0
    source_fps: float | None = None
    only_whole: bool | None = None
    limits: SourceLimits | None = None
    _wants_whole = False  # besides `only_whole`, as long as this object lives
    valid_kwargs: Any = HMBAVideoProcessorKwargs
    # Makes this file and its siblings travel with a saved processor.
    _auto_class = "AutoVideoProcessor"

    def __init__(self, **kwargs: Any) -> None:
        if unknown := sorted(kwargs.keys() - self.stored_options() - _KEYS_OF_FILES):
            raise ValueError(f"options must be among {sorted(self.stored_options())}, got {unknown}")
        super().__init__(**kwargs)
        check_sampling(None, self.num_frames, self.fps)
        check_source_fps(self.source_fps)

    @classmethod
    def stored_options(cls) -> set[str]:
        """Name the options that a video processor is made with; those of one call alone are not among them."""
        return {*cls.valid_kwargs.__annotations__} - {"timestamp", "video_metadata", "limits"}

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
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
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

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Decode, sample and preprocess one video or any nesting of them.

        Returns:
            `pixel_values_videos`; `frame_mask` if lengths differ; `video_metadata`, one `ClipMetadata` per video, if
            `return_metadata=True`.

        Raises:
            FileNotFoundError: a path leads to no file.
            VideoDecodeError: a file cannot be decoded where a wanted frame lies.
            ValueError: an option or a video is not of the expected form, or `timestamp` lies outside the video.
        """
        timestamp, metadata = kwargs.pop("timestamp", None), kwargs.pop("video_metadata", None)
        check_sampling(None, kwargs.get("num_frames"), kwargs.get("fps"))
        for name, kind in (("num_frames", int), ("fps", float)):
            if kwargs.get(name) is not None:
                kwargs[name] = kind(kwargs[name])
        validate_kwargs(captured_kwargs=list(kwargs), valid_processor_keys=list(self.valid_kwargs.__annotations__))
        validate_typed_dict(self.valid_kwargs, kwargs)
        options = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        options |= {**self.source_rules, **kwargs}
        _check_unread(options)
        asks_to_sample = kwargs.get("num_frames") is not None or kwargs.get("fps") is not None
        if options["do_sample_frames"] is None and asks_to_sample:
            options["do_sample_frames"] = True

        options = self._standardize_kwargs(**options)
        self._validate_preprocess_kwargs(**options)

        sources = flatten_videos(videos)
        timestamps = _one_per_clip(timestamp, len(sources), "timestamp")
        given = _one_per_clip(metadata, len(sources), "video_metadata")
        clips, described = [], []
        for source, facts, end in zip(sources, given, timestamps, strict=True):
            clip, facts = self._make_clip(source, facts, end, options, kwargs.get("num_frames"), kwargs.get("fps"))
            clips.append(clip)
            described.append(facts)
        features = _batch_clips(clips)
        if options["return_metadata"]:
            features["video_metadata"] = described
        batch: Any = BatchFeature(
            data=features, tensor_type=options["return_tensors"], skip_tensor_conversion=["video_metadata"]
        )
        return batch if options["device"] is None else batch.to(options["device"])

    def _make_clip(
        self,
        clip: Any,
        facts: Mapping | None,
        timestamp: float | None,
        options: dict[str, Any],
        num_frames: int | None,
        fps: float | None,
    ) -> tuple[np.ndarray, ClipMetadata]:
        """Preprocess the frames of one clip, `(t, c, h, w)`; `num_frames` and `fps` are those of the call."""
        check_sampling(timestamp, None, None)
        if _is_file(clip):
            wanted = None if options["do_sample_frames"] is False else num_frames or self.num_frames
            rules = {
                "limits": options["limits"] or LIMITS,
                "source_fps": options["source_fps"],
                "only_whole": bool(options["only_whole"]),
                "prepare": lambda picture: self._preprocess_frame(picture.transpose(2, 0, 1), **options),
            }
            return decode_frames(clip, timestamp, wanted, fps or self.fps, **rules)
        frames = self._stack_frames(clip, options)
        metadata = describe_frames(frames, facts)
        is_image = len(frames) == 1 and known_times(metadata) is None
        if (options["do_sample_frames"] or timestamp is not None) and not is_image:
            if metadata.frames_indices is None and metadata.frame_times is None:
                raise ValueError(
                    f"video_metadata speaks of {metadata.total_num_frames} frames, but {len(frames)} came: "
                    "`frames_indices` or `timestamps` must say which"
                )
            chosen = self.sample_frames(metadata, num_frames, fps, timestamp)
            frames, metadata = frames[chosen], metadata_of(metadata, chosen)
        return np.stack([self._preprocess_frame(frame, **options) for frame in frames]), metadata

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        timestamp: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Indices of the frames of a causal clip, `(num_frames,)`; a repeated index stands for a repeated frame.

        Of frames with unknown times the last `num_frames` are taken.
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        check_sampling(timestamp, num_frames, fps)
        times = known_times(metadata)
        if times is not None:
            end = max(times) if timestamp is None else timestamp
            shown_for = 1 / metadata.fps if metadata.fps else 0.0
            if not min(times) - TIME_TOLERANCE <= end <= max(times) + shown_for + TIME_TOLERANCE:
                raise ValueError(f"timestamp {end} s lies outside the clip, from {min(times)} s to {max(times)} s")
            wanted = causal_timestamps(end, num_frames, fps or self.fps)
            return np.array(latest_frames(times, wanted, rounding_of(times)))
        if fps is not None or timestamp is not None:
            raise ValueError("sampling frames by `fps` or `timestamp` needs video_metadata with `fps` or `timestamps`")
        count = metadata.total_num_frames if metadata.frames_indices is None else len(metadata.frames_indices)
        if num_frames > count:
            raise ValueError(
                f"cannot choose num_frames={num_frames} out of {count} frames; "
                "with `fps` in video_metadata, the first one would be repeated"
            )
        return np.arange(count - num_frames, count)

    def _stack_frames(self, clip: Any, options: dict[str, Any]) -> np.ndarray:
        """Stack the frames of a clip to `(t, c, h, w)`: uint8, or float32 in [0, 1] when nothing is to be rescaled."""
        layout = options["input_data_format"]
        limits = options["limits"] or LIMITS
        if isinstance(clip, (list, tuple)) and isinstance(clip[0], str):
            clip = [load_frame(item, limits) for item in clip]
        if _is_array(clip) and clip.ndim == 4:
            frames = _to_array(clip)
        else:
            listed = list(clip) if isinstance(clip, (list, tuple)) else [clip]
            if any(isinstance(frame, Image.Image) for frame in listed):
                layout = ChannelDimension.LAST
            arrays = [_frame_to_array(frame, options["do_convert_rgb"], limits) for frame in listed]
            shapes = sorted({array.shape for array in arrays})
            if len(shapes) > 1:
                raise ValueError(f"all frames of a clip must have the same size, got {shapes}")
            frames = np.stack(arrays)
        frames = checked_pixels(channels_first(frames, layout), options["do_rescale"])
        if options["do_convert_rgb"] and frames.shape[1] != 3:
            frames = np.stack([add_colours(frame) for frame in frames])
        return frames

    def _preprocess_frame(self, frame: np.ndarray, **options: Any) -> np.ndarray:
        """Preprocess one frame, `(c, h, w)`, in the order and with the arithmetic of `CLIPImageProcessor`."""
        size = _size_from_square(frame, options)
        if size is not None:
            squared = resize_squared(np.moveaxis(frame, 0, -1), size, options["resample"], fill=255)
            frame = np.moveaxis(squared, -1, 0)
        else:
            if options["do_expand_to_square"]:
                frame = expand_to_square(frame, fill=255 if frame.dtype == np.uint8 else 1.0)
            if options["do_resize"]:
                frame = self.resize(frame, options["size"], options["resample"])
        if options["do_center_crop"]:
            frame = self.center_crop(frame, options["crop_size"])
        if options["do_rescale"]:
            frame = self.rescale(frame, options["rescale_factor"])
        if options["do_normalize"]:
            frame = self.normalize(frame, options["image_mean"], options["image_std"])
        return frame

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
        if isinstance(image, Image.Image):
            image = decode_picture(image, self.limits or LIMITS)
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def convert_to_rgb(self, image: Any, input_data_format: Any = None) -> np.ndarray:
        """Return a picture in RGB, transparency over white: `(h, w, 3)` of Pillow's, an array in its own layout."""
        if isinstance(image, Image.Image):
            image = upright_rgb(image, self.limits or LIMITS)
        return super().convert_to_rgb(image, input_data_format)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save it with its code; arguments as in `HMBAProcessor.save_pretrained`."""
        of_push = pushing_options(self, save_directory, push_to_hub, kwargs)
        saved = super().save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(**of_push)
        return saved

    def to_dict(self) -> dict[str, Any]:
        """The options as they are saved, with the class of Auto classes, and rules of sources only if set."""
        options = super().to_dict()
        for name in ("limits", "_wants_whole"):  # no file may raise them
            options.pop(name, None)
        # Files of older versions, and keys of cached features, lack the following options.
        options = {name: x for name, x in options.items() if x is not None or name not in _LEFT_OUT_IF_ABSENT}
        return {**options, "auto_map": {self._auto_class: "video_processing_hmba.HMBAVideoProcessor"}}


def _check_unread(options: dict[str, Any]) -> None:
    """Refuse options of transformers' video processors that would change nothing here."""
    if options["data_format"] not in (None, ChannelDimension.FIRST):
        raise ValueError(f"data_format must be 'channels_first', got {options['data_format']!r}")
    if options["do_pad"]:
        raise ValueError("do_pad must be false, since do_expand_to_square pads frames, got True")
    if options["device"] is not None and options["return_tensors"] != "pt":
        raise ValueError(f"device needs return_tensors='pt', got {options['return_tensors']!r}")


def _size_from_square(frame: np.ndarray, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width to which `resize_squared` brings a frame, `(c, h, w)`; `None` for the plain way."""
    is_squared = options["do_expand_to_square"] and options["do_resize"] and isinstance(options["resample"], int)
    if not is_squared or frame.dtype != np.uint8 or len(frame) not in (1, 3):
        return None
    size = options["size"]
    if size.shortest_edge and not size.longest_edge:
        return size.shortest_edge, size.shortest_edge
    if not (size.height and size.width):
        return None
    # Pillow may resize columns first where the sides of the result differ, and then rounds otherwise.
    is_long = max(frame.shape[1:]) > _LONG * min(frame.shape[1:])
    return (size.height, size.width) if size.height == size.width or is_long else None


def _batch_clips(clips: list[np.ndarray]) -> dict[str, Any]:
    """Pad clips `(t, c, h, w)` on the old side to one length and stack them; frames of several sizes stay a list."""
    length = max(len(clip) for clip in clips)
    padded = [
        np.concatenate([np.zeros_like(clip, shape=(length - len(clip), *clip.shape[1:])), clip]) for clip in clips
    ]
    same_size = len({clip.shape for clip in padded}) == 1
    features: dict[str, Any] = {"pixel_values_videos": np.stack(padded) if same_size else padded}
    if any(len(clip) < length for clip in clips):
        features["frame_mask"] = np.stack([np.arange(length) >= length - len(clip) for clip in clips])
    return features


def _one_per_clip(value: Any, count: int, name: str) -> list[Any]:
    """Spread one value over all clips, or check that a (nested) list has one for each."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        if isinstance(value, Mapping) and count > 1:
            raise ValueError(f"expected {count} entries of {name}, one for each video, got one")
        return [value] * count
    values = [inner for item in value for inner in (item if isinstance(item, (list, tuple)) else [item])]
    if len(values) != count:
        raise ValueError(f"expected {count} entries of {name}, one for each video, got {len(values)}")
    return values


def _frame_to_array(frame: Any, do_convert_rgb: bool | None, limits: SourceLimits) -> np.ndarray:
    """Turn a PIL image or an array into an array with a channel axis."""
    if isinstance(frame, Image.Image):
        frame = upright_rgb(frame, limits) if do_convert_rgb else decode_picture(frame, limits)
    array = _to_array(frame)
    return array[..., None] if array.ndim == 2 else array


__all__ = ["HMBAVideoProcessor", "HMBAVideoProcessorKwargs", "expand_to_square", "flatten_videos", "load_frame"]
