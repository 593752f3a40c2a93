import pytest
import torch

from hmba_hf.models.layers_video_masks import MASKINGS, draw_mask
from hmba_hf.models.modeling_videomamba import visible_tokens

BATCH = 3
FRAMES = 4
GRID = (5, 6)
PATCHES = 30


def draw(kind, ratio=0.8, seed=0, frames=FRAMES, grid=GRID, **options):
    """A mask as `(b, t, rows, columns)`."""
    if kind == "attention":
        options.setdefault("attention", torch.rand(BATCH, frames * grid[0] * grid[1]))
    generator = torch.Generator().manual_seed(seed)
    mask = draw_mask(kind, BATCH, frames, grid, ratio, generator, **options)
    assert mask.shape == (BATCH, frames * grid[0] * grid[1]) and mask.dtype == torch.bool
    return mask.unflatten(1, (frames, *grid))


@pytest.mark.parametrize("kind", MASKINGS)
def test_every_clip_has_as_many_visible_patches(kind):
    mask = draw(kind).flatten(1)
    assert mask.sum(dim=1).tolist() == [96] * BATCH
    assert visible_tokens(mask, tuple(mask.shape)).shape == (BATCH, 25)


@pytest.mark.parametrize("kind", MASKINGS)
def test_clips_differ_and_a_seed_draws_the_same_again(kind):
    attention = {"attention": torch.rand(BATCH, FRAMES * PATCHES)} if kind == "attention" else {}
    mask = draw(kind, **attention)
    assert not torch.equal(mask[0], mask[1])
    torch.rand(3)
    assert torch.equal(draw(kind, **attention), mask)
    assert not torch.equal(draw(kind, seed=1, **attention), mask)


def test_a_tube_hides_the_same_patches_in_all_frames():
    mask = draw("tube", ratio=0.75)
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert mask[:, 0].flatten(1).sum(dim=1).tolist() == [22] * BATCH  # rounded down


def test_random_patches_differ_in_number_from_frame_to_frame():
    mask = draw("random", ratio=0.63)
    assert mask.flatten(1).sum(dim=1).tolist() == [75] * BATCH
    assert len(set(mask.flatten(2).sum(dim=2).flatten().tolist())) > 1


@pytest.mark.parametrize("kind", ["clip_row", "frame_row"])
def test_rows_are_hidden_whole(kind):
    mask = draw(kind, ratio=0.7)
    rows = mask.all(dim=3)
    assert torch.equal(rows, mask.any(dim=3))
    assert rows.flatten(1).sum(dim=1).tolist() == [FRAMES * 3] * BATCH  # rounded down to rows of a frame


def test_rows_of_a_clip_differ_in_number_and_rows_of_frames_in_place():
    over_the_clip = draw("clip_row").all(dim=3).sum(dim=2)
    assert len(set(over_the_clip.flatten().tolist())) > 1
    in_frames = draw("frame_row").all(dim=3)
    assert in_frames.sum(dim=2).unique().tolist() == [4]
    assert not torch.equal(in_frames[:, 0], in_frames[:, 1])


def test_attention_leaves_as_many_patches_in_each_frame():
    mask = draw("attention", ratio=0.75)
    assert mask.flatten(2).sum(dim=2).unique().tolist() == [22]


def test_attention_shows_patches_in_proportion_and_those_of_none_last():
    attention = torch.zeros(200, 2 * PATCHES)
    attention[:, 7] = 3.0
    attention[:, 8] = 1.0
    attention[:, PATCHES : PATCHES + 6] = 1.0
    one = draw_mask("attention", 200, 2, GRID, 29 / 30, torch.Generator().manual_seed(0), attention)
    shown = (~one[:, :PATCHES]).sum(dim=0)
    assert shown[7] + shown[8] == 200 and 130 < shown[7] < 170
    six = draw_mask("attention", 200, 2, GRID, 0.8, torch.Generator().manual_seed(0), attention)
    assert not six[:, [7, 8]].any() and not six[:, PATCHES : PATCHES + 6].any()


def test_one_row_or_one_frame_is_enough_where_patches_are_hidden():
    for kind in ("tube", "random", "attention"):
        assert draw(kind, frames=1, grid=(1, 10)).sum() == 8 * BATCH


@pytest.mark.parametrize("kind", MASKINGS)
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.0, 1.5, float("nan")])
def test_a_ratio_that_hides_everything_or_nothing_is_refused(kind, ratio):
    with pytest.raises(ValueError, match="mask_ratio must be above 0 and below 1, got"):
        draw(kind, ratio=ratio)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("tube", "30 patches of a frame"),
        ("random", "120 patches of a clip"),
        ("clip_row", "5 rows of a frame"),
        ("frame_row", "5 rows of a frame"),
        ("attention", "30 patches of a frame"),
    ],
)
def test_a_ratio_too_small_for_one_patch_or_row_is_refused(kind, what):
    with pytest.raises(ValueError, match=f"must hide at least one of {what}, got 0.005, which hides none"):
        draw(kind, ratio=0.005)


def test_rows_that_cannot_be_hidden_are_refused():
    with pytest.raises(ValueError, match="must hide at least one of 1 rows of a frame, got 0.8"):
        draw("clip_row", grid=(1, 30))


def test_what_is_no_masking_is_refused():
    with pytest.raises(ValueError, match=r"masking must be one of \['tube', .*'attention'\], got 'tube_row'"):
        draw("tube_row")
    with pytest.raises(ValueError, match="at least one clip, frame and patch, got 3 clips, 0 frames and 5 x 6"):
        draw("random", frames=0)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (None, "attention must be a teacher's for the masking 'attention', got None"),
        (torch.rand(BATCH, 7), r"attention must be \(3, 120\), got \(3, 7\)"),
        (torch.full((BATCH, 120), -1.0), "attention must be finite and not negative"),
        (torch.full((BATCH, 120), torch.nan), "attention must be finite and not negative"),
    ],
)
def test_attention_that_does_not_fit_is_refused(attention, message):
    with pytest.raises(ValueError, match=message):
        draw("attention", attention=attention)
