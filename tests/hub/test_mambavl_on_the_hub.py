"""A MambaVL goes to the Hub as every checkpoint of this package does, its shared matrix once."""

import pytest
from safetensors.torch import load
from torch.testing import assert_close
from transformers import AutoModelForVideoClassification

from tiny_mambavl import tiny_batch, tiny_model


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_model_goes_to_a_private_repository_and_comes_back(hub, way, tmp_path):
    model = tiny_model()
    if way == "push_to_hub":
        model.push_to_hub("org/questions")
    else:
        model.save_pretrained(tmp_path / "questions", push_to_hub=True, repo_id="org/questions")
    repository = hub.repository("org/questions")
    files = repository.files()
    assert repository.private
    assert {"config.json", "model.safetensors", "modeling_mambavl.py", "README.md"} <= files.keys()
    assert len([name for name in load(files["model.safetensors"]) if name.endswith("A_log")]) == 1
    again = AutoModelForVideoClassification.from_pretrained("org/questions")
    assert again.mambavl.fusion.video_mixer.A_log is again.mambavl.fusion.text_mixer.A_log
    assert_close(again(**tiny_batch()).logits, model(**tiny_batch()).logits, atol=0, rtol=0)
