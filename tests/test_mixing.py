import pytest

from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.mixing import MixedSamples, shares

SOURCES = [MicroWorld(MicroWorldConfig(seed=seed, frame_size=32), "train", size) for seed, size in ((0, 4), (1, 30))]


def ids(samples):
    return [samples[index].id for index in range(len(samples))]


def test_without_weights_each_sample_is_there_once():
    assert ids(MixedSamples(SOURCES)) == ids(SOURCES[0]) + ids(SOURCES[1])


def test_weights_say_how_often_a_source_is_drawn_until_all_have_been_seen():
    mixed = MixedSamples(SOURCES, [3, 1], seed=0)
    names = ids(mixed)
    first = [name for name in names if name in ids(SOURCES[0])]
    assert 0.65 < len(first) / len(names) < 0.85
    assert set(names) == {*ids(SOURCES[0]), *ids(SOURCES[1])}
    assert names == ids(MixedSamples(SOURCES, [0.75, 0.25], seed=0)) != ids(MixedSamples(SOURCES, [3, 1], seed=1))


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1], [1, float("nan")]])
def test_other_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be one positive number for each of 2 datasets"):
        shares(weights, 2)
