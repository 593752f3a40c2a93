"""Learning rates fall from the head to the embeddings, by the rule of the released code or block by block."""

import pytest

from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForVideoClassification
from hmba_hf.tasks.classification.rates import layer_scale

E = "videomamba.embeddings."


def scales(kind):
    config = VideoMambaConfig(hidden_size=16, num_hidden_layers=3, image_size=16, num_frames=2)
    scale = layer_scale(0.5, kind, 3)
    return {name: scale(name) for name, _ in VideoMambaForVideoClassification(config).named_parameters()}


def test_the_released_rule_slows_patches_places_and_class_token_alone():
    found = scales("released")
    slow = {name for name, factor in found.items() if factor == 0.5**4}
    patches = f"{E}patch_embeddings.projection."
    assert slow == {f"{E}cls_token", f"{E}position_embeddings", f"{patches}weight", f"{patches}bias"}
    assert {factor for name, factor in found.items() if name not in slow} == {1.0}


def test_the_rule_by_blocks_slows_each_block_more_than_the_one_after_it():
    found = scales("blocks")
    for name, factor in found.items():
        wanted = 1.0
        if name.startswith(E):
            wanted = 0.5**4
        for block in range(3):
            if f".layers.{block}." in name:
                wanted = 0.5 ** (3 - block)
        assert factor == wanted, name


def test_no_decay_slows_nothing():
    assert {layer_scale(1.0, "blocks", 3)(f"{E}cls_token")} == {1.0}


def test_an_unknown_rule_or_factor_is_refused():
    with pytest.raises(ValueError, match=r"layer_decay must be above 0 and at most 1, got 1\.5"):
        layer_scale(1.5, "blocks", 3)
    with pytest.raises(ValueError, match=r"layer_decay_kind must be of \['released', 'blocks'\], got 'twice'"):
        layer_scale(0.5, "twice", 3)
