"""A checkpoint carries its code: it loads where this package is not installed, and needs no trust where it is."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    pipeline,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

import hmba_hf
from hmba_hf import HMBAForConditionalGeneration, HMBAModel, HMBAProcessor, HMBAVideoProcessor
from tiny_models import open_gate, tiny_model
from tiny_processors import tiny_processor
from without_package import WITHOUT_PACKAGE

MODELS = Path(hmba_hf.__file__).parent / "models"
ENTRIES = ("configuration_hmba", "modeling_hmba", "video_processing_hmba", "processing_hmba", "pipeline_hmba")
QUESTION = "Which object is the risk?"
FRAMES = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]

# The start of every script below.
START = """
import json, os, sys, traceback

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers import AutoProcessor, AutoTokenizer, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

folder, question, *others = sys.argv[1:]
frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(3)]
trust = {"trust_remote_code": True}

def ask(model, processor):
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": question}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(chat, **options)
    with torch.no_grad():
        return model(**inputs).logits[0, -1].tolist()

def answer(pipe):
    return pipe(videos=frames, text=question, max_new_tokens=6)
"""

LOAD_EACH_CLASS_ALONE = """
def check(cls, name):
    loaded = cls.from_pretrained(folder, **trust)
    assert type(loaded).__name__ == name, type(loaded)
    if cls is not AutoTokenizer:
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded).__module__

