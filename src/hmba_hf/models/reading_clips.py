"""What families that read clips share: spread or consecutive frames of a file, resized, cut out, normalised."""

from collections.abc import Mapping
from typing import Any

from .reading_videos import VideoFileKwargs, VideoFileProcessor, rules_of  # first: it checks the version

# isort: split
import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.video_utils import VideoMetadata

from .decoding_clips import flatten_videos, is_file, one_per_clip, stack_frames
from .decoding_containers import LIMITS
from .decoding_video import decode_frames, decode_times
from .sampling_video import (
    ClipMetadata,
    check_no_facts_of_a_file,
    check_sampling,
    consecutive_times,
    describe_frames,
    known_times,
    latest_frames,
    metadata_of,
    segment_times,
)

SAMPLINGS = ("segments", "dense")
SPATIAL_VIEWS = (1, 3)
_OF_SAMPLING = ("num_frames", "sampling", "frame_step", "num_temporal_views", "generator", "start")


class ClipVideoKwargs(VideoFileKwargs, total=False):
    """Options of a call: those of `VideoFileKwargs`, how frames are sampled, and how many views are taken.

    `sampling` is `"segments"`, one frame in each of `num_frames` equal parts of a video, or `"dense"`, frames that
    are `frame_step` apart. `start` is the time in seconds of the first frame of a dense clip, one number for all
    videos or one (or `None`) for each. `generator`, a NumPy generator or a seed, draws places as training does.
    `num_temporal_views` and `num_spatial_views` are those of a test.
    """

    sampling: str | None
    frame_step: int | None
    num_temporal_views: int | None
    num_spatial_views: int | None
    generator: int | np.random.Generator | None
    start: float | int | list[float | int | None] | tuple[float | int | None, ...] | None


