"""H-MBA's pair of mixers: read at the end, whatever the strides."""

import pytest
import torch
from torch.testing import assert_close

from hmba_hf.models.layers_strided_mamba import StridedMambaMixer
from test_layers_mamba import double_mixer, gradients


@pytest.mark.parametrize("num_outputs", [1, 3, 8])
def test_both_directions_read_at_the_end_are_two_whole_scans(num_outputs):
    pair, x = StridedMambaMixer(double_mixer(), double_mixer()), torch.randn(2, 8, 6).double().requires_grad_()
    whole = [pair.forward_mixer(x)[0], pair.reverse_mixer(x.flip(1))[0].flip(1)]
    wanted = torch.stack(whole)[:, :, 8 - num_outputs :]
    read = torch.stack(pair(x, num_outputs)[0][0])
    assert_close(read, wanted, atol=1e-12, rtol=0)
    assert_close(gradients(read, pair, x), gradients(wanted, pair, x), atol=1e-12, rtol=0)


def test_a_causal_pair_is_its_forward_mixer():
    pair, x = StridedMambaMixer(double_mixer(), None), torch.randn(2, 8, 6).double()
    ((read,),), _ = pair(x, 2)
    assert torch.equal(read, pair.forward_mixer(x, num_outputs=2)[0])
