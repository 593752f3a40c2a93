"""Video processor of H-MBA: decode, sample causally, pad to a white square, resize and normalise."""

from collections.abc import Mapping
from typing import Any

from .reading_videos import VideoFileKwargs, VideoFileProcessor, rules_of  # first: it checks the version

# isort: split
import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_utils import VideoMetadata

from .decoding_clips import flatten_pictures, flatten_videos, is_file, one_per_clip, stack_frames
from .decoding_containers import LIMITS
from .decoding_squares import expand_to_square, resize_squared
from .decoding_stills import load_frame
from .decoding_video import decode_frames
from .sampling_video import (
    TIME_TOLERANCE,
    ClipMetadata,
    causal_timestamps,
    check_no_facts_of_a_file,
    check_sampling,
    describe_frames,
    known_times,
    latest_frames,
    metadata_of,
    rounding_of,
)

# A frame so many times as long as wide is never put on a whole square.
_LONG = 4


class HMBAVideoProcessorKwargs(VideoFileKwargs, total=False):
    """Options of a call: those of `VideoFileKwargs`, `timestamp` and `do_expand_to_square`.

    `timestamp` is the time in seconds of the current frame, one number for all videos or one (or `None`) for each;
    `None` means the last frame.
    """

    timestamp: float | int | list[float | int | None] | tuple[float | int | None, ...] | None
    do_expand_to_square: bool | None