class ClipVideoProcessor(VideoFileProcessor):
    """Turn videos into `pixel_values_videos`, `(n * views, num_frames, 3, h, w)`, normalised as pictures are.

    A file gives `num_frames` frames, whatever its length. `"segments"` takes one in each of as many equal parts of
    it; where there are fewer frames, some are repeated. `"dense"` takes frames that are `frame_step` apart. View `i`
    of `n` over time, from 0, is `(i + 1) / (n + 1)` into each part, or into the stretch in which a dense clip can
    begin. With a `generator` these places are drawn instead, one for each part and view.

    Frames are resized so that their short side is `size`, and the middle `crop_size` of each is taken. Three views
    over space are the left, middle and right ones along the longer side, or the upper, middle and lower ones. Row
    `(video * num_temporal_views + temporal) * num_spatial_views + spatial` is one view, so that scores of a model are
    averaged by `logits.softmax(-1).unflatten(0, (-1, views)).mean(1)`.

    Frames that come as images or arrays are taken as they are; an option of sampling, in the call, samples from them
    by the same rules. `do_sample_frames=False` takes every frame, whatever `num_frames` is. All clips of a call must
    have as many frames, for the scan would see padding. A family's own has `auto_map_entry`.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 224}
    crop_size = {"height": 224, "width": 224}
    do_center_crop = True
    num_frames = 8
    sampling = "segments"
    frame_step = 4
    valid_kwargs: Any = ClipVideoKwargs
    options_of_calls = VideoFileProcessor.options_of_calls | {
        "num_temporal_views",
        "num_spatial_views",
        "generator",
        "start",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.fps is not None:
            raise ValueError(f"fps must be absent, since frame_step parts the frames of a clip, got {self.fps}")
        stored = {"sampling": self.sampling, "frame_step": self.frame_step}
        _check_views({**stored, "num_temporal_views": 1, "num_spatial_views": 1})

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Decode, sample and preprocess one video or any nesting of them.

        Returns:
            `pixel_values_videos`; `video_metadata`, one `ClipMetadata` for each row, if `return_metadata=True`.

        Raises:
            FileNotFoundError: a path leads to no file.
            VideoDecodeError: a file cannot be decoded where a wanted frame lies.
            ValueError: an option or a video is not of the expected form, or clips differ in length or size.
        """
        metadata = kwargs.pop("video_metadata", None)
        asked = [name for name in _OF_SAMPLING if kwargs.get(name) is not None]
        starts = kwargs.pop("start", None)
        options = self._options(kwargs)
        _check_read(options, asked)
        if asked and options["do_sample_frames"] is None:
            options["do_sample_frames"] = True
        if options["generator"] is not None:
            options["generator"] = np.random.default_rng(options["generator"])

        sources = flatten_videos(videos)
        given = one_per_clip(metadata, len(sources), "video_metadata")
        starts = one_per_clip(starts, len(sources), "start")
        rows = []
        described = []
        for source, facts, start in zip(sources, given, starts, strict=True):
            for frames, view in self._read_views(source, facts, start, options):
                for place in range(options["num_spatial_views"]):
                    rows.append(self._finished(frames, place, options))
                    described.append(view)
        shapes = sorted({row.shape for row in rows})
        if len(shapes) > 1:
            raise ValueError(f"clips of a call must have one length and size, got (t, c, h, w) of {shapes}")
        features: dict[str, Any] = {"pixel_values_videos": np.stack(rows)}
        if options["return_metadata"]:
            features["video_metadata"] = described
        batch: Any = BatchFeature(
            data=features, tensor_type=options["return_tensors"], skip_tensor_conversion=["video_metadata"]
        )
        return batch if options["device"] is None else batch.to(options["device"])

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check the options of a call and complete them by those of the processor."""
        options = self.call_options(given)
        for name in ("num_frames", "sampling", "frame_step"):
            if options[name] is None:
                options[name] = getattr(self, name)
        for name in ("num_temporal_views", "num_spatial_views"):
            if options[name] is None:
                options[name] = 1
        _check_views(options)
        return options

    def _read_views(
        self, source: Any, facts: Mapping | None, start: float | None, options: dict[str, Any]
    ) -> list[tuple[np.ndarray, ClipMetadata]]:
        """Return the resized frames, `(t, c, h, w)`, of each view over time of one video, and their metadata."""
        is_sampled = options["do_sample_frames"]
        if is_file(source):
            check_no_facts_of_a_file(facts)
            frames, metadata = self._read_file(source, start, options)
            is_sampled = options["do_sample_frames"] is not False
        else:
            frames = stack_frames(
                source,
                options["input_data_format"],
                do_convert_rgb=options["do_convert_rgb"],
                do_rescale=options["do_rescale"],
                limits=options["limits"] or LIMITS,
            )
            metadata = describe_frames(frames, facts)
            if is_sampled:
                chosen = _choose_frames(metadata, len(frames), start, options)
                frames = frames[chosen]
                metadata = metadata_of(metadata, chosen)
            frames = np.stack([self._resized(frame, options) for frame in frames])
        if not is_sampled:
            return [(frames, metadata)]
        length = options["num_frames"]
        views = []
        for first in range(0, len(frames), length):
            places = np.arange(first, first + length)
            views.append((frames[places], metadata_of(metadata, places)))
        return views

    def _read_file(self, source: Any, start: float | None, options: dict[str, Any]) -> tuple[np.ndarray, ClipMetadata]:
        """Return the resized frames of all views over time of a file, one view after the other."""
        rules = rules_of(options)
        rules["prepare"] = lambda picture: self._resized(picture.transpose(2, 0, 1), options)
        if options["do_sample_frames"] is False:
            return decode_frames(source, num_frames=None, **rules)
        return decode_times(source, lambda duration, rate: _times_of_views(duration, rate, start, options), **rules)

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Indices of the frames of one view, `(num_frames,)`; a repeated index stands for a repeated frame."""
        options = self._options({"num_frames": num_frames, "fps": fps})
        _check_read(options, [])
        count = metadata.total_num_frames if metadata.frames_indices is None else len(metadata.frames_indices)
        return _choose_frames(metadata, count, None, options)

    def _resized(self, frame: np.ndarray, options: dict[str, Any]) -> np.ndarray:
        """Return a frame, `(c, h, w)`, resized if it is to be."""
        if not options["do_resize"]:
            return frame
        return self.resize(frame, options["size"], options["resample"])

    def _finished(self, frames: np.ndarray, place: int, options: dict[str, Any]) -> np.ndarray:
        """Cut a view over space out of resized frames, `(t, c, h, w)`, rescale and normalise it."""
        if options["do_center_crop"]:
            size = options["crop_size"]
            frames = cut_view(frames, (size.height, size.width), place, options["num_spatial_views"])
        finished = []
        for frame in frames:
            if options["do_rescale"]:
                frame = self.rescale(frame, options["rescale_factor"])
            if options["do_normalize"]:
                frame = self.normalize(frame, options["image_mean"], options["image_std"])
            finished.append(frame)
        return np.stack(finished)


