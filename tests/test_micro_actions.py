from dataclasses import replace

import numpy as np
import pytest

from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world.actions import ACTION_NAMES, MicroActions, MicroActionsConfig, opposite_action

CLEAN = MicroActionsConfig(seed=2, frame_size=24, nuisance=0.0)


def pixels(sample):
    return np.stack([np.asarray(frame) for frame in sample.video])  # (t, h, w, 3)


@pytest.mark.parametrize("action", ACTION_NAMES)
def test_an_action_run_backwards_is_its_opposite(action):
    world = MicroActions(CLEAN, size=3)
    for index in range(3):
        clip = pixels(world.action_sample(index, action))
        assert np.array_equal(clip, pixels(world.action_sample(index, opposite_action(action)))[::-1])
        assert not np.array_equal(clip, clip[::-1])


def test_each_action_has_one_opposite():
    for action in ACTION_NAMES:
        assert opposite_action(action) != action and opposite_action(opposite_action(action)) == action


def test_neither_first_nor_last_frames_tell_an_action():
    world = MicroActions(MicroActionsConfig(frame_size=16, num_frames=4), size=240)
    actions = ("moves left", "moves right")
    clips = {}
    for action in actions:
        clips[action] = np.stack([pixels(world.action_sample(index, action)) for index in range(len(world))])
    for place in (0, -1):
        left, right = (clips[action][:, place].mean(-1).reshape(len(world), -1) for action in actions)
        towards_right = right[:160].mean(0) - left[:160].mean(0)
        middle = (right[:160].mean(0) + left[:160].mean(0)) / 2
        hits = [*((right[160:] - middle) @ towards_right > 0), *((left[160:] - middle) @ towards_right < 0)]
        assert abs(np.mean(hits) - 0.5) < 0.1


def test_motion_tells_it():
    world = MicroActions(CLEAN, size=40)

    def flow(action, index):
        """How much better the next frame is found to the right than to the left of the one before."""
        clip = pixels(world.action_sample(index, action)).astype(float)
        errors = [np.abs(np.roll(clip[:-1], shift, axis=2) - clip[1:]).mean() for shift in (-3, 3)]
        return errors[0] - errors[1]

    right = [flow("moves right", index) > 0 for index in range(len(world))]
    left = [flow("moves left", index) < 0 for index in range(len(world))]
    assert np.mean(right + left) > 0.95


def test_the_same_seed_split_and_index_give_the_same_clip():
    config = MicroActionsConfig(frame_size=16)
    first, second = MicroActions(config)[3], MicroActions(config)[3]
    assert first == second and len(first.video) == config.num_frames and first.video[0].size == (16, 16)
    for other in (MicroActions(config, "test")[3], MicroActions(replace(config, seed=1))[3]):
        assert not np.array_equal(pixels(other), pixels(first))


def test_all_actions_come_and_are_loaded_by_name_with_their_names():
    samples = load_samples("micro-actions", "train", 60, frame_size=16, num_frames=4)
    labels = [sample.label for sample in samples]
    assert len(samples) == 60 and set(labels) == set(range(len(ACTION_NAMES)))
    assert all(sample.label_name == ACTION_NAMES[sample.label] for sample in samples[:10])
    assert samples.features["label"].names == list(ACTION_NAMES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_size": 8}, "frame_size must be a whole number from 16 on, got 8"),
        ({"num_frames": 2.5}, "num_frames must be a whole number from 4 on, got 2.5"),
        ({"nuisance": -1}, "nuisance must be a number from 0 on, got -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        MicroActionsConfig(**values)


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="action must be of .*, got 'jumps'"):
        MicroActions(CLEAN).action_sample(0, "jumps")