class HMBAVideoProcessor(VideoFileProcessor):
    """Turn videos into `pixel_values_videos`, `(n, t, 3, h, w)`, the current frame last.

    A file is sampled causally: `num_frames` frames that end at `timestamp`, `1 / fps` seconds apart, each the latest
    frame not after its time; the first frame stands for times before the video. Frames that come as images or arrays
    are taken as they are; they are sampled by the same rule when `timestamp`, `do_sample_frames=True`, or `num_frames`
    or `fps` of a call asks for it and `video_metadata` gives `fps` or `timestamps` (without them, the last
    `num_frames` frames are taken). `do_sample_frames=False` takes every frame up to `timestamp`. An image is a clip of
    one frame. Clips of unequal length are padded with zeros on the old side, and `frame_mask`, `(n, t)`, marks the
    real frames.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_expand_to_square = True
    num_frames = 5
    fps = 2.0
    valid_kwargs: Any = HMBAVideoProcessorKwargs
    options_of_calls = VideoFileProcessor.options_of_calls | {"timestamp"}
    auto_map_entry = "video_processing_hmba.HMBAVideoProcessor"
    # Makes this file and its siblings travel with a saved processor.
    _auto_class = "AutoVideoProcessor"

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
        clips, described, options = self._make_clips(videos, kwargs)
        features = _batch_clips(clips)
        if options["return_metadata"]:
            features["video_metadata"] = described
        batch: Any = BatchFeature(
            data=features, tensor_type=options["return_tensors"], skip_tensor_conversion=["video_metadata"]
        )
        return batch if options["device"] is None else batch.to(options["device"])

    def read_clips(self, videos: Any, **kwargs: Any) -> tuple[list[np.ndarray], list[ClipMetadata]]:
        """Decode, sample and preprocess videos as a call does, each by itself: nothing is padded or stacked.

        Args:
            videos, kwargs: of a call.

        Returns:
            The frames of each video, `(t, c, h, w)`, and their metadata.

        Raises:
            As `preprocess`.
        """
        clips, described, _ = self._make_clips(videos, kwargs)
        return clips, described

    def _make_clips(
        self, videos: Any, kwargs: dict[str, Any]
    ) -> tuple[list[np.ndarray], list[ClipMetadata], dict[str, Any]]:
        """Return the frames of each video, their metadata, and the completed options of the call, `kwargs`."""
        timestamp = kwargs.pop("timestamp", None)
        metadata = kwargs.pop("video_metadata", None)
        options = self.call_options(kwargs)
        if options["do_pad"]:
            raise ValueError("do_pad must be false, since do_expand_to_square pads frames, got True")
        asks_to_sample = kwargs.get("num_frames") is not None or kwargs.get("fps") is not None
        if options["do_sample_frames"] is None and asks_to_sample:
            options["do_sample_frames"] = True

        sources = flatten_videos(videos)
        timestamps = one_per_clip(timestamp, len(sources), "timestamp")
        given = one_per_clip(metadata, len(sources), "video_metadata")
        clips, described = [], []
        for source, facts, end in zip(sources, given, timestamps, strict=True):
            clip, facts = self._make_clip(source, facts, end, options, kwargs.get("num_frames"), kwargs.get("fps"))
            clips.append(clip)
            described.append(facts)
        return clips, described, options

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
        if is_file(clip):
            check_no_facts_of_a_file(facts)
            wanted = None if options["do_sample_frames"] is False else num_frames or self.num_frames
            shaped, metadata = decode_frames(
                clip,
                timestamp,
                wanted,
                fps or self.fps,
                prepare=lambda picture: self._shape_frame(picture, **options),
                prepares_rows=True,
                **rules_of(options),
            )
            return self._scale_frames(shaped, **options), metadata
        frames = stack_frames(
            clip,
            options["input_data_format"],
            do_convert_rgb=options["do_convert_rgb"],
            do_rescale=options["do_rescale"],
            limits=options["limits"] or LIMITS,
        )
        metadata = describe_frames(frames, facts)
        is_image = len(frames) == 1 and known_times(metadata) is None
        if (options["do_sample_frames"] or timestamp is not None) and not is_image:
            if metadata.frames_indices is None and metadata.frame_times is None:
                raise ValueError(
                    f"video_metadata speaks of {metadata.total_num_frames} frames, but {len(frames)} came: "
                    "`frames_indices` or `timestamps` must say which"
                )
            chosen = self.sample_frames(metadata, num_frames, fps, timestamp)
            if options["do_sample_frames"] is False:
                chosen = np.arange(chosen[-1] + 1)
            frames, metadata = frames[chosen], metadata_of(metadata, chosen)
        shaped = np.stack([self._shape_frame(np.moveaxis(frame, 0, -1), **options) for frame in frames])
        return self._scale_frames(shaped, **options), metadata

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

        Raises:
            ValueError: a value is out of its range, or `timestamp` lies outside the clip. With `fps` the last frame
                is shown for `1 / fps` seconds; with `timestamps` alone nobody knows how long, and the clip ends there.
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

    def _shape_frame(self, picture: Any, **options: Any) -> np.ndarray:
        """Square, resize and crop one picture, `(h, w, c)`, or its rows, into `(c, h, w)`, as `CLIPImageProcessor`."""
        size = _size_from_square(picture, options)
        if size is not None:
            squared = resize_squared(picture, size, options["resample"], fill=255)
            frame = np.moveaxis(squared, -1, 0)
        else:
            frame = np.moveaxis(np.asarray(picture), -1, 0)
            if options["do_expand_to_square"]:
                frame = expand_to_square(frame, fill=255 if frame.dtype == np.uint8 else 1.0)
            if options["do_resize"]:
                frame = self.resize(frame, options["size"], options["resample"])
        if options["do_center_crop"]:
            frame = self.center_crop(frame, options["crop_size"])
        return frame

    def _scale_frames(self, frames: np.ndarray, **options: Any) -> np.ndarray:
        """Rescale and normalise shaped frames, `(t, c, h, w)`, with the arithmetic of `CLIPImageProcessor`."""
        clip: np.ndarray | None = None
        for place, frame in enumerate(frames):
            if options["do_rescale"]:
                frame = self.rescale(frame, options["rescale_factor"])
            if options["do_normalize"]:
                frame = self.normalize(frame, options["image_mean"], options["image_std"])
            if clip is None:
                clip = np.empty((len(frames), *frame.shape), frame.dtype)
            clip[place] = frame
        assert clip is not None, "a clip holds a frame"
        return clip


def _size_from_square(picture: Any, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width to which `resize_squared` brings a picture, `(h, w, c)`; `None` for the plain way."""
    is_squared = options["do_expand_to_square"] and options["do_resize"] and isinstance(options["resample"], int)
    if not is_squared or picture.dtype != np.uint8 or picture.shape[2] not in (1, 3):
        return None
    size = options["size"]
    if size.shortest_edge and not size.longest_edge:
        return size.shortest_edge, size.shortest_edge
    if not (size.height and size.width):
        return None
    # Pillow may resize columns first where the sides of the result differ, and then rounds otherwise.
    is_long = max(picture.shape[:2]) > _LONG * min(picture.shape[:2])
    return (size.height, size.width) if size.height == size.width or is_long else None


def _batch_clips(clips: list[np.ndarray]) -> dict[str, Any]:
    """Pad clips `(t, c, h, w)` on the old side to one length and stack them; frames of several sizes stay a list."""
    length = max(len(clip) for clip in clips)
    padded = []
    for clip in clips:
        if len(clip) < length:
            clip = np.concatenate([np.zeros_like(clip, shape=(length - len(clip), *clip.shape[1:])), clip])
        padded.append(clip)
    same_size = len({clip.shape for clip in padded}) == 1
    features: dict[str, Any] = {"pixel_values_videos": np.stack(padded) if same_size else padded}
    if any(len(clip) < length for clip in clips):
        features["frame_mask"] = np.stack([np.arange(length) >= length - len(clip) for clip in clips])
    return features


__all__ = [
    "HMBAVideoProcessor",
    "HMBAVideoProcessorKwargs",
    "decode_frames",
    "expand_to_square",
    "flatten_pictures",
    "flatten_videos",
    "load_frame",
]
