"""A model on a VideoMamba carries the code of both: it loads where this package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from hmba_hf import HMBAForConditionalGeneration, VideoMambaConfig, VideoMambaModel
from tiny_mambavl import tiny_batch
from tiny_mambavl import tiny_model as tiny_mambavl
from tiny_models import tiny_config as hmba_config
from tiny_models import tiny_model as tiny_hmba
from without_package import LOAD, MODELS, WITHOUT_PACKAGE, code, import_closure


def tower_config(**values):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "image_size": 16, "patch_size": 8}
    return VideoMambaConfig(**{**sizes, **values})


def hmba_on_a_videomamba():
    config = hmba_config(vision_config=tower_config(num_frames=1))
    torch.manual_seed(0)
    model = HMBAForConditionalGeneration(config).eval()
    video = [config.video_token_id] * config.num_patches
    inputs = {"input_ids": torch.tensor([[1, *video, 5]]), "pixel_values_videos": torch.rand(1, 3, 3, 16, 16)}
    return model, inputs


def mambavl_on_a_videomamba():
    model = tiny_mambavl(vision_config=tower_config(num_frames=3))
    return model, tiny_batch()


def without_package(folder, auto_class, inputs, home):
    arguments = json.dumps({name: values.tolist() for name, values in inputs.items()})
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + LOAD, folder, auto_class, arguments]
    # Kernels would be compiled anew for each copy of the code.
    environment = {**os.environ, "HF_HOME": str(home), "HMBA_SCAN_BACKEND": "portable"}
    done = subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.tensor(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("build", "family", "auto_class"),
    [
        (hmba_on_a_videomamba, "hmba", "AutoModelForImageTextToText"),
        (mambavl_on_a_videomamba, "mambavl", "AutoModelForVideoClassification"),
    ],
)
def test_a_checkpoint_with_a_tower_of_another_family_gives_the_same_numbers_without_the_package(
    build, family, auto_class, tmp_path
):
    model, inputs = build()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    wanted = import_closure(f"bundling_{family}")
    assert {"modeling_videomamba", f"modeling_{family}"} <= wanted
    assert code(folder) == {f"{name}.py": (MODELS / f"{name}.py").read_bytes() for name in wanted}
    found = without_package(folder, auto_class, inputs, tmp_path / "home")
    assert_close(found, model(**inputs)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", [hmba_on_a_videomamba, mambavl_on_a_videomamba])
def test_with_the_package_no_trust_is_needed(build, tmp_path):
    model, _ = build()
    model.base_model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(model.base_model)
    assert any(type(module) is VideoMambaModel for module in loaded.modules())
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)


def test_other_towers_bring_no_code_of_another_family(tmp_path):
    tiny_hmba().save_pretrained(tmp_path / "hmba")
    tiny_mambavl().save_pretrained(tmp_path / "mambavl")
    for family in ("hmba", "mambavl"):
        names = {name.removesuffix(".py") for name in code(tmp_path / family)}
        assert names == import_closure(f"modeling_{family}")