checks = {
    AutoConfig: "HMBAConfig",
    AutoModel: "HMBAModel",
    AutoModelForImageTextToText: "HMBAForConditionalGeneration",
    AutoModelForMultimodalLM: "HMBAForConditionalGeneration",
    AutoProcessor: "HMBAProcessor",
    AutoVideoProcessor: "HMBAVideoProcessor",
    AutoTokenizer: "TokenizersBackend",
}
failed = []
for cls, name in checks.items():
    child = os.fork()  # so that no class profits from what another has registered
    if child == 0:
        try:
            check(cls, name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(cls.__name__)
assert not failed, failed
"""

ANSWER_AND_SAVE_AGAIN = """
[again] = others
model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
model.save_pretrained(again)
processor.save_pretrained(again)
print(json.dumps(ask(model, processor)))
"""

ANSWER_BY_PIPELINE = """
named = pipeline("video-text-to-text", model=folder, device="cpu", **trust)
assert type(named).__module__.startswith("transformers_modules."), type(named)
outputs = answer(named)
assert answer(pipeline(model=folder, device="cpu", **trust)) == outputs
print(json.dumps(outputs))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A folder that a model and a processor were saved to by nothing but their `save_pretrained`."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    open_gate(tiny_model()).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the Hub's cache and of remote code."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def repository(bundle, home):
    """The id of a repository that lies in the Hub's cache, with the bundle's files."""
    folder, commit = home / "hub" / "models--org--hmba-tiny", "0123456789abcdef" * 2 + "01234567"
    shutil.copytree(bundle, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return "org/hmba-tiny"


@pytest.fixture(scope="module")
def run_without_package(home):
    """Run a script in a fresh process, away from this checkout, that cannot import this package."""
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HMBA_SCAN_BACKEND"] = "portable"  # code at a new place would compile its kernels anew

    def run(script, *arguments):
        command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + START + script, *map(str, arguments)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def code(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.py")}


def import_closure(names):
    """Follow `from .sibling import x` from some modules of the package to all that they need."""
    wanted, found = list(names), set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            tree = ast.parse((MODELS / f"{name}.py").read_text())
            wanted += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return found


def test_the_code_in_a_checkpoint_is_the_import_closure_of_its_classes_unchanged(bundle):
    wanted = {f"{name}.py" for name in import_closure(ENTRIES)}
    assert code(bundle) == {name: (MODELS / name).read_bytes() for name in wanted}


def test_a_checkpoint_names_every_class(bundle):
    config = json.loads((bundle / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_hmba.HMBAConfig",
        "AutoModel": "modeling_hmba.HMBAModel",
        "AutoModelForImageTextToText": "modeling_hmba.HMBAForConditionalGeneration",
        "AutoModelForMultimodalLM": "modeling_hmba.HMBAForConditionalGeneration",
    }
    assert config["custom_pipelines"]["video-text-to-text"]["impl"] == "pipeline_hmba.VideoTextToTextPipeline"
    processor = json.loads((bundle / "processor_config.json").read_text())
    assert processor["auto_map"] == {"AutoProcessor": "processing_hmba.HMBAProcessor"}
    assert processor["video_processor"]["auto_map"]["AutoVideoProcessor"] == "video_processing_hmba.HMBAVideoProcessor"


@pytest.mark.parametrize("place", ["bundle", "repository"])
def test_every_auto_class_loads_without_the_package(request, place, run_without_package):
    run_without_package(LOAD_EACH_CLASS_ALONE, request.getfixturevalue(place), QUESTION)


def test_answers_without_the_package_equal_answers_with_it(bundle, run_without_package, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(bundle)
    processor = AutoProcessor.from_pretrained(bundle)
    chat = [{"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": QUESTION}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    with torch.no_grad():
        logits = model(**processor.apply_chat_template(chat, **options)).logits[0, -1]
    without = torch.tensor(json.loads(run_without_package(ANSWER_AND_SAVE_AGAIN, bundle, QUESTION, tmp_path)))
    torch.testing.assert_close(without, logits, rtol=0, atol=1e-5)

    assert code(tmp_path) == code(bundle)
    for name in ("processor_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (bundle / name).read_text()
    for key in ("auto_map", "custom_pipelines"):
        assert (
            json.loads((tmp_path / "config.json").read_text())[key]
            == json.loads((bundle / "config.json").read_text())[key]
        )
    run_without_package(LOAD_EACH_CLASS_ALONE, tmp_path, QUESTION)


@pytest.mark.parametrize("place", ["bundle", "repository"])
def test_the_pipeline_works_without_the_package(request, place, bundle, run_without_package):
    pipe = pipeline("video-text-to-text", model=str(bundle), device="cpu")
    wanted = pipe(videos=FRAMES, text=QUESTION, max_new_tokens=6)
    assert json.loads(run_without_package(ANSWER_BY_PIPELINE, request.getfixturevalue(place), QUESTION)) == wanted


def test_where_the_package_is_installed_its_own_classes_load_without_trust(bundle):
    assert type(AutoConfig.from_pretrained(bundle)) is hmba_hf.HMBAConfig
    assert type(AutoModel.from_pretrained(bundle)) is HMBAModel
    assert type(AutoModelForImageTextToText.from_pretrained(bundle)) is HMBAForConditionalGeneration
    assert type(AutoModelForMultimodalLM.from_pretrained(bundle)) is HMBAForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(bundle)) is HMBAProcessor
    assert type(AutoVideoProcessor.from_pretrained(bundle)) is HMBAVideoProcessor
    assert type(AutoModel.from_config(AutoConfig.from_pretrained(bundle))) is HMBAModel
    assert type(pipeline("video-text-to-text", model=str(bundle), device="cpu")) is hmba_hf.VideoTextToTextPipeline


def test_each_part_saved_alone_carries_its_own_code(tmp_path):
    processor = tiny_processor()
    parts = {
        "config": (tiny_model().config, ["configuration_hmba"]),
        "model": (tiny_model(), ["configuration_hmba", "modeling_hmba"]),
        "processor": (processor, ["processing_hmba"]),
        "video_processor": (processor.video_processor, ["video_processing_hmba"]),
    }
    for name, (part, entries) in parts.items():
        part.save_pretrained(tmp_path / name)
        assert set(code(tmp_path / name)) == {f"{module}.py" for module in import_closure(entries)}
