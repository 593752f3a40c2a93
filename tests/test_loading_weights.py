"""A model is saved only if it will load again, whatever its family."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_mambavl
from hmba_hf import VideoMambaConfig, VideoMambaForVideoClassification


def videomamba():
    config = VideoMambaConfig(
        hidden_size=32, num_hidden_layers=2, image_size=32, patch_size=16, num_frames=4, num_labels=3
    )
    return VideoMambaForVideoClassification(config)


@pytest.mark.parametrize("build", [videomamba, tiny_mambavl.tiny_model])
def test_wrapped_layers_are_refused_by_a_save_and_merged_ones_load(tmp_path, build):
    wrapped = get_peft_model(build(), LoraConfig(target_modules=["in_proj"], init_lora_weights=False))
    with pytest.raises(ValueError, match="weights must be those of a new .*base_layer.weight .no weight of it"):
        wrapped.base_model.model.save_pretrained(tmp_path)
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = type(merged).from_pretrained(tmp_path)
    for name, weight in merged.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_a_layer_of_another_size_is_refused_by_a_save(tmp_path):
    model = videomamba()
    model.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(ValueError, match=r"got classifier.* \(5,\) .* instead of \(3,\)"):
        model.save_pretrained(tmp_path)
