import torch
from torch.testing import assert_close

from hmba_hf.models.layers_trajectories import TrajectoryAttention, TrajectoryBlock


def tokens(frames=3, patches=4):
    return torch.randn(2, 1 + frames * patches, 16, generator=torch.Generator().manual_seed(0))


def attention():
    torch.manual_seed(0)
    return TrajectoryAttention(16, 2)


def test_in_one_frame_it_is_the_attention_of_patches_to_patches():
    layer = attention()
    query, key, value = layer.qkv(tokens(frames=1)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    seen = torch.nn.functional.scaled_dot_product_attention(query[:, :, 1:], key[:, :, 1:], value[:, :, 1:])
    assert_close(layer(tokens(frames=1), 1)[:, 1:], layer.proj(seen.transpose(1, 2).flatten(2)))


def test_frames_that_change_places_change_those_of_their_tokens_alone():
    layer = attention()
    frames = tokens()[:, 1:].unflatten(1, (3, 4))
    turned = layer(torch.cat([tokens()[:, :1], frames.flip(1).flatten(1, 2)], dim=1), 3)
    wanted = layer(tokens(), 3)
    assert_close(turned[:, 0], wanted[:, 0])
    assert_close(turned[:, 1:].unflatten(1, (3, 4)).flip(1), wanted[:, 1:].unflatten(1, (3, 4)))


def test_tokens_in_other_frames_are_another_clip():
    layer = attention()
    frames = tokens()[:, 1:].unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)  # the same tokens in other frames
    mixed = layer(torch.cat([tokens()[:, :1], frames], dim=1), 3)
    assert_close(mixed[:, 0], layer(tokens(), 3)[:, 0])
    back = mixed[:, 1:].unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
    assert (back - layer(tokens(), 3)[:, 1:]).abs().max() > 1e-3


def test_a_block_drops_samples_in_training_alone():
    block = TrajectoryBlock(16, num_heads=2, intermediate_size=8, eps=1e-6, drop_path_rate=0.999)
    torch.manual_seed(0)
    assert torch.equal(block.train()(tokens(), None, (3, 2, 2)), tokens())
    assert (block.eval()(tokens(), None, (3, 2, 2)) - tokens()).abs().max() > 0
