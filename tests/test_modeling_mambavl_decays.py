"""The matrix of decays is one parameter of two mixers, or truly two."""

import copy

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close
from transformers import AutoModelForVideoClassification

from hmba_hf import MambaVLForVideoClassification, MambaVLModel
from test_modeling_mambavl import A_LOGS
from tiny_mambavl import tiny_batch, tiny_model


def test_the_shared_matrix_is_one_parameter_through_copies_files_and_dtypes(tmp_path):
    model = tiny_model()
    assert [name for name, _ in model.named_parameters() if name.endswith("A_log")] == [A_LOGS[0]]
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert [name for name in file.keys() if name.endswith("A_log")] == [A_LOGS[0]]  # noqa: SIM118 - no mapping
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    base = MambaVLModel.from_pretrained(tmp_path)
    for other in (copy.deepcopy(model), loaded, model.double()):
        first, second = (other.get_parameter(name) for name in A_LOGS)
        assert first is second
    assert base.fusion.video_mixer.A_log is base.fusion.text_mixer.A_log
    assert loaded.get_parameter(A_LOGS[0]).dtype == torch.float32
    assert loaded.classifiers["verb"].weight.dtype == torch.bfloat16
    assert loaded(**tiny_batch()).logits.isfinite().all()


def test_two_matrices_in_a_file_are_never_taken_for_one(tmp_path):
    model = tiny_model(share_A=False)
    with torch.no_grad():
        model.get_parameter(A_LOGS[1]).add_(1.0)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="share_A must be false for a checkpoint with two matrices of decays"):
        MambaVLForVideoClassification.from_pretrained(tmp_path, share_A=True)


@pytest.mark.parametrize("values", [{"share_A": False}, {"fusion": "mlp"}])
def test_tied_words_tie_no_matrices_of_decays(values):
    model = tiny_model(tie_word_embeddings=True, **values)
    if model.config.fusion == "mamba":
        assert model.get_parameter(A_LOGS[0]) is not model.get_parameter(A_LOGS[1])
    assert not model.all_tied_weights_keys


def test_matrices_that_are_not_shared_are_truly_two(tmp_path):
    model = tiny_model(share_A=False)
    with torch.no_grad():
        model.get_parameter(A_LOGS[1]).add_(1.0)
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    for name in A_LOGS:
        assert_close(loaded.get_parameter(name), model.get_parameter(name), atol=0, rtol=0)
    batch = tiny_batch()
    model(**batch, labels=torch.zeros(2, 2, dtype=torch.long)).loss.backward()
    first, second = (model.get_parameter(name).grad for name in A_LOGS)
    assert first.abs().max() > 0
    assert second.abs().max() > 0
    assert (first - second).abs().max() > 0
