"""RandAugment draws operations once for a clip and applies them alike to all of its frames."""

import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.tasks.classification.rand_augment import OPERATIONS, Choice, RandAugment, apply_choices


def picture(seed=0, size=(24, 16)):
    values = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def changed(name, strength, frame):
    return np.asarray(apply_choices([frame], [Choice(name, strength)])[0]).astype(int)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_the_size_and_treats_equal_frames_alike(name):
    strength = OPERATIONS[name].strength(0.7)
    frames = apply_choices([picture(1), picture(2), picture(1)], [Choice(name, strength)])
    assert all(frame.size == (24, 16) and frame.mode == "RGB" for frame in frames)
    assert np.array_equal(frames[0], frames[2]) and not np.array_equal(frames[0], frames[1])


def test_strengths_follow_the_level_as_in_the_published_policy():
    wanted = {
        "rotate": 21.0,
        "posterize": 2,
        "solarize": 256 - 179,
        "solarize_add": 77,
        "color": 0.63,
        "shear_x": 0.21,
        "shift_y": 0.315,
    }
    found = {name: OPERATIONS[name].strength(0.7) for name in wanted}
    assert found == pytest.approx(wanted)


def test_pixels_change_as_the_names_say():
    frame = picture()
    pixels = np.asarray(frame).astype(int)
    assert np.array_equal(changed("invert", 0, frame), 255 - pixels)
    assert np.array_equal(changed("solarize", 100, frame), np.where(pixels < 100, pixels, 255 - pixels))
    assert np.array_equal(changed("solarize_add", 30, frame), np.where(pixels < 128, pixels + 30, pixels))
    assert np.array_equal(changed("posterize", 2, frame), pixels // 64 * 64)
    assert np.array_equal(changed("shift_x", 0.25, frame)[:, :18], pixels[:, 6:])
    assert (changed("shift_x", 0.25, frame)[:, 18:] == (124, 116, 104)).all()
    assert changed("brightness", 0.5, frame).mean() > pixels.mean() > changed("brightness", -0.5, frame).mean()


def test_a_seed_draws_the_same_operations_again_and_another_one_others():
    augment = RandAugment(7, 4, 0.5)
    assert augment.draw(generator(3)) == augment.draw(generator(3)) != augment.draw(generator(4))


def test_each_operation_comes_as_often_and_half_of_them_are_applied():
    augment = RandAugment(7, 4, 0.0)
    rng = generator()
    drawn = [choice for _ in range(1500) for choice in augment.draw(rng)]
    assert len(drawn) / 6000 == pytest.approx(0.5, abs=0.02)
    counts = {name: sum(choice.name == name for choice in drawn) / len(drawn) for name in OPERATIONS}
    assert counts == pytest.approx(dict.fromkeys(OPERATIONS, 1 / 15), abs=0.015)
    turns = [choice.strength for choice in drawn if choice.name == "rotate"]
    assert {round(abs(turn), 6) for turn in turns} == {21.0} and abs(np.sign(turns).mean()) < 0.25


def test_magnitudes_spread_around_theirs_and_stay_between_none_and_all():
    rng = generator()
    augment = RandAugment(9.5, 8, 2.0)
    shears = [abs(choice.strength) for _ in range(600) for choice in augment.draw(rng) if choice.name == "shear_x"]
    assert max(shears) == pytest.approx(0.3) and np.std(shears) > 0.02


@pytest.mark.parametrize(
    ("values", "message"),
    [((11, 1), "magnitude must be"), ((5, 0), "num_operations must be"), ((5, 1, -1.0), "spread must be")],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(*values)
