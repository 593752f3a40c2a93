import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.data.actions.samples import ActionSample
from hmba_hf.data.actions.training_clips import draw_frames, to_pixels, video_of
from hmba_hf.data.samples import Sample
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from numbered_videos import numbered_video, read_numbers

PICTURES = tuple(Image.new("RGB", (4, 3), (20 * number, 0, 0)) for number in range(12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers_of(frames):
    return [frame.getpixel((0, 0))[0] // 20 for frame in frames]


def test_one_frame_of_each_segment_is_drawn_whole():
    processor = VideoMambaVideoProcessor(num_frames=4)
    drawn = [draw_frames(list(PICTURES), processor, generator(seed)) for seed in range(40)]
    assert {frame.size for frames in drawn for frame in frames} == {(4, 3)}
    seen = [numbers_of(frames) for frames in drawn]
    for segment in range(4):
        assert {numbers[segment] for numbers in seen} == {3 * segment, 3 * segment + 1, 3 * segment + 2}
    assert numbers_of(draw_frames(list(PICTURES), processor, generator(7))) == seen[7]


def test_dense_clips_are_drawn_where_the_processor_takes_them():
    processor = VideoMambaVideoProcessor(num_frames=3, sampling="dense", frame_step=2)
    seen = {tuple(numbers_of(draw_frames(list(PICTURES), processor, generator(n)))) for n in range(40)}
    assert len(seen) > 4
    assert all((second - first, third - second) == (2, 2) for first, second, third in seen)


def test_frames_of_files_and_of_samples_with_frames_are_drawn_likewise():
    processor = VideoMambaVideoProcessor(num_frames=3)
    video = video_of(ActionSample("a", numbered_video(12, rate=1)))
    seen = set()
    for seed in range(10):
        frames = draw_frames(video, processor, generator(seed))
        numbers = read_numbers(np.stack([np.asarray(frame) for frame in frames]))
        assert [number // 4 for number in numbers] == [0, 1, 2]
        seen.update(numbers)
    assert len(seen) > 6
    for sample in (Sample("b", "Q?", "A", frames=PICTURES), ActionSample("b", PICTURES)):
        drawn = numbers_of(draw_frames(video_of(sample), processor, generator()))
        assert drawn == numbers_of(draw_frames(list(PICTURES), processor, generator()))


def test_pixels_are_normalised_by_colour():
    pixels = to_pixels([Image.new("RGB", (2, 1), (255, 51, 0))] * 3, (0.5, 0.1, 0.0), (0.5, 0.1, 1.0))
    assert pixels.shape == (3, 3, 1, 2)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1, 1, 0])