def cut_view(frames: np.ndarray, size: tuple[int, int], place: int = 0, num_views: int = 1) -> np.ndarray:
    """Cut a view over space out of frames.

    Args:
        frames: `(..., h, w)`.
        size: height and width of the view.
        place: number of the view, from 0 on; views are spread evenly along the side with more to spare.
        num_views: 1, which is the middle, or 3.

    Raises:
        ValueError: if the frames are smaller than the view.
    """
    height, width = frames.shape[-2:]
    spare = (height - size[0], width - size[1])
    if min(spare) < 0:
        raise ValueError(f"frames must have at least crop_size, {size[0]} x {size[1]}, got {height} x {width}")
    top, left = spare[0] // 2, spare[1] // 2
    if num_views > 1 and spare[0] > spare[1]:
        top = place * spare[0] // (num_views - 1)
    elif num_views > 1:
        left = place * spare[1] // (num_views - 1)
    return frames[..., top : top + size[0], left : left + size[1]]


def _times_of_views(duration: float, rate: float, start: float | None, options: Mapping[str, Any]) -> list[float]:
    """Times of the frames of all views over time, one view after the other."""
    num_views = options["num_temporal_views"]
    num_frames = options["num_frames"]
    generator = options["generator"]
    times = []
    for view in range(num_views):
        position: Any = (view + 1) / (num_views + 1)
        if options["sampling"] == "dense":
            if generator is not None:
                position = generator.random()
            times += consecutive_times(duration, rate, num_frames, options["frame_step"], position, start)
        else:
            if generator is not None:
                position = generator.random(num_frames)
            times += segment_times(duration, num_frames, position)
    return times


def _choose_frames(metadata: VideoMetadata, count: int, start: float | None, options: Mapping[str, Any]) -> np.ndarray:
    """Indices into `count` frames, for all views over time: as of a file that shows each frame for a second."""
    check_sampling(start, None, None)
    if start is not None:
        shown = known_times(metadata)
        if shown is None:
            raise ValueError("start needs video_metadata with `fps` or `timestamps`, got neither")
        if start > max(shown):
            raise ValueError(f"start must be from 0 to {max(shown):g} s, the last frame, got {start}")
        start = latest_frames(shown, [start])[0]
    times = _times_of_views(float(count), 1.0, start, options)
    return np.minimum(np.array(times, dtype=int), count - 1)


def _check_views(options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a sampling or a number of views that there is not."""
    for name, known in (("sampling", SAMPLINGS), ("num_spatial_views", SPATIAL_VIEWS)):
        if options[name] not in known:
            raise ValueError(f"{name} must be one of {list(known)}, got {options[name]!r}")
    for name in ("frame_step", "num_temporal_views"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number, one or more, got {value!r}")


def _check_read(options: Mapping[str, Any], asked: list[str]) -> None:
    """Refuse options that would change nothing; `asked` names those of sampling in the call."""
    if options["do_pad"]:
        raise ValueError("do_pad must be false, since a scan would see padding, got True")
    if options["fps"] is not None:
        raise ValueError(f"fps must be absent, since frame_step parts the frames of a clip, got {options['fps']}")
    if options["do_sample_frames"] is False and (unread := [name for name in asked if name != "num_frames"]):
        raise ValueError(f"do_sample_frames must be true for options of sampling, got False and {unread}")
    if options["num_spatial_views"] > 1 and not options["do_center_crop"]:
        raise ValueError(f"num_spatial_views must be 1 without do_center_crop, got {options['num_spatial_views']}")
    if options["sampling"] != "dense" and (of_dense := {"frame_step", "start"} & {*asked}):
        raise ValueError(f"sampling must be 'dense' for {sorted(of_dense)}, got {options['sampling']!r}")
    if "start" in asked and (options["num_temporal_views"] > 1 or options["generator"] is not None):
        raise ValueError("start must be absent where several views are taken or a generator draws it, got one")


__all__ = ["ClipVideoKwargs", "ClipVideoProcessor", "cut_view"]
