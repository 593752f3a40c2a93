import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.data.actions.training_clips import draw_frames, to_pixels
from numbered_videos import numbered_video, read_numbers

PICTURES = tuple(Image.new("RGB", (4, 3), (20 * number, 0, 0)) for number in range(12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers_of(frames):
    return [frame.getpixel((0, 0))[0] // 20 for frame in frames]


def test_one_frame_of_each_segment_is_drawn():
    seen = [numbers_of(draw_frames(PICTURES, 4, {}, generator(seed))) for seed in range(40)]
    for segment in range(4):
        assert {numbers[segment] for numbers in seen} == {3 * segment, 3 * segment + 1, 3 * segment + 2}
    assert numbers_of(draw_frames(PICTURES, 4, {}, generator(7))) == seen[7]


def test_a_short_video_repeats_its_frames():
    assert numbers_of(draw_frames(PICTURES[:2], 4, {}, generator())) == [0, 0, 1, 1]


def test_frames_of_a_file_are_drawn_likewise():
    video = numbered_video(12, rate=1)
    seen = set()
    for seed in range(10):
        frames = draw_frames(video, 3, {}, generator(seed))
        numbers = read_numbers(np.stack([np.asarray(frame) for frame in frames]))
        assert [number // 4 for number in numbers] == [0, 1, 2]
        seen.update(numbers)
    assert len(seen) > 6


def test_pixels_are_normalised_by_colour():
    pixels = to_pixels([Image.new("RGB", (2, 1), (255, 51, 0))] * 3, (0.5, 0.1, 0.0), (0.5, 0.1, 1.0))
    assert pixels.shape == (3, 3, 1, 2)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1, 1, 0])
