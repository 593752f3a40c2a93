"""A VideoMamba carries its code: it loads where this package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from hmba_hf import (
    VideoMambaConfig,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextRetrieval,
    VideoMambaModel,
    VideoMambaRetrievalConfig,
)
from without_package import LOAD, MODELS, WITHOUT_PACKAGE, code, import_closure

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 2,
    "alignment_size": 6,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


@pytest.mark.parametrize(
    ("model_class", "auto_class", "entry"),
    [
        (VideoMambaModel, "AutoModel", "modeling_videomamba"),
        (VideoMambaForVideoClassification, "AutoModelForVideoClassification", "modeling_videomamba"),
        (VideoMambaForPreTraining, "AutoModelForPreTraining", "modeling_videomamba"),
        (VideoMambaForVideoTextRetrieval, "AutoModel", "retrieving_videomamba"),
    ],
)
def test_a_checkpoint_gives_the_same_numbers_without_the_package(model_class, auto_class, entry, tmp_path):
    config = VideoMambaConfig(**SIZES)
    inputs = {"pixel_values_videos": torch.rand(1, 2, 3, 16, 16)}
    if model_class is VideoMambaForVideoTextRetrieval:
        config = VideoMambaRetrievalConfig(vision_config=config, text_config=TEXT, num_fusion_layers=1)
        inputs["input_ids"] = torch.tensor([[1, 5, 7]])
    model = model_class(config).eval()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    assert code(folder) == {f"{name}.py": (MODELS / f"{name}.py").read_bytes() for name in import_closure(entry)}
    arguments = json.dumps({name: values.tolist() for name, values in inputs.items()})
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + LOAD, folder, auto_class, arguments]
    # Kernels would be compiled anew for each copy of the code.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HMBA_SCAN_BACKEND": "portable"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    without = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(without, model(**inputs)[0], rtol=0, atol=1e-5)
