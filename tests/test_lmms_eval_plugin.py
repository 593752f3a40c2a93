"""The plug-in for lmms-eval without lmms-eval, which asks for packages that the tests cannot have beside them."""

import importlib
import math
import runpy
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from PIL import Image

from hmba_hf import HMBAForConditionalGeneration
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.families import load_model
from hmba_hf.lmms_eval_plugin import TASKS, documents, manifests
from hmba_hf.quantisation import quantising_options
from hmba_hf.tasks.answering.generation import answer_samples
from tiny_models import lively_model
from tiny_processors import tiny_processor

ROOT = Path(__file__).parents[1]
NAMES = ("hmba_bddx", "hmba_drama", "hmba_micro_world")
MICRO_WORLD = [{"dataset_name": "micro-world", "split": "test", "size": 4}]


def resolve(loader, node):
    """What lmms-eval makes of `!function module.name`."""
    module, _, name = loader.construct_scalar(node).rpartition(".")
    return getattr(importlib.import_module(module), name)


class TaskLoader(yaml.SafeLoader):
    """A YAML loader that knows `!function`."""


TaskLoader.add_constructor("!function", resolve)


def load_task(name):
    task = yaml.load((TASKS / f"{name}.yaml").read_text(), TaskLoader)
    return yaml.load((TASKS / task.pop("include")).read_text(), TaskLoader) | task


