"""What masked pre-training makes of a clip: random crops, seeds of masks, hashes."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from hmba_hf.data.actions.samples import ActionSample
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.models.layers_video_masks import MASKINGS, Masking, draw_mask
from hmba_hf.tasks.pretraining.augmentation import MultiScaleCrop
from hmba_hf.tasks.pretraining.encoding import ClipEncoder, join
from hmba_hf.training.teacher_cache import digest_clip
from numbered_videos import numbered_video
from tiny_pretraining import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=64), "train", 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crops_have_neighbouring_scales_and_fixed_places():
    crop = MultiScaleCrop()
    boxes = [crop.draw_box((160, 100), generator(seed)) for seed in range(600)]
    sides = {(right - left, bottom - top) for left, top, right, bottom in boxes}
    lengths = [100, 87, 75, 66]
    wanted = {(a, b) for i, a in enumerate(lengths) for j, b in enumerate(lengths) if abs(i - j) < 2}
    assert sides == wanted
    whole = {(left, top) for left, top, right, bottom in boxes if (right - left, bottom - top) == (100, 100)}
    assert whole == {(0, 0), (15, 0), (30, 0), (45, 0), (60, 0)}
    small = {(left, top) for left, top, right, bottom in boxes if (right - left, bottom - top) == (66, 66)}
    assert small <= {(23 * across, 8 * down) for across in range(5) for down in range(5)}
    assert min(min(box) for box in boxes) == 0
    assert all(right <= 160 and bottom <= 100 for _, _, right, bottom in boxes)


def test_a_clip_is_cropped_and_mirrored_as_a_whole():
    frames = [Image.new("RGB", (40, 30), (200, 0, 0)) for _ in range(3)]
    for frame in frames:
        frame.paste((0, 0, 200), (0, 0, 20, 30))
    for flip, left in ((0.0, 2), (1.0, 0)):
        changed = MultiScaleCrop((1.0,), flip).change(frames, (8, 12), generator(3))
        assert len(changed) == 3 and {frame.size for frame in changed} == {(12, 8)}
        assert len({frame.tobytes() for frame in changed}) == 1
        assert changed[0].getpixel((0, 4))[left] == 200
    mirrored = 0
    for seed in range(200):
        changed = MultiScaleCrop((1.0,)).change(frames, (8, 12), generator(seed))
        mirrored += changed[0].getpixel((0, 4))[0] == 200
    assert 70 < mirrored < 130


@pytest.mark.parametrize(
    ("scales", "flip", "message"),
    [
        ((), 0.5, r"scales must be one or more above 0 and up to 1, got \[\]"),
        ((1.0, 1.2), 0.5, "scales must be one or more above 0 and up to 1, got"),
        ((1.0,), 1.5, "flip must be from 0 to 1, got 1.5"),
    ],
)
def test_wrong_scales_and_probabilities_are_refused(scales, flip, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleCrop(scales, flip)


def test_a_clip_of_an_evaluation_is_always_the_same_and_that_of_training_is_not():
    encoder = ClipEncoder(tiny_processor(), MultiScaleCrop())
    first = encoder.encode(WORLD[0])
    assert first["pixel_values_videos"].shape == (3, 3, 64, 64)
    again = encoder.encode(WORLD[0])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert encoder.encode(WORLD[1])["mask_seed"] != first["mask_seed"]
    drawn = [encoder.encode(WORLD[0], generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0]["pixel_values_videos"], drawn[1]["pixel_values_videos"])
    assert not torch.equal(drawn[0]["pixel_values_videos"], drawn[2]["pixel_values_videos"])
    assert drawn[0]["mask_seed"] == drawn[1]["mask_seed"] != drawn[2]["mask_seed"]


def test_without_augmentation_training_sees_the_clips_of_an_evaluation_under_other_masks():
    encoder = ClipEncoder(tiny_processor())
    wanted = encoder.encode(WORLD[0])
    found = encoder.encode(WORLD[0], generator())
    assert torch.equal(found["pixel_values_videos"], wanted["pixel_values_videos"])
    assert found["mask_seed"] != wanted["mask_seed"]


def test_a_number_of_views_bounds_the_crops_and_not_the_masks():
    encoder = ClipEncoder(tiny_processor(), MultiScaleCrop(), num_views=2, with_digests=True)
    drawn = [encoder.encode(WORLD[0], generator(seed)) for seed in range(12)]
    digests = {bytes(one["clip_digest"].tolist()).hex() for one in drawn}
    assert len(digests) == 2 and len({int(one["mask_seed"]) for one in drawn}) == 12
    assert digest_clip(drawn[0]["pixel_values_videos"]) in digests
    other = replace(encoder, seed=1).encode(WORLD[0], generator())
    assert bytes(other["clip_digest"].tolist()).hex() not in digests


def test_files_and_pictures_of_an_action_give_clips_of_one_form():
    picture = tuple(WORLD[0].frames)
    encoder = ClipEncoder(tiny_processor(), MultiScaleCrop((1.0,), 0.0))
    for video in (numbered_video(6, size=(80, 64)), picture):
        sample = ActionSample("a", video)
        clips = join([encoder.encode(sample), encoder.encode(sample, generator())])
        assert clips["pixel_values_videos"].shape == (2, 3, 3, 64, 64) and clips["mask_seed"].shape == (2,)
    # A whole square frame of the right size is left as it is, so both ways give its pixels.
    still = ActionSample("b", (picture[0],) * 3)
    assert_close(
        encoder.encode(still)["pixel_values_videos"], encoder.encode(still, generator())["pixel_values_videos"]
    )


@pytest.mark.parametrize("kind", MASKINGS)
def test_a_mask_depends_on_the_seed_of_its_clip_alone(kind):
    attention = torch.rand(3, 3 * 16)
    seeds = torch.tensor([5, 6, 7])
    masks = Masking(kind, 0.5).draw(seeds, 3, (4, 4), attention)
    assert masks.shape == (3, 48) and not torch.equal(masks[0], masks[1])
    backwards = Masking(kind, 0.5).draw(seeds.flip(0), 3, (4, 4), attention.flip(0))
    assert torch.equal(backwards.flip(0), masks)
    wanted = attention[:1] if kind == "attention" else None
    assert torch.equal(masks[:1], draw_mask(kind, 1, 3, (4, 4), 0.5, generator(5), wanted))


def test_an_unknown_masking_and_a_ratio_that_hides_everything_are_refused():
    with pytest.raises(ValueError, match="masking must be one of .*, got 'block'"):
        Masking("block")
    with pytest.raises(ValueError, match=r"mask_ratio must be above 0 and below 1, got 1\.0"):
        Masking(ratio=1.0)
