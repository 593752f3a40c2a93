"""H-MBA on a vision-language model carries its code: it answers where this package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor
from tiny_models import open_adapter
from tiny_vlm_bases import save_vlm
from without_package import MODELS, WITHOUT_PACKAGE, code, import_closure

ENTRIES = (
    "configuration_hmba_vlm",
    "modeling_hmba_vlm",
    "pipeline_hmba",
    "processing_hmba_vlm",
    "video_processing_hmba",
)
QUESTION = "Which object is the risk?"
FRAMES = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
SCRIPT = """
import json, sys
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline

folder, question, again = sys.argv[1:]
frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
assert len(AutoTokenizer.from_pretrained(folder, trust_remote_code=True)) == len(processor.tokenizer)
pipe = pipeline("video-text-to-text", model=folder, device="cpu", trust_remote_code=True)
assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
assert type(pipe.processor) is type(processor)
print(json.dumps(pipe(videos=frames, text=question, max_new_tokens=6)))
processor.save_pretrained(again)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A folder that a model and a processor were saved to by nothing but their `save_pretrained`."""
    base = tmp_path_factory.mktemp("base")
    save_vlm("qwen3_vl", base)
    folder = tmp_path_factory.mktemp("bundle")
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(str(base))
    torch.manual_seed(0)
    open_adapter(model.model.temporal_adapter)
    model.save_pretrained(folder)
    HMBAVLMProcessor.from_base_pretrained(str(base)).save_pretrained(folder)
    return folder


def test_the_code_in_a_checkpoint_is_the_import_closure_of_its_classes_unchanged(bundle):
    names = set().union(*map(import_closure, ENTRIES))
    assert code(bundle) == {f"{name}.py": (MODELS / f"{name}.py").read_bytes() for name in names}
    held = json.loads((bundle / "processor_config.json").read_text())
    assert held["auto_map"] == {"AutoProcessor": "processing_hmba_vlm.HMBAVLMProcessor"}


def test_answers_without_the_package_equal_answers_with_it(bundle, tmp_path):
    wanted = pipeline("video-text-to-text", model=str(bundle), device="cpu")(
        videos=FRAMES, text=QUESTION, max_new_tokens=6
    )
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # Kernels would be compiled anew for each copy of the code.
    environment["HMBA_SCAN_BACKEND"] = "portable"
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + SCRIPT, bundle, QUESTION, tmp_path / "again"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == wanted
    again = tmp_path / "again"
    for name in ("processor_config.json", "chat_template.jinja"):
        assert (again / name).read_text() == (bundle / name).read_text()
    assert code(again).keys() <= code(bundle).keys()
    assert type(AutoProcessor.from_pretrained(again)) is HMBAVLMProcessor
