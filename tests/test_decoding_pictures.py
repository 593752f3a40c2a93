"""From decoded frames to upright RGB pictures, whatever the frames carry beside their pixels."""

import gc
import weakref
from fractions import Fraction
from io import BytesIO
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from hmba_hf.data.clips import cut_clips
from hmba_hf.models import decoding_pictures, decoding_squares
from hmba_hf.models.decoding_containers import SourceLimits, VideoDecodeError, open_container, opened
from hmba_hf.models.decoding_needed import PlainStretch
from hmba_hf.models.decoding_packets import VideoPackets
from hmba_hf.models.decoding_pictures import ClipPictures, over_white, to_rgb
from hmba_hf.models.decoding_video import decode_frames, iter_frames, video_duration
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from numbered_videos import numbered_video, read_numbers

SQUARE = SimpleNamespace(sample_aspect_ratio=None)


def corners(size=(64, 48)):
    """A picture whose four corners differ."""
    width, height = size
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2] = 255
    picture[: height // 2, width // 2 :, 0] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    return Image.fromarray(picture)


def with_orientation(orientation, suffix="JPEG"):
    exif, file = Image.Exif(), BytesIO()
    exif[274] = orientation
    corners().save(file, suffix, exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_with_exif_are_read_upright(orientation):
    data = with_orientation(orientation)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    frames, metadata = decode_frames(data, num_frames=1)
    assert frames.shape[1:] == wanted.shape == (metadata.height, metadata.width, 3)
    assert np.abs(frames[0].astype(int) - wanted).mean() < 3
    ((_, picture),) = iter_frames(data)
    assert np.array_equal(picture, frames[0])


@pytest.mark.parametrize("matrix", [8, 10, 12, 14])
@pytest.mark.parametrize("picture_format", ["yuv420p", "yuv444p10le"])
def test_a_colour_matrix_that_cannot_be_converted_is_named_with_its_file(matrix, picture_format):
    frame = av.VideoFrame(64, 48, picture_format)
    frame.colorspace = matrix
    with pytest.raises(VideoDecodeError, match=r"^drive.mp4 has a picture of 64 x 48 pixels.* colour matrix, "):
        to_rgb(frame, SQUARE, "drive.mp4")


@pytest.mark.parametrize(("picture_format", "matrix"), [("gray", 8), ("gbrp", 8), ("yuv420p", 3), ("yuv420p", 9)])
def test_a_matrix_that_does_not_matter_or_states_nothing_is_no_obstacle(picture_format, matrix):
    frame = av.VideoFrame(64, 48, picture_format)
    frame.colorspace = matrix
    assert to_rgb(frame, SQUARE, "drive.mp4").shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("matrix", "red", "blue"),
    [(1, 0.2126, 0.0722), (2, 0.299, 0.114), (5, 0.299, 0.114), (7, 0.212, 0.087), (9, 0.2627, 0.0593)],
)
@pytest.mark.parametrize("is_full", [False, True])
def test_colours_follow_from_the_matrix_and_the_range_that_a_frame_states(matrix, red, blue, is_full):
    y, cb, cr = 128, 100, 170
    pixels = np.stack([np.full((48, 64), value, np.uint8) for value in (y, cb, cr)])
    frame = av.VideoFrame.from_ndarray(pixels, format="yuv444p")
    frame.colorspace = matrix
    frame.color_range = 2 if is_full else 1

    light = y / 255 if is_full else (y - 16) / 219
    span = 255 if is_full else 224
    r = light + 2 * (1 - red) * (cr - 128) / span
    b = light + 2 * (1 - blue) * (cb - 128) / span
    g = (light - red * r - blue * b) / (1 - red - blue)

    shown = to_rgb(frame, SQUARE, "drive.mp4")[0, 0].astype(int)
    assert np.abs(shown - 255 * np.array([r, g, b])).max() <= 2


@pytest.mark.parametrize(("is_old", "threads"), [(True, None), (False, 1)])
def test_pictures_are_converted_by_the_thread_that_asks_for_them(monkeypatch, is_old, threads):
    given = {}

    def to_ndarray(**options):
        given.update(options)
        return np.zeros((4, 4, 3), np.uint8)

    frame = SimpleNamespace(format=av.VideoFormat("yuv420p"), colorspace=2, color_range=0, to_ndarray=to_ndarray)
    monkeypatch.setattr(decoding_pictures, "_IGNORES_COLOURS", is_old)
    decoding_pictures._converted(frame, 4)
    assert given.get("threads") == threads


def test_every_door_names_the_file_whose_pictures_cannot_be_converted(tmp_path):
    def odd_matrix(stream):
        stream.codec_context.colorspace = 8

    path = tmp_path / "odd.mp4"
    path.write_bytes(numbered_video(5, codec="libx264", prepare=odd_matrix))
    with pytest.raises(VideoDecodeError, match=r"odd\.mp4 .*YCgCo"):
        decode_frames(path)
    errors = [frame for _, frame in iter_frames(path)]
    errors += cut_clips(path, [(0.0, 0.2)], fps=10)
    assert len(errors) == 6
    assert all(isinstance(error, VideoDecodeError) and "odd.mp4" in str(error) for error in errors)


def test_transparency_is_composited_over_white(monkeypatch):
    monkeypatch.setattr("hmba_hf.models.decoding_pictures._BAND", 1000)  # several bands
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (256, 257, 4), dtype=np.uint8)
    pixels[:, :256, 3] = np.arange(256)
    alpha = pixels[..., 3:] / 255
    wanted = np.rint(alpha * pixels[..., :3] + (1 - alpha) * 255)  # never a half: 255 is odd
    assert np.array_equal(over_white(pixels), wanted)


