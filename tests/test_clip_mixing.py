"""A batch is mixed with itself in reverse order, and its labels by the same shares."""

import numpy as np
import pytest
import torch

from hmba_hf.tasks.classification.mixing import Mixing, cut, soft_labels

LABELS = torch.tensor([0, 2])


class Drawn:
    """Random numbers that are known beforehand."""

    def __init__(self, beta=0.75, coin=0.0, centres=()):
        self.share = beta
        self.coin = coin
        self.centres = iter(centres)

    def random(self):
        return self.coin

    def beta(self, first, second):
        assert first == second
        return self.share

    def integers(self, limit):
        return next(self.centres)


def clips(height=4, width=6):
    return torch.stack([torch.zeros(2, 3, height, width), torch.ones(2, 3, height, width)])


def test_labels_are_smoothed_over_all_classes():
    wanted = [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]
    assert torch.allclose(soft_labels(LABELS, 4, 0.1), torch.tensor(wanted))


def test_mixup_adds_the_other_clip_by_its_share():
    pixels, labels = Mixing(mixup=0.8).mix(clips(), LABELS, 3, Drawn(beta=0.75))
    assert torch.equal(pixels[0], torch.full_like(pixels[0], 0.25))
    assert torch.equal(pixels[1], torch.full_like(pixels[1], 0.75))
    assert torch.equal(labels, torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75]]))


def test_mixup_mixes_smoothed_labels():
    _, labels = Mixing(mixup=0.8, smoothing=0.3).mix(clips(), LABELS, 3, Drawn(beta=0.75))
    assert torch.allclose(labels, torch.tensor([[0.625, 0.1, 0.275], [0.275, 0.1, 0.625]]))
    assert torch.allclose(labels.sum(1), torch.ones(2))


def test_cutmix_cuts_one_rectangle_out_of_all_frames_and_counts_its_area():
    pixels, labels = Mixing(cutmix=1.0).mix(clips(), LABELS, 3, Drawn(beta=0.75, centres=(2, 3)))
    wanted = torch.zeros(4, 6)
    wanted[1:3, 2:4] = 1  # sides are half of 4 and of 6, and an odd one loses its middle: 2 * 2 of 24 pixels
    assert (pixels[0] == wanted).all() and (pixels[1] == 1 - wanted).all()
    assert torch.allclose(labels[0], torch.tensor([20 / 24, 0, 4 / 24]))


def test_what_a_cut_loses_at_the_edge_is_not_counted():
    pixels, kept = cut(clips(), 0.75, Drawn(centres=(0, 0)))
    assert kept == pytest.approx(1 - 1 * 1 / 24) and pixels[0, 0, 0].sum() == 1


def test_each_way_takes_half_of_the_batches():
    rng = np.random.default_rng(0)
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    is_cut = []
    for _ in range(300):
        pixels, _ = mixing.mix(clips(), LABELS, 3, rng)
        is_cut.append(set(pixels.unique().tolist()) == {0.0, 1.0})
    assert np.mean(is_cut) == pytest.approx(0.5, abs=0.1)


def test_nothing_is_mixed_without_a_parameter():
    given = clips()
    pixels, labels = Mixing().mix(given, LABELS, 3, Drawn())
    assert pixels is given and torch.equal(labels, torch.eye(3)[LABELS])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": -1}, "mixup must be"),
        ({"cutmix": -1}, "cutmix must be"),
        ({"cutmix": float("nan")}, "cutmix must be at least 0, got nan"),
        ({"smoothing": 1.0}, "smoothing must be"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Mixing(**values)


def test_the_labels_of_all_heads_are_mixed_by_one_share_and_unknown_ones_are_zeros():
    labels = torch.tensor([[0, 1], [-100, 2]])
    pixels, wanted = Mixing(mixup=0.8, smoothing=0.2).mix(clips(), labels, [2, 4], Drawn(beta=0.75))
    assert torch.equal(pixels[0], torch.full_like(pixels[0], 0.25))
    verb, noun = wanted.split([2, 4], dim=1)
    assert torch.allclose(verb, torch.tensor([[0.675, 0.075], [0.225, 0.025]]))
    assert torch.allclose(noun[0], torch.tensor([0.05, 0.65, 0.25, 0.05]))
    assert torch.equal(soft_labels(labels, [2, 4], 0.0)[1], torch.tensor([0.0, 0, 0, 0, 1, 0]))
