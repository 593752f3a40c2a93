"""The shared matrix of a MambaVL stays one parameter in PEFT's and FSDP's hands."""

import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification
from tiny_mambavl import tiny_batch, tiny_model

LABELS = torch.tensor([[0, 1], [2, 3]])
HEADS = ["classifiers.verb", "classifiers.noun"]


def learn(model):
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        model(**tiny_batch(), labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def is_shared(fusion):
    return fusion.video_mixer.A_log is fusion.text_mixer.A_log


def test_low_rank_updates_of_both_mixers_leave_the_matrix_shared(tmp_path):
    options = peft.LoraConfig(r=2, target_modules=r".*fusion.*(in_proj|x_proj|out_proj)", modules_to_save=HEADS)
    wrapped = learn(peft.get_peft_model(tiny_model(), options))
    assert is_shared(wrapped.get_base_model().mambavl.fusion)
    wrapped.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "adapter_model.safetensors") if name.endswith("A_log")]
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    wanted = wrapped(**tiny_batch()).logits
    assert_close(loaded(**tiny_batch()).logits, wanted, atol=0, rtol=0)
    merged = loaded.merge_and_unload()
    assert is_shared(merged.mambavl.fusion)
    assert_close(merged(**tiny_batch()).logits, wanted, atol=1e-5, rtol=0)


def test_a_fusion_that_learns_whole_beside_low_rank_updates_has_one_matrix(tmp_path):
    options = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["mambavl.fusion", *HEADS])
    wrapped = peft.get_peft_model(tiny_model(), options)
    before = wrapped.get_base_model().mambavl.fusion.modules_to_save.default.video_mixer.A_log.clone()
    learn(wrapped)
    fusion = wrapped.get_base_model().mambavl.fusion.modules_to_save.default
    assert is_shared(fusion)
    assert (fusion.video_mixer.A_log - before).abs().max() > 0
    wrapped.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    assert is_shared(loaded.get_base_model().mambavl.fusion.modules_to_save.default)
    assert_close(loaded(**tiny_batch()).logits, wrapped(**tiny_batch()).logits, atol=0, rtol=0)


@pytest.mark.parametrize("targets", [["A_log"], ["video_mixer.A_log"], ["text_mixer.A_log"]])
def test_updates_of_the_shared_matrix_for_one_mixer_are_refused_before_they_learn(targets):
    options = peft.LoraConfig(r=2, target_modules=[], target_parameters=targets)
    with pytest.raises(ValueError, match="A_log must be without updates where two mixers share it"):
        peft.get_peft_model(tiny_model(), options)(**tiny_batch())
    wrapped = learn(peft.get_peft_model(tiny_model(share_A=False), options))
    wanted = wrapped(**tiny_batch()).logits
    assert_close(wrapped.merge_and_unload()(**tiny_batch()).logits, wanted, atol=1e-5, rtol=0)


def test_a_model_whose_mixers_no_longer_share_their_matrix_is_saved_as_such_alone(tmp_path):
    options = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["video_mixer", *HEADS])
    model = learn(peft.get_peft_model(tiny_model(), options)).merge_and_unload()
    for state_dict in (None, model.state_dict()):
        with pytest.raises(ValueError, match="share_A must be false .* set model.config.share_A = False"):
            model.save_pretrained(tmp_path, state_dict=state_dict)
    shared = tiny_model()
    part = {name: weight for name, weight in shared.state_dict().items() if not name.endswith("text_mixer.A_log")}
    shared.save_pretrained(tmp_path / "part", True, part, False)
    assert_close(MambaVLForVideoClassification.from_pretrained(tmp_path / "part").state_dict(), shared.state_dict())
    model.config.share_A = False
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    assert_close(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits, atol=0, rtol=0)


def test_a_sharded_model_has_the_gradient_of_the_shared_matrix():
    code = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
sys.path.insert(0, sys.argv[1])
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification
from tiny_mambavl import tiny_batch, tiny_model

labels = torch.tensor([[0, 1], [2, 3]])
whole, sharded, flattened = tiny_model(), tiny_model(), tiny_model()
whole(**tiny_batch(), labels=labels).loss.backward()
wanted = whole.mambavl.fusion.video_mixer.A_log.grad
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
fully_shard(sharded.mambavl.fusion, mesh=mesh)
fully_shard(sharded, mesh=mesh)
sharded(**tiny_batch(), labels=labels).loss.backward()
fusion = sharded.mambavl.fusion
assert fusion.video_mixer.A_log is fusion.text_mixer.A_log
torch.testing.assert_close(fusion.video_mixer.A_log.grad.full_tensor(), wanted)
flat = FullyShardedDataParallel(flattened.mambavl.fusion, use_orig_params=True, device_id=torch.device("cpu"))
assert len([name for name, _ in flat.named_parameters() if name.endswith("A_log")]) == 1
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
