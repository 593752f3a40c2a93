"""From a decoded frame to an upright RGB picture with square pixels, and from arrays to frames of RGB."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorRange, Colorspace
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .decoding_containers import LIMITS, SourceLimits, VideoDecodeError, errors_named

# Players stretch frames whose pixels are not square. Ratios this close to 1 only repair a rounded size.
SQUARE_PIXEL_TOLERANCE = 0.01
# Side data of a frame from this type on are younger than the tables of some versions of PyAV, which then refuse all.
_FIRST_YOUNG_SIDE_DATA = 28
_LAST_YOUNG_SIDE_DATA = 63
# Matrices by their number in ITU-T H.273: those that swscale lacks, and that older versions take for another one.
_UNKNOWN_MATRICES = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
_UNSPECIFIED_MATRIX = 2
_RESERVED_MATRIX = 3
# PyAV before 17 takes all matrices for that of BT.601, unless a second one is named: BT.709, FCC, SMPTE 240M, BT.2020.
# It forgets the full range of a frame, too, unless its format or the caller says so.
_IGNORES_COLOURS = int(av.__version__.partition(".")[0]) < 17
_IGNORED_MATRICES = (1, 4, 7, 9)
# Of transparent WebM, the one format whose RGBA swscale makes in whole vectors alone: at some widths it does not write
# the last columns, or writes beyond the picture. Its RGB is right, and its alpha needs no conversion.
_ALPHA_APART = "yuva420p"
_BAND = 2**18  # pixels that are composited at once
_STRETCHED_BAND = 2**19  # pixels of a stretched picture that are converted at once
_RGB_BITS = 24
_RESERVE = 2**30  # bytes to which the array of a clip may grow without being moved


def to_rgb(frame: av.VideoFrame, stream: Any, name: str, limits: SourceLimits = LIMITS) -> np.ndarray:
    """Convert a frame to `(h, w, 3)` uint8 RGB: square pixels, upright, transparency over white.

    Raises:
        VideoDecodeError: the frame is larger or its pixels are longer than `limits` allow, or it cannot be converted;
            the message has the `name` of its file and the reason.
    """
    width = _square_width(frame, stream, name, limits)
    with errors_named(name, _trouble(frame)):
        _check_matrix(frame)
        pixels = _converted(frame, width)
        matrix = _display_matrix(frame)
    return pixels if matrix is None else _apply_display_matrix(pixels, matrix)


def _trouble(frame: av.VideoFrame) -> str:
    return f"has a picture of {frame.width} x {frame.height} pixels, {frame.format.name}, that cannot become RGB"


def _converted(frame: av.VideoFrame, width: int) -> np.ndarray:
    """The pixels of a frame as they are stored, stretched to a width, `(h, width, 3)`."""
    has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    has_alpha_apart = frame.format.name == _ALPHA_APART and width == frame.width
    options: dict[str, Any] = {"interpolation": "BICUBIC"}
    options["format"] = "rgba" if has_alpha and not has_alpha_apart else "rgb24"
    if _IGNORES_COLOURS and _has_matrix(frame):
        if int(frame.colorspace) in _IGNORED_MATRICES:
            options["dst_colorspace"] = Colorspace.DEFAULT
        if int(frame.color_range) == ColorRange.JPEG:
            options["src_color_range"] = ColorRange.JPEG
    if not _IGNORES_COLOURS:
        options["threads"] = 1  # else it starts one for each processor and ends them, at each frame; PyAV 16 has none
    pixels: np.ndarray = frame.to_ndarray(width=width, **options)
    if has_alpha_apart:
        pixels = np.dstack([pixels, _alpha_plane(frame)])
    return over_white(pixels) if has_alpha else pixels


def _alpha_plane(frame: av.VideoFrame) -> np.ndarray:
    """The fourth plane of a frame, 8 bits a pixel, `(h, w)`."""
    plane: Any = frame.planes[3]  # a buffer, which PyAV's type hints do not say
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


class PictureRows:
    """The picture that `to_rgb` makes of a frame, `(h, w, 3)`, some rows of which are converted at a time.

    `rows[top:bottom]` are those rows, `np.asarray(rows)` is the whole picture.

    Args:
        frame: with colours for each row, and upright; see `stretches_rows`.
        stream, name, limits: as for `to_rgb`, which raises the same errors.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, frame: av.VideoFrame, stream: Any, name: str, limits: SourceLimits):
        self._frame = frame
        self._name = name
        self.shape = (frame.height, _square_width(frame, stream, name, limits), 3)
        with errors_named(name, _trouble(frame)):
            _check_matrix(frame)
        _ = self[:1]  # raises the errors of all rows

    def __getitem__(self, rows: slice) -> np.ndarray:
        top, bottom, _ = rows.indices(self.shape[0])
        with errors_named(self._name, _trouble(self._frame)):
            return _converted(_cropped(self._frame, top, bottom - top), self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        picture = np.empty(self.shape, dtype or self.dtype)
        self.write_into(picture)
        return picture

    def write_into(self, picture: np.ndarray) -> None:
        """Write the whole picture into an array of its shape."""
        step = max(_STRETCHED_BAND // self.shape[1], 1)
        for top in range(0, self.shape[0], step):
            picture[top : top + step] = self[top : top + step]


def stretches_rows(frame: av.VideoFrame, stream: Any) -> bool:
    """Return whether a frame is heavier than its picture, and rows of it can be stretched one by one."""
    has_all_rows = all(component.height == frame.height for component in frame.format.components)
    is_stretched = (stream.sample_aspect_ratio or 1) > 1 + SQUARE_PIXEL_TOLERANCE
    return has_all_rows and is_stretched and weight_of(frame.format) > 1 and _display_matrix(frame) is None


def picture_or_error(
    frame: av.VideoFrame, stream: Any, name: str, limits: SourceLimits, may_be_rows: bool = False
) -> Any:
    """Convert a frame as `to_rgb` does, and return the error where it cannot be; `PictureRows` if these may come."""
    try:
        if may_be_rows and stretches_rows(frame, stream):
            return PictureRows(frame, stream, name, limits)
        return to_rgb(frame, stream, name, limits)
    except VideoDecodeError as error:
        return error


def weight_of(pixel_format: Any) -> float:
    """Memory of a decoded frame in this format, in pictures of RGB."""
    return float(pixel_format.padded_bits_per_pixel / _RGB_BITS)


class _Kept(NamedTuple):
    """What is kept of a picture, and its height and width; or an error, and none."""

    picture: np.ndarray | PictureRows | VideoDecodeError
    size: tuple[int, int] | None


class ClipPictures:
    """The pictures of a clip in one array, into which each is put as it comes.

    Args:
        name: of the file, for messages.
        count: number of pictures; as many as come when absent.
        expected: number of pictures for which the array need not be moved. Memory is taken for those that come.
        prepare: makes of a picture, `(h, w, 3)`, what is kept of it; the picture itself when absent.
    """

    def __init__(
        self,
        name: str,
        count: int | None = None,
        expected: int = 1,
        prepare: Callable[[Any], np.ndarray] | None = None,
    ):
        self._name = name
        self._count = count
        self._expected = expected
        self._prepare = prepare
        self._rows: np.ndarray | None = None
        self._held: _Kept | None = None
        self._errors: dict[int, VideoDecodeError] = {}
        self.size: tuple[int, int] | None = None  # height and width of the pictures

    def put(self, places: list[int], picture: np.ndarray | PictureRows | VideoDecodeError) -> None:
        """Put a picture, `(h, w, 3)`, or an error into places, in the stead of what was there."""
        self._put(places, self._kept(picture))

    def hold(self, place: int, picture: np.ndarray | PictureRows | VideoDecodeError) -> None:
        """Keep a picture for `put_held`, unless another one comes before: if it can be, in the memory of its place."""
        self._held = self._kept(picture)
        kept = self._held.picture
        if isinstance(kept, VideoDecodeError) or self._count is None:
            return
        if self._rows is None or self._rows.shape[1:] == kept.shape:
            row = self._row(place, kept)
            _write(kept, row)
            self._held = self._held._replace(picture=row)
        elif isinstance(kept, PictureRows):
            self._held = self._held._replace(picture=np.asarray(kept))

    def put_held(self, places: list[int]) -> None:
        """Put the picture that is held into places."""
        assert self._held is not None
        self._put(places, self._held)
        self._held = None

    def _kept(self, picture: np.ndarray | PictureRows | VideoDecodeError) -> "_Kept":
        if isinstance(picture, VideoDecodeError):
            return _Kept(picture, None)
        size = picture.shape[0], picture.shape[1]
        return _Kept(picture if self._prepare is None else self._prepare(picture), size)

    def _put(self, places: list[int], kept: "_Kept") -> None:
        picture = kept.picture
        if not isinstance(picture, VideoDecodeError):
            if self.size is None and self._rows is not None and self._rows.shape[1:] != picture.shape:
                self._rows = None  # for a picture that was held and is not wanted
            self.size = self.size or kept.size
            if self.size != kept.size:
                height, width = kept.size or (0, 0)
                what = f"changes its frame size within the clip, to {(width, height)}"
                picture = VideoDecodeError(f"{self._name} {what}")
        for place in places:
            self._errors.pop(place, None)
        if isinstance(picture, VideoDecodeError):
            self._errors |= dict.fromkeys(places, picture)
            return
        for place in places:
            row = self._row(place, picture)
            _write(picture, row)
            picture = row

    def _row(self, place: int, like: np.ndarray | PictureRows) -> np.ndarray:
        if self._rows is None:
            size = math.prod(like.shape) * like.dtype.itemsize
            count = self._count or min(self._expected, max(_RESERVE // size, 1))
            self._rows = np.empty((count, *like.shape), like.dtype)
        if place >= len(self._rows):
            self._rows.resize((place + 1, *like.shape), refcheck=False)  # nothing else sees it
        row: np.ndarray = self._rows[place]
        return row

    def made(self, order: list[int]) -> np.ndarray:
        """The clip, `(t, h, w, 3)` or of what was prepared: the pictures at these places, which are all in it.

        Raises:
            VideoDecodeError: a frame could not be converted, or they differ in size.
        """
        for place in order:
            if place in self._errors:
                raise self._errors[place]
        assert self._rows is not None, "a clip holds a frame"
        clip = self._rows[: len(order)]
        _arrange(clip, order)
        return clip


def _write(picture: np.ndarray | PictureRows, row: np.ndarray) -> None:
    if isinstance(picture, PictureRows):
        picture.write_into(row)
    else:
        row[...] = picture


def _arrange(rows: np.ndarray, order: list[int]) -> None:
    """Bring rows into an order by exchanging two at a time, which takes the memory of one more."""
    for place, source in enumerate(order):
        while source < place:  # has been moved to where its row was needed
            source = order[source]
        if source != place:
            kept = rows[place].copy()
            rows[place] = rows[source]
            rows[source] = kept


def _square_width(frame: av.VideoFrame, stream: Any, name: str, limits: SourceLimits) -> int:
    """Width of a frame once its pixels are square."""
    limits.check_size(frame.width, frame.height, name)
    ratio = float(stream.sample_aspect_ratio or 1)
    if abs(ratio - 1) <= SQUARE_PIXEL_TOLERANCE:
        return frame.width
    width = max(round(frame.width * ratio), 1)
    if max(ratio, 1 / ratio) > limits.max_aspect_ratio:
        raise VideoDecodeError(
            f"{name} cannot be read: the aspect ratio of its pixels or the inverse must be at most "
            f"max_aspect_ratio={limits.max_aspect_ratio:g}, got {ratio:g}, which makes {width} x {frame.height} "
            f"pixels of {frame.width} x {frame.height}"
        )
    limits.check_size(width, frame.height, name)
    return width


def _has_matrix(frame: av.VideoFrame) -> bool:
    """Return whether RGB follows from the colours of a frame by a matrix."""
    return not frame.format.is_rgb and len(frame.format.components) >= 3


def _check_matrix(frame: av.VideoFrame) -> None:
    matrix = int(frame.colorspace)
    if matrix == _RESERVED_MATRIX:  # states nothing
        frame.colorspace = _UNSPECIFIED_MATRIX
    if matrix in _UNKNOWN_MATRICES and _has_matrix(frame):
        raise ValueError(f"FFmpeg cannot convert its colour matrix, {_UNKNOWN_MATRICES[matrix]}")


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Composite RGBA, `(h, w, 4)` uint8, onto white, `(h, w, 3)`: `(alpha c + (255 - alpha) 255) / 255`, rounded."""
    opaque = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(_BAND // pixels.shape[1], 1)
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        alpha = band[..., 3:].astype(np.uint16)
        total = band[..., :3] * alpha
        total += (255 - alpha) * 255 + 128
        total += total >> 8  # with the shift below, exactly a rounded division by 255
        opaque[top : top + rows] = total >> 8
    return opaque


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The first five numbers of the matrix `a, b, u, c, d, v, ...`, `None` where the frame has none."""
    table: Any = SideDataContainer  # whose type hints do not know that it takes a frame
    # `frame.side_data` would keep the table in the frame and the frame in the table: memory that is freed too late.
    try:
        side_data: Any = table(frame).get("DISPLAYMATRIX")
    except ValueError:  # a type that this PyAV does not know, such as EXIF in PyAV 18.1
        side_data = table(_without_young_side_data(frame)).get("DISPLAYMATRIX")
    return None if side_data is None else np.frombuffer(bytes(side_data), dtype=np.int32)[:5]


def _without_young_side_data(frame: av.VideoFrame) -> Any:
    """Copy a frame without the side data that PyAV may not know; the pixels are shared."""
    kinds = range(_FIRST_YOUNG_SIDE_DATA, _LAST_YOUNG_SIDE_DATA + 1)
    return _filtered(frame, [("sidedata", f"mode=delete:type={kind}") for kind in kinds])


def _cropped(frame: av.VideoFrame, top: int, height: int) -> Any:
    """Some rows of a frame; the pixels are shared."""
    return _filtered(frame, [("crop", f"w=iw:h={height}:x=0:y={top}:exact=1")])


def _filtered(frame: av.VideoFrame, filters: list[tuple[str, str]]) -> Any:
    """The frame that comes out of a chain of FFmpeg's filters, each with its options."""
    graph = Graph()
    last = source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    for name, options in filters:
        following = graph.add(name, options)
        last.link_to(following)
        last = following
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    source.push(frame)
    return sink.pull()


def _apply_display_matrix(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror `(h, w, 3)` as a display matrix asks, to the nearest right angle.

    Formula: `(x', y') = (a x + c y, b x + d y)` with the matrix stored as `a, b, u, c, d, v, ...`.
    """
    a, b, _, c, d = (int(value) for value in matrix)
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return pixels


def add_colours(frame: np.ndarray) -> np.ndarray:
    """Turn grey or RGBA, `(1, h, w)` or `(4, h, w)`, into RGB, `(3, h, w)`, transparency over white."""
    if len(frame) == 1:
        return np.repeat(frame, 3, axis=0)
    if frame.dtype == np.uint8:
        return np.moveaxis(over_white(np.moveaxis(frame, 0, -1)), -1, 0)
    return frame[3:] * frame[:3] + (1 - frame[3:])


def channels_first(frames: np.ndarray, layout: Any) -> np.ndarray:
    """Move the channels of `(t, c, h, w)` or `(t, h, w, c)` to the second axis; there must be 1, 3 or 4 of them."""
    if 0 in frames.shape:
        raise ValueError(f"a clip must hold at least one frame and one pixel, got shape {frames.shape}")
    return np.moveaxis(frames, -1, 1) if layout_of(frames, layout) == ChannelDimension.LAST else frames


def layout_of(frames: np.ndarray, layout: Any = None) -> ChannelDimension:
    """Return whether the channels of `(t, ...)` come first or last, found by their number where `layout` is absent."""
    if layout is not None:
        return ChannelDimension(layout)
    try:
        return infer_channel_dimension_format(frames, num_channels=(1, 3, 4))
    except ValueError as error:
        raise ValueError(f"frames must have 1, 3 or 4 channels, first or last, got shape {frames.shape}") from error


def checked_pixels(frames: np.ndarray, do_rescale: bool | None) -> np.ndarray:
    """Check the values of frames and bring them to uint8, or to float32 in [0, 1] if they are not to be rescaled."""
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind not in "iuf":
        raise ValueError(f"pixels must be numbers, got {frames.dtype}")
    low, high = frames.min(), frames.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("pixels must be finite, got NaN or infinity")
    if low < 0 or high > 255:
        raise ValueError(f"pixels must lie between 0 and 255, got {low} to {high}")
    if frames.dtype.kind == "f" and high <= 1:
        if not do_rescale:
            return frames.astype(np.float32)
        if (frames != np.round(frames)).any():
            raise ValueError("pixels already lie between 0 and 1: pass do_rescale=False")
    return np.round(frames).astype(np.uint8)
