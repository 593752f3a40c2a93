"""Frames on a square that is never made."""

import tracemalloc

import numpy as np
import pytest
from transformers.image_utils import SizeDict

from hmba_hf.models import decoding_squares
from hmba_hf.models.decoding_squares import resize_squared
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor, expand_to_square


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("shape", [(48, 64), (65, 48), (1, 50), (50, 1), (33, 33), (50, 50), (90, 301, 1)])
def test_the_pixels_are_those_of_the_whole_square(shape, resample, monkeypatch):
    monkeypatch.setattr(decoding_squares, "_BAND", 500)  # several bands
    frame = noise(*shape)
    for side in (7, 50, 96):
        size = SizeDict(height=side, width=side)
        whole = HMBAVideoProcessor().resize(expand_to_square(np.moveaxis(frame, -1, 0)), size, resample)
        assert np.array_equal(resize_squared(frame, (side, side), resample, 255), np.moveaxis(whole, 0, -1))


def test_a_square_frame_of_the_wanted_size_is_not_resampled(monkeypatch):
    monkeypatch.setattr(decoding_squares, "_resize", lambda *given: pytest.fail("each pixel is there"))
    frame = noise(40, 40)
    assert np.array_equal(resize_squared(frame, (40, 40), 3, 255), frame)


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 32, "width": 32}},
        {"size": {"height": 24, "width": 40}},
        {"size": {"shortest_edge": 32}},
        {"size": {"height": 32, "width": 32}, "do_expand_to_square": False},
        {"size": {"height": 32, "width": 32}, "do_resize": False},
        {"size": {"height": 32, "width": 32}, "resample": 2},
    ],
)
def test_a_processor_gives_the_pixels_that_it_gave_with_whole_squares(options):
    frame = noise(60, 91)
    processor = HMBAVideoProcessor(**options, do_rescale=False, do_normalize=False)
    given = processor([frame], return_tensors="np")["pixel_values_videos"][0, 0]
    wanted = np.moveaxis(frame, -1, 0)
    if options.get("do_expand_to_square", True):
        wanted = expand_to_square(wanted)
    if options.get("do_resize", True):
        wanted = processor.resize(wanted, SizeDict(**options["size"]), options.get("resample", 3))
    assert np.array_equal(given, wanted)


@pytest.mark.parametrize("size", [(224, 224), (196, 224)])
@pytest.mark.parametrize("shape", [(40, 8_000), (8_000, 40), (2, 30_000)])
def test_a_long_frame_takes_the_memory_of_its_pixels_and_not_of_its_square(shape, size):
    frame = noise(*shape)
    processor = HMBAVideoProcessor(size={"height": size[0], "width": size[1]})
    tracemalloc.start()
    pixels = processor([frame], return_tensors="np")["pixel_values_videos"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (1, 1, 3, *size)
    assert peak < 25_000_000  # bytes; the square would take at least 192,000,000


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_one_column_is_resized_in_the_work_of_its_pixels(channels, monkeypatch):
    sizes = []
    resize = decoding_squares._resize
    monkeypatch.setattr(decoding_squares, "_resize", lambda *args: sizes.append(args[0].size) or resize(*args))
    frame = noise(20_000, 1, channels)
    small = resize_squared(frame, (28, 28), 3, 255)
    assert sum(sizes) < 50 * frame.size  # each of its rows on the square would make 20,000 times as many
    whole = resize_squared(noise(4_000, 1, channels), (28, 28), 3, 255)
    turned = resize_squared(noise(4_000, 1, channels).swapaxes(0, 1), (28, 28), 3, 255).swapaxes(0, 1)
    assert small.shape == (28, 28, channels)
    assert np.abs(whole.astype(int) - turned).max() <= 1  # rounded in another order
