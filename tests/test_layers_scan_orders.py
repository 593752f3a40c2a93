import pytest
import torch
from torch.testing import assert_close

from hmba_hf.models.layers_scan_orders import (
    SCANS,
    BidirectionalMambaMixer,
    orders_of_layers,
    reorder,
    temporal_order,
)

FRAMES = 3
PATCHES = 4
TOKENS = torch.arange(1 + FRAMES * PATCHES)


def mixer_of(order):
    return BidirectionalMambaMixer(6, 4, order=order).double()


def clips():
    return torch.randn(2, len(TOKENS), 6).double()


def places_first(tokens):
    """Tokens of one place after the other, behind the class token."""
    patches = tokens[:, 1:].unflatten(1, (FRAMES, PATCHES)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


def frames_first(tokens):
    """The way back."""
    patches = tokens[:, 1:].unflatten(1, (PATCHES, FRAMES)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


def with_weights_of(mixer, order):
    other = mixer_of(order)
    other.load_state_dict(mixer.state_dict(), strict=False)
    return other


def test_temporal_first_scans_one_place_of_all_frames_after_the_other():
    x = clips()
    mixer = mixer_of("temporal_first")
    wanted = frames_first(with_weights_of(mixer, "spatial_first")(places_first(x)))
    assert_close(mixer(x, temporal=temporal_order(FRAMES, PATCHES, TOKENS)), wanted)


def test_the_first_spatiotemporal_scan_has_one_order_in_each_direction():
    x = clips()
    mixer = mixer_of("spatiotemporal_v1")
    u, z = mixer.in_proj(x).chunk(2, dim=-1)
    forth, _ = mixer.forward_ssm(u, z)
    back, _ = mixer.reverse_ssm(places_first(u), places_first(z), reverse=True)
    wanted = mixer.out_proj(forth + frames_first(back))
    assert_close(mixer(x, temporal=temporal_order(FRAMES, PATCHES, TOKENS)), wanted)


def test_the_second_spatiotemporal_scan_is_the_sum_of_both_orders():
    x = clips()
    mixer = mixer_of("spatiotemporal_v2")
    spatial = with_weights_of(mixer, "spatial_first")
    temporal = with_weights_of(mixer, "temporal_first")
    temporal.forward_ssm = mixer.temporal_forward_ssm
    temporal.reverse_ssm = mixer.temporal_reverse_ssm
    order = temporal_order(FRAMES, PATCHES, TOKENS)
    assert_close(mixer(x, temporal=order), spatial(x) + temporal(x, temporal=order))


@pytest.mark.parametrize("order", SCANS)
def test_masked_tokens_change_no_other(order):
    mixer = mixer_of(order)
    visible = torch.tensor([[0, 2, 5, 6, 11], [0, 1, 3, 4, 12]])
    x = clips().take_along_dim(visible[..., None], dim=1)
    padded = torch.cat([torch.randn(2, 2, 6).double(), x], dim=1)
    mask = torch.arange(7).expand(2, -1) >= 2
    mixed = mixer(x, temporal=temporal_order(FRAMES, PATCHES, visible))
    behind = temporal_order(FRAMES, PATCHES, torch.cat([torch.zeros(2, 2).long(), visible], dim=1))
    if order == "spatial_first":
        assert_close(mixer(padded, mask)[:, 2:], mixed)
    else:
        assert mixed.shape == x.shape
        assert (behind.indices[:, :3] < 3).all()


def test_visible_tokens_keep_the_order_that_they_have_in_the_whole_clip():
    visible = torch.tensor([[0, 2, 5, 6, 11], [0, 1, 3, 4, 12]])
    order = temporal_order(FRAMES, PATCHES, visible)
    whole = temporal_order(FRAMES, PATCHES, TOKENS).indices.tolist()
    for row, chosen in zip(reorder(visible[..., None], order.indices)[..., 0].tolist(), visible.tolist(), strict=True):
        assert row == [token for token in whole if token in chosen]
    there = reorder(visible[..., None], order.indices)
    assert torch.equal(reorder(there, order.inverse)[..., 0], visible)


def test_mixed_stacks_change_the_order_where_the_paper_does():
    spatial, temporal = "spatial_first", "temporal_first"
    assert orders_of_layers("spatial_then_temporal", 4) == [spatial, spatial, temporal, temporal]
    assert orders_of_layers("temporal_then_spatial", 4) == [temporal, temporal, spatial, spatial]
    assert orders_of_layers("alternating", 3) == [spatial, temporal, spatial]
    assert orders_of_layers("spatiotemporal_v2", 2) == ["spatiotemporal_v2"] * 2


def test_a_scan_by_place_without_an_order_is_refused():
    with pytest.raises(ValueError, match="temporal must be a Reordering"):
        mixer_of("temporal_first")(clips())