def transparent_frame(width, height, pattern):
    """A frame with the left part of a pattern, `(4, h, w)` uint8: Y, U and V of every other pixel, alpha."""
    frame = av.VideoFrame(width, height, "yuva420p")
    for number, (plane, values) in enumerate(zip(frame.planes, pattern, strict=True)):
        values = values[::2, ::2] if number in (1, 2) else values
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values[: plane.height, : plane.width]
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize("width", [*range(32, 66, 2), 130, 426])
def test_a_transparent_picture_is_the_left_part_of_a_wider_one(width):
    pattern = np.random.default_rng(width).integers(0, 256, (4, 48, 448), dtype=np.uint8)
    wider = to_rgb(transparent_frame(448, 48, pattern), SQUARE, "wider")
    for _ in range(3):
        found = to_rgb(transparent_frame(width, 48, pattern), SQUARE, "narrow")
        assert np.array_equal(found, wider[:, :width])


def test_reported_files_with_exif_are_read_in_order(shared_data):
    for name in ("exif.avi", "exif.mov", "exif.mkv"):
        pictures = [picture for _, picture in iter_frames(shared_data / "reports" / name)]
        assert read_numbers(np.stack(pictures)) == list(range(30)), name
    for name in ("exif.png", "exif.webp"):
        assert read_numbers(decode_frames(shared_data / "reports" / name)[0]) == [9] * 5, name


# Pixels that are not square


def stretched(ratio):
    def stretch(stream):
        stream.sample_aspect_ratio = Fraction(ratio)

    return numbered_video(3, container="matroska", prepare=stretch)


@pytest.mark.parametrize("ratio", ["10", "30", "1/10", "1/50"])
def test_pixels_that_are_absurdly_long_are_refused_with_the_size_that_they_would_make(ratio):
    data, number = stretched(ratio), float(Fraction(ratio))
    size = f"{max(round(64 * number), 1)} x 48 pixels of 64 x 48"
    with pytest.raises(VideoDecodeError, match=f"max_aspect_ratio=3, got {number:g}.*{size}"):
        decode_frames(data)
    errors = [picture for _, picture in iter_frames(data)]
    assert len(errors) == 3 and all(size in str(error) for error in errors)


def test_the_limit_of_a_pixels_aspect_ratio_is_an_option():
    data = stretched("10")
    assert decode_frames(data, limits=SourceLimits(max_aspect_ratio=10))[0].shape == (5, 48, 640, 3)
    with pytest.raises(VideoDecodeError, match="at most max_pixels=30000, got 640 x 48 pixels"):
        decode_frames(data, limits=SourceLimits(max_aspect_ratio=10, max_pixels=30_000))


@pytest.mark.parametrize("ratio", ["32/11", "1/3", "64/45", "2"])
def test_pixels_of_real_cameras_are_stretched(ratio):
    assert decode_frames(stretched(ratio))[0].shape == (5, 48, round(64 * Fraction(ratio)), 3)


# Memory


def deep(stream):
    """Frames of this format take twice the memory of their pictures in RGB."""
    stream.pix_fmt = "yuv444p16le"


def consumed(items):
    for item in items:
        del item  # as a caller may, before the next one is decoded


