import torch
from torch.testing import assert_close

from hmba_hf.models.layers_objects import box_corners, crop_boxes, paint_boxes

WHOLE = [0.5, 0.5, 1.0, 1.0]
NONE = [0.0, 0.0, 0.0, 0.0]


def patches():
    return torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def boxes(*of_a_frame):
    return torch.tensor(of_a_frame).expand(2, 3, -1, -1)


def test_corners_are_half_the_sides_from_the_centre():
    assert_close(box_corners(torch.tensor([0.5, 0.4, 0.2, 0.6])), torch.tensor([0.4, 0.1, 0.6, 0.7]))


def test_a_box_around_the_frame_holds_its_patches_and_none_holds_nothing():
    cropped = crop_boxes(patches(), boxes(WHOLE, NONE))
    assert_close(cropped[:, :, 0], patches())
    assert cropped[:, :, 1].abs().max() == 0


def test_a_box_is_as_large_as_its_frame_when_it_is_cropped():
    left = crop_boxes(patches(), boxes([0.25, 0.5, 0.5, 1.0]))[:, :, 0]
    assert left.shape == patches().shape
    first = patches()[:, :, :, 0]
    second = patches()[:, :, :, 1]
    assert_close(left[:, :, :, 0], first)  # a quarter of a patch from the edge, where the picture goes on
    assert_close(left[:, :, :, 1], 0.75 * first + 0.25 * second)


def test_a_vector_is_painted_from_the_left_upper_corner_on_and_sums_where_boxes_overlap():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]).expand(2, 3, 3, 2)
    painted = paint_boxes(vectors, boxes(WHOLE, [0.6, 0.5, 0.4, 1.0], NONE), rows=3, columns=11)
    assert painted.shape == (2, 3, 3, 11, 2)
    assert_close(painted[..., 0], torch.ones(2, 3, 3, 11))
    # Its corners are at 0.4 and 0.8, and the released code takes 0.8 for its width: an eighth of it blurs.
    wanted = torch.tensor([0.0, 0.0, 0.0, 0.125, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert_close(painted[0, 0, 1, :, 1], wanted, atol=1e-5, rtol=0)
