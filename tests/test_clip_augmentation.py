"""A clip is cropped, mirrored and erased once for all of its frames."""

import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.tasks.classification.augmentation import Augmentation, Box, draw_crop, draw_erased, names_direction
from hmba_hf.tasks.classification.rand_augment import RandAugment

KEPT = Augmentation(min_area=1.0, flip=0.0)


def frames(count=3, size=(32, 24)):
    rng = np.random.default_rng(0)
    values = rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    return [Image.fromarray(values)] * count


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_nothing_changes_where_nothing_is_asked_for():
    given = frames()
    changed = KEPT.change_frames(given, (24, 32), generator())
    assert all(np.array_equal(one, other) for one, other in zip(changed, given, strict=True))
    pixels = torch.randn(3, 3, 8, 8)
    assert KEPT.erase(pixels, generator()) is pixels


def test_a_flip_mirrors_all_frames():
    given = frames()
    changed = Augmentation(min_area=1.0, flip=1.0).change_frames(given, (24, 32), generator())
    assert all(np.array_equal(one, np.asarray(other)[:, ::-1]) for one, other in zip(changed, given, strict=True))


def test_a_class_that_names_a_direction_is_found():
    assert names_direction(["falling", "Pulling [something] from left to right"])
    assert names_direction(["turns clockwise"])
    assert not names_direction(["righting wrongs", "bright light", "copyright"])


def test_all_frames_of_a_clip_are_changed_alike_and_the_next_clip_otherwise():
    augmentation = Augmentation(rand_augment=RandAugment(7, 4, 0.5))
    rng = generator(2)
    first = augmentation.change_frames(frames(), (16, 16), rng)
    assert all(frame.size == (16, 16) and np.array_equal(frame, first[0]) for frame in first)
    second = augmentation.change_frames(frames(), (16, 16), rng)
    assert not np.array_equal(first[0], second[0])
    again = augmentation.change_frames(frames(), (16, 16), generator(2))
    assert np.array_equal(first[0], again[0])


def test_crops_have_the_areas_and_shapes_that_are_asked_for():
    rng = generator()
    boxes = [draw_crop(320, 240, 0.2, rng) for _ in range(500)]
    shares = [box.width * box.height / (320 * 240) for box in boxes]
    ratios = [box.width / box.height for box in boxes]
    assert min(shares) > 0.19 and max(shares) <= 1 and np.mean(shares) == pytest.approx(0.55, abs=0.06)
    assert min(ratios) > 0.74 and max(ratios) < 1.35
    assert all(box.left + box.width <= 320 and box.top + box.height <= 240 for box in boxes)
    assert len({box.left for box in boxes}) > 50


def test_the_middle_of_a_picture_that_is_too_long_is_kept():
    assert draw_crop(1000, 30, 0.9, generator()) == Box(480, 0, 40, 30)
    assert draw_crop(30, 1000, 0.9, generator()) == Box(0, 480, 30, 40)


def test_noise_takes_the_same_rectangle_of_all_frames():
    pixels = torch.zeros(3, 2, 20, 20)
    erased = Augmentation(erasing=1.0).erase(pixels, generator(1))
    assert pixels.count_nonzero() == 0
    changed = erased != 0
    assert (changed == changed[:1, :1]).all() and not torch.equal(erased[0], erased[1])
    rows = changed[0, 0].any(dim=1).sum()
    columns = changed[0, 0].any(dim=0).sum()
    assert rows * columns == changed[0, 0].sum() and 0.01 < changed.float().mean() < 0.4


def test_a_share_of_clips_is_erased():
    rng = generator()
    pixels = torch.zeros(1, 1, 16, 16)
    augmentation = Augmentation(erasing=0.25)
    shares = [augmentation.erase(pixels, rng).any() for _ in range(800)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.05)
    assert all(draw_erased(16, 16, rng) is not None for _ in range(50))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"min_area": 0}, "min_area must be"), ({"flip": 1.5}, "flip must be"), ({"erasing": -0.1}, "erasing must be")],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**values)
