"""`accelerate launch examples/finetune.py ... --push_to_hub`, and then a fresh process that has only the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from hmba_hf.hub import push_checkpoint
from tiny_bases import FAST, save_base

ROOT = Path(__file__).parents[2]
QUESTION = "Which object is at the highest risk for the ego car?"
FRAMES = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]

LOAD_WITHOUT_THE_PACKAGE = """
import json, sys
from PIL import Image
from transformers import AutoModel, pipeline

name, question = sys.argv[1:]
trust = {"trust_remote_code": True}
assert type(AutoModel.from_pretrained(name, **trust)).__name__ == "HMBAModel"
pipe = pipeline("video-text-to-text", model=name, device="cpu", **trust)
frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
print(json.dumps(pipe(videos=frames, text=question, max_new_tokens=6)))
assert "hmba_hf" not in sys.modules
"""

pytestmark = pytest.mark.timeout(600)


def test_a_run_under_accelerate_ends_on_the_hub(hub, run, tmp_path):
    torch.manual_seed(0)
    base = save_base(tmp_path / "base", adapter="mamba")
    push_checkpoint(
        AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base), "org/hmba-base"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", 2]
    command += ["--config_file", ROOT / "examples" / "accelerate" / "ddp.yaml", ROOT / "examples" / "finetune.py"]
    command += ["--model", "org/hmba-base", *FAST, "--max_steps", 2, "--max_train_samples", 8]
    command += ["--per_device_train_batch_size", 1, "--output_dir", tmp_path / "out", "--max_new_tokens", 4]
    command += ["--push_to_hub", "--hub_model_id", "org/hmba-drama", "--hub_license", "apache-2.0"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "training")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert hub.token not in done.stdout + done.stderr

    repository = hub.repository("org/hmba-drama")
    assert repository.private and [one.title for one in repository.log()][:2] == ["Pin the revision", "Model save"]
    files = repository.files()
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == ["org/hmba-base"] and card.data.license == "apache-2.0"
    assert "| `processes` | 2 |" in card.text and "example.png" in files

    alone = run(LOAD_WITHOUT_THE_PACKAGE, "org/hmba-drama", QUESTION)
    assert alone.returncode == 0, alone.stderr
    pipe = pipeline("video-text-to-text", model="org/hmba-drama", device="cpu")
    assert json.loads(alone.stdout) == pipe(videos=FRAMES, text=QUESTION, max_new_tokens=6)