def test_there_is_a_file_for_each_task():
    assert sorted(path.stem for path in TASKS.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_names_functions_and_files_that_are_there(name):
    task = load_task(name)
    assert task["task"] == name and task["output_type"] == "generate_until"
    (source,) = yaml.safe_load((TASKS / task["dataset_kwargs"]["data_files"][task["test_split"]]).read_text())
    assert source.keys() == {"dataset_name", "split", "size"}
    for key in ("process_docs", "doc_to_messages", "doc_to_visual", "process_results"):
        assert task[key] is getattr(documents, task[key].__name__)
    assert all(callable(metric["aggregation"]) for metric in task["metric_list"])
    assert [m["metric"] for m in task["metric_list"] if not m["higher_is_better"]] == ["unparsed"][
        : name != "hmba_bddx"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_of_a_task_gets_its_score_from_a_result(name, java):
    task, results = load_task(name), []
    for index in (0, 1):  # CIDEr needs two references that differ
        world = MicroWorld(size=2)
        sample = world.ego_sample(index) if name == "hmba_bddx" else world[index]
        document = {"id": str(index), "question": sample.question, "reference": sample.answer}
        document["parts"] = list(sample.parts)
        document |= {"boxes": list(sample.boxes), "size": list(sample.size), "others": [[0, 0, 0.1, 0.1]]}
        results += [task["process_results"](document, [sample.answer.replace("<box>", "[0.1,0.1,0.9,0.9]")])]
    for metric in task["metric_list"]:
        value = metric["aggregation"]([result[metric["metric"]] for result in results])
        assert math.isfinite(value) != metric["metric"].endswith("meteor"), "METEOR is absent without Java"


def test_documents_are_records_without_answers_and_clips_are_read_when_asked_for():
    rows, world = documents.open_documents(MICRO_WORLD), MicroWorld(split="test", size=4)
    assert [row["id"] for row in rows] == [sample.id for sample in world]
    assert rows[2]["reference"] == world[2].answer and len(rows[2]["others"]) == 3
    assert not {"frames", "video"} & set(rows.column_names)
    (message,) = documents.doc_to_messages(rows[2])
    clip, question = message["content"]
    assert (message["role"], question["text"]) == ("user", world[2].question)
    assert [frame.tobytes() for frame in clip["url"]] == [frame.tobytes() for frame in world[2].frames]
    assert [frame.tobytes() for frame in documents.doc_to_visual(rows[2])] == [f.tobytes() for f in world[2].frames]


def test_a_dataset_is_found_through_the_environment(tmp_path, monkeypatch):
    config = MicroWorldConfig(frame_size=32)
    write_drama(tmp_path / "drama", config, {"test": 2})
    write_bddx(tmp_path / "bddx", config, {"test": 2})
    source = [{"dataset_name": "$HMBA_DRAMA", "split": "test", "size": None}]
    with pytest.raises(ValueError, match="set HMBA_DRAMA to the folder or Hub id of the dataset of this task"):
        documents.open_documents(source)
    monkeypatch.setenv("HMBA_DRAMA", str(tmp_path / "drama"))
    rows = documents.open_documents(source)
    assert [row["size"] for row in rows] == [[32, 32], [32, 32]]
    assert len(documents.doc_to_visual(rows[1])) == 5
    monkeypatch.setenv("HMBA_BDDX", str(tmp_path / "bddx"))
    rows = documents.open_documents([{"dataset_name": "$HMBA_BDDX", "split": "test", "size": None}])
    clip = documents.doc_to_messages(rows[0])[0]["content"][0]["url"]
    assert Path(clip).read_bytes()[4:8] == b"ftyp" and documents.doc_to_visual(rows[0]) == [clip]


def test_limits_of_the_model_hold_for_the_documents_of_its_tasks(plugin, checkpoint, tmp_path, monkeypatch):
    write_drama(tmp_path, MicroWorldConfig(frame_size=32), {"test": 1})
    monkeypatch.setenv("HMBA_DRAMA", str(tmp_path))
    source = [{"dataset_name": "$HMBA_DRAMA", "split": "test", "size": None}]
    plugin.HMBA(str(checkpoint), device="cpu", max_pixels="100")
    with pytest.raises(ValueError, match="max_pixels=100, got 32 x 32"):
        documents.open_documents(source)
    plugin.HMBA(str(checkpoint), device="cpu")
    (row,) = documents.open_documents(source)
    plugin.HMBA(str(checkpoint), device="cpu", max_pixels=100)
    with pytest.raises(ValueError, match="max_pixels=100, got 32 x 32"):
        documents.doc_to_messages(row)
    plugin.HMBA(str(checkpoint), device="cpu")
    assert len(documents.doc_to_visual(row)) == 5


def test_scores_are_those_of_our_own_evaluation(java):
    rows = documents.open_documents(MICRO_WORLD)
    answers = ["The red car[0.100,0.100,0.500,0.500] is cutting in from the left.", "A dog.", "", "A van[0.9,0.1,"]
    results = [documents.process_results(row, [answer]) for row, answer in zip(rows, answers, strict=True)]
    records = [{**row, "answer": answer} for row, answer in zip(rows, answers, strict=True)]
    expected = ScoredRecords(records).scores()["scores"]
    for name in ("mean_iou", "accuracy", "unparsed", "picked", "bleu_4", "rouge_l", "cider"):
        assert getattr(documents, name)([result[name] for result in results]) == expected[name], name
    with pytest.raises(AttributeError, match="no attribute 'wer'"):
        documents.wer  # noqa: B018


def test_the_plug_in_is_announced_and_its_files_are_packaged(monkeypatch, capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["entry-points"]["lmms_eval.models"]["hmba"].partition(":")
    assert getattr(importlib.import_module(module), name) is manifests
    patterns = project["tool"]["setuptools"]["package-data"]["hmba_hf"]
    packaged = {path for pattern in patterns for path in (ROOT / "src" / "hmba_hf").glob(pattern)}
    assert {path for path in TASKS.iterdir() if path.is_file()} <= packaged
    runpy.run_module("hmba_hf.lmms_eval_plugin", run_name="__main__")
    assert capsys.readouterr().out == f"{TASKS}\n"
    registry = ModuleType("lmms_eval.models.registry_v2")
    registry.ModelManifest = SimpleNamespace
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", registry)
    (manifest,) = manifests()
    assert (manifest.model_id, manifest.chat_class_path) == ("hmba", "hmba_hf.lmms_eval_plugin.model.HMBA")


@pytest.fixture
def plugin(monkeypatch):
    """The module of the model, over a stand-in for the class that lmms-eval gives it to inherit from."""

    class lmms:
        def __init__(self):
            self._rank, self._world_size, self.task_dict = 0, 1, {}

        @property
        def rank(self):
            return self._rank

    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = lmms
    monkeypatch.delitem(sys.modules, "hmba_hf.lmms_eval_plugin.model", raising=False)
    yield importlib.import_module("hmba_hf.lmms_eval_plugin.model")
    monkeypatch.delitem(sys.modules, "hmba_hf.lmms_eval_plugin.model")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    lively_model(12, seed=2).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@dataclass
class Request:
    """One of lmms-eval's, as far as a model reads it."""

    args: tuple


def ask(rows, **options):
    return [Request(("", documents.doc_to_messages, options, row["index"], "task", "test")) for row in rows]


def test_requests_are_answered_as_our_own_evaluation_answers(plugin, checkpoint):
    rows = documents.open_documents(MICRO_WORLD)
    model = plugin.HMBA(str(checkpoint), batch_size="3", device="cpu")
    model.task_dict = {"task": {"test": rows}}
    assert str(model.device) == "cpu" and not model.is_simple
    samples = list(MicroWorld(split="test", size=4))
    reference = HMBAForConditionalGeneration.from_pretrained(checkpoint)
    expected = answer_samples(reference, tiny_processor(), samples, batch_size=3, max_new_tokens=8)
    assert model.generate_until(ask(rows, max_new_tokens=8, temperature=0, until=["\n\n"])) == expected
    stop = expected[0][2]
    mixed = [
        ask(rows, max_new_tokens=8)[0],
        ask(rows, max_new_tokens=8, until=[stop])[0],
        ask(rows, max_new_tokens=3)[2],
    ]
    whole, cut, short = model.generate_until(mixed)
    assert whole == expected[0] and cut == whole[: whole.index(stop)].strip() and len(short) <= 3


def test_requests_are_answered_by_a_language_model_in_fewer_bits_where_the_arguments_ask_for_it(plugin, checkpoint):
    rows = documents.open_documents(MICRO_WORLD)
    model = plugin.HMBA(str(checkpoint), device="cpu", quantization="bnb-4bit")
    model.task_dict = {"task": {"test": rows}}
    reference = load_model(checkpoint, **quantising_options(checkpoint, "bnb-4bit")).eval()
    samples = list(MicroWorld(split="test", size=4))
    expected = answer_samples(reference, tiny_processor(), samples, batch_size=1, max_new_tokens=8)
    assert model.model.is_quantized and model.generate_until(ask(rows, max_new_tokens=8)) == expected


def test_pictures_and_instructions_are_understood_and_sound_is_not(plugin, checkpoint):
    model = plugin.HMBA(str(checkpoint), device="cpu")
    picture = Image.new("RGB", (28, 28), "red")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image", "url": picture}, {"type": "text", "text": "What?"}]},
    ]
    model.task_dict = {"task": {"test": [messages]}}
    request = Request(("", lambda document: document, {"max_new_tokens": 2}, 0, "task", "test"))
    assert len(model.generate_until([request])) == 1
    with pytest.raises(ValueError, match="content of type text, image or video, got 'audio'"):
        plugin.to_block({"type": "audio", "url": "noise.wav"})
    with pytest.raises(NotImplementedError, match="no log-likelihoods"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one round"):
        model.generate_until_multi_round([])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0.0, "top_p": 1.0, "until": ["\n"]}, {"do_sample": False, "max_new_tokens": 128}),
        ({"temperature": 0.7, "max_new_tokens": 9}, {"do_sample": True, "temperature": 0.7, "max_new_tokens": 9}),
        (
            {"do_sample": False, "num_beams": 3, "unknown": 1},
            {"do_sample": False, "num_beams": 3, "max_new_tokens": 128},
        ),
    ],
)
def test_a_temperature_of_zero_is_greedy_and_what_generate_does_not_take_stays_behind(plugin, options, expected):
    assert plugin.generation_options(options) == expected


def test_an_answer_ends_before_the_first_stop(plugin):
    assert plugin.cut_at("a b. c\n\nd", ["\n\n", ".", ""]) == "a b"
    assert plugin.cut_at("a b", ["x"]) == "a b"


def test_without_lmms_eval_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.delitem(sys.modules, "hmba_hf.lmms_eval_plugin.model", raising=False)
    with pytest.raises(ImportError, match="the lmms-eval plug-in needs `pip install lmms-eval`"):
        importlib.import_module("hmba_hf.lmms_eval_plugin.model")
