from dataclasses import replace

import pytest

from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.past_frames import SamplesWithPast
from hmba_hf.data.samples import Sample

WORLD = MicroWorld(MicroWorldConfig(frame_size=32, num_frames=3), "train", 20)


def pixels(frames):
    return [frame.tobytes() for frame in frames]


def test_a_clip_keeps_its_frames_at_the_end_of_a_past_of_whole_other_scenes():
    with_past, lengths = SamplesWithPast(WORLD, 7), set()
    scenes = {first: [first, *rest] for first, *rest in (pixels(WORLD[i].frames) for i in range(20))}
    for i in range(20):
        sample, own = with_past[i], WORLD[i]
        frames = pixels(sample.frames)
        assert frames[-3:] == pixels(own.frames)
        assert replace(sample, frames=own.frames) == own
        past = frames[:-3]
        for start in range(0, len(past), 3):
            assert past[start : start + 3] == scenes[past[start]][: len(past[start : start + 3])]
        lengths.add(len(past))
    assert min(lengths) == 0 and max(lengths) == 7 and len(lengths) > 4
    assert len(with_past) == 20


def test_a_past_is_the_same_each_time_and_another_with_another_seed():
    first, again, other = (SamplesWithPast(WORLD, 9, seed) for seed in (1, 1, 2))
    pasts = [[len(samples[i].frames) for i in range(20)] for samples in (first, again, other)]
    assert pasts[0] == pasts[1] != pasts[2]
    assert pixels(first[3].frames) == pixels(again[3].frames)


def test_no_past_leaves_samples_as_they_are():
    assert SamplesWithPast(WORLD, 0)[4] == WORLD[4]


def test_a_past_before_a_file_and_a_negative_one_are_refused():
    files = [Sample(id=str(i), question="What?", answer="It.", video="drive.mp4") for i in range(8)]
    with_past = SamplesWithPast(files, 5)
    with pytest.raises(ValueError, match="must have frames to take past frames, got a video file"):
        [with_past[i] for i in range(8)]
    with pytest.raises(ValueError, match="longest must be at least 0, got -1"):
        SamplesWithPast(WORLD, -1)