@pytest.fixture
def alive(monkeypatch):
    """Take down how many frames in a format are alive whenever a packet is about to be decoded."""
    counts = {}
    is_torn = VideoPackets.is_torn
    needed = PlainStretch._needed

    def count():
        things = gc.get_objects()
        formats = [thing.format.name for thing in things if type(thing) is av.VideoFrame and thing.width]
        for name in ("yuv444p16le", "yuv444p10le", "yuv420p"):
            counts[name] = [*counts.get(name, []), formats.count(name)]
        decoders = sum(type(thing) is av.VideoCodecContext for thing in things)
        assert decoders == 1, "a decoder keeps frames until it is gone"

    def counted(packets, packet):
        count()
        return is_torn(packets, packet)

    def counted_where_all_is_plain(stretch, wanted):
        for packet in needed(stretch, wanted):
            count()
            yield packet

    monkeypatch.setattr(VideoPackets, "is_torn", counted)
    monkeypatch.setattr(PlainStretch, "_needed", counted_where_all_is_plain)
    gc.freeze()
    gc.disable()  # frames that wait for it would add up to many times the memory of one
    yield counts
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize(
    "door",
    [
        lambda data: decode_frames(data, 1.9, 5, 4.0),
        lambda data: decode_frames(data, None, 20, 10.0),
        lambda data: decode_frames(data, None, None),
        lambda data: consumed(iter_frames(data)),
        video_duration,
    ],
    ids=["clip", "dense", "all", "iter", "duration"],
)
def test_a_frame_is_let_go_before_the_next_one_is_decoded(door, alive):
    """Two wait at the start of a stretch, until the second stamp has shown that the first is right."""
    door(numbered_video(20, codec="ffv1", container="matroska", prepare=deep))
    counts = alive["yuv444p16le"]
    assert len(counts) > 16
    assert max(counts) <= 2
    assert sum(count > 1 for count in counts) <= 3  # starts


@pytest.mark.parametrize("num_frames", [5, 20, None])
def test_one_ordinary_frame_waits_for_the_next_one(num_frames, alive):
    decode_frames(numbered_video(20, codec="libx264"), None, num_frames, 10.0)
    assert max(alive["yuv420p"]) <= 2


def test_deep_frames_that_come_late_wait_as_pictures(alive):
    times = [(index // 4 * 4 + (2, 0, 3, 1)[index % 4]) / 10 for index in range(20)]
    consumed(iter_frames(numbered_video(20, times=times, codec="ffv1", container="nut", prepare=deep)))
    assert max(alive["yuv444p16le"]) <= 2


def stretched_and_deep(stream):
    stream.pix_fmt = "yuv444p10le"
    stream.sample_aspect_ratio = Fraction(29, 10)


@pytest.fixture
def converted(monkeypatch):
    """Take down how many rows are converted at a time, of one picture in memory at the most."""
    rows = []
    pictures = []
    convert = decoding_pictures._converted

    def counted(frame, width):
        assert all(other() is None for other in pictures)
        pixels = convert(frame, width)
        rows.append(len(pixels))
        pictures.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(decoding_pictures, "_converted", counted)
    monkeypatch.setattr(decoding_pictures, "_STRETCHED_BAND", 20 * 186)
    monkeypatch.setattr(decoding_squares, "_BAND", 20 * 186)
    return rows


@pytest.mark.parametrize(
    "door",
    [
        lambda data: decode_frames(data, 1.9, 5, 4.0)[0],
        lambda data: decode_frames(data, None, None)[0],
        lambda data: HMBAVideoProcessor()(data, num_frames=5)["pixel_values_videos"],
    ],
    ids=["clip", "all", "processor"],
)
def test_a_deep_frame_is_stretched_a_few_rows_at_a_time_to_the_same_pixels(door, converted, alive, monkeypatch):
    data = numbered_video(20, codec="libx264", prepare=stretched_and_deep)
    by_rows = door(data)
    assert max(converted) == 20
    assert max(alive["yuv444p10le"]) <= 2
    monkeypatch.setattr(decoding_pictures, "stretches_rows", lambda *args: False)
    assert np.array_equal(by_rows, door(data))
    assert max(converted) == 48


def test_a_frame_whose_rows_cannot_be_stretched_alone_is_stretched_as_a_whole():
    for pixels, ratio in (("yuv420p16le", 2), ("yuv444p16le", 1), ("yuv444p", 2)):
        stream = SimpleNamespace(sample_aspect_ratio=Fraction(ratio))
        assert not decoding_pictures.stretches_rows(av.VideoFrame(64, 48, pixels), stream), pixels


def test_deep_frames_that_come_late_are_put_in_order():
    times = [(index // 4 * 4 + (2, 0, 3, 1)[index % 4]) / 10 for index in range(20)]
    shuffled = numbered_video(20, times=times, codec="ffv1", container="nut", prepare=deep)
    passed = list(iter_frames(shuffled))
    order = [times.index(time) for time in sorted(times)]
    assert read_numbers(np.stack([frame for _, frame in passed])) == order
    assert read_numbers(decode_frames(shuffled, num_frames=None)[0]) == order
    assert read_numbers(decode_frames(shuffled, None, 6, 10.0)[0]) == order[-6:]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1], [1, 2, 3, 0], [3, 0, 1, 2]])
def test_pictures_that_come_late_stand_where_they_belong(order):
    pictures = [np.full((2, 3, 3), number, np.uint8) for number in range(4)]
    clip = ClipPictures("a file", expected=2)  # grows
    for place, picture in enumerate(pictures):
        clip.put([place], picture)
    assert clip.made(order)[:, 0, 0, 0].tolist() == order


def test_a_held_picture_of_another_size_is_forgotten():
    clip = ClipPictures("a file", count=3)
    large = np.full((4, 5, 3), 9, np.uint8)
    small = [np.full((2, 3, 3), number, np.uint8) for number in range(2)]
    clip.hold(0, large)
    clip.hold(0, small[0])
    clip.put_held([0, 1])
    clip.hold(2, small[1])
    clip.hold(2, large)
    clip.hold(2, small[1])
    clip.put_held([2])
    assert clip.made([0, 1, 2])[:, 0, 0, 0].tolist() == [0, 0, 1]
    clip.hold(1, large)
    clip.put_held([1])
    with pytest.raises(VideoDecodeError, match="changes its frame size within the clip"):
        clip.made([0, 1, 2])


def test_of_pictures_that_are_made_smaller_one_is_in_memory_at_a_time():
    pictures = []

    def shrunk(picture):
        assert all(other() is None for other in pictures)
        pictures.append(weakref.ref(picture))
        return picture[::2, ::2].mean(-1)

    data = numbered_video(12, codec="ffv1", container="matroska", prepare=deep)
    whole, _ = decode_frames(data, None, 8, 10.0)
    small, metadata = decode_frames(data, None, 8, 10.0, prepare=shrunk)
    assert len(pictures) == 9  # the frame before the clip might have been the first one in it
    assert np.array_equal(small, whole[:, ::2, ::2].mean(-1))
    assert (metadata.width, metadata.height) == (64, 48)


def test_av1_is_decoded_one_frame_at_a_time_however_many_threads_there_are():
    """Each further frame at once takes several times its memory, and comes late."""

    def quick(stream):
        stream.options = {"preset": "12"}

    data = numbered_video(3, codec="libsvtav1", gop=1, prepare=quick)
    with opened(data) as (file, name):
        container, stream = open_container(file, name)
        stream.codec_context.thread_count = 16
        counts = [len(packet.decode()) for packet in container.demux(stream)]
        container.close()
    assert counts == [1, 1, 1, 0]


def test_a_clip_that_repeats_a_frame_converts_it_once(monkeypatch):
    converted = []

    def counted(frame, *args):
        converted.append(frame)
        return to_rgb(frame, *args)

    monkeypatch.setattr("hmba_hf.models.decoding_pictures.to_rgb", counted)
    frames, _ = decode_frames(numbered_video(3), 0.1, 40, 100.0)
    assert len(frames) == 40 and len(converted) == 2


@pytest.mark.parametrize("passes", [1, 2])
def test_a_heavy_frame_becomes_a_picture_only_if_it_may_be_the_latest_one(passes, monkeypatch):
    """Where the next one is late, the frame before it is needed after all, and the stretch is read once more."""
    times = [number / 10 if number < 8 or passes == 1 else number / 10 + 1 for number in range(20)]
    data = numbered_video(20, times=times, codec="ffv1", container="matroska", prepare=deep)
    converted = []

    def counted(frame, *args):
        converted.append(frame.pts)
        return to_rgb(frame, *args)

    monkeypatch.setattr("hmba_hf.models.decoding_pictures.to_rgb", counted)
    wanted = [0.3, 0.95, 1.6]
    frames, metadata = decode_frames(data, wanted[-1], 3, 1 / 0.65)
    latest = [max(time for time in times if time <= wish) for wish in wanted]
    assert read_numbers(frames) == [times.index(time) for time in latest]
    assert metadata.frame_times == pytest.approx(latest)
    assert len(converted) <= 2 * len(wanted) if passes == 1 else len(converted) >= 8
