"""Every example on tiny random checkpoints and without a network, by command or, to save time, inside this process.

Of the benchmarks, only that they start.
"""

import json
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from hmba_hf import HMBAProcessor, HMBAVideoProcessor, VideoStream, iter_frames
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama, write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import drama_features, to_drama_row
from hmba_hf.installation import install_command
from hmba_hf.tasks.answering.boxes import score_grounding
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.generation import answer_samples
from tiny_models import part_of, tiny_model, tiny_tower
from tiny_processors import tiny_tokenizer
from tiny_runs import run_script

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted([*EXAMPLES.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
SCRIPTS = [path for path in PROGRAMS if "__main__" in path.read_text()]  # others are parts of these
WORLD = MicroWorldConfig(frame_size=32)
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TRAINING = [
    *("--use_cpu", "True", "--max_train_samples", "6", "--logging_steps", "1"),
    *("--learning_rate", "1e-2", "--warmup_steps", "0"),
]
QUICK = ["--tokenizer", "words", "--draws", "20"]  # METEOR, which the other tokenizer brings, starts for seconds

pytestmark = pytest.mark.timeout(900)


def run(folder, *words):
    """Run a command of the interpreter in a folder and return what it prints; fail with its errors if it does."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Run an example inside this process, which saves the time to import everything anew."""

    def run_here(script, *words):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        monkeypatch.chdir(tmp_path)
        run_script(EXAMPLES / script)

    return run_here


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint without an adapter: random weights, frames of 32 px, a character-level tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    tiny_model(vision_config=tiny_tower(image_size=32, patch_size=16), adapter="none").save_pretrained(folder)
    video_processor = HMBAVideoProcessor(size={"height": 32, "width": 32})
    HMBAProcessor(video_processor, tiny_tokenizer(), patch_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finetuned(base, tmp_path_factory):
    """The base after two steps of fine-tuning a fresh adapter on the micro-world, and what the command printed."""
    folder = tmp_path_factory.mktemp("finetuned")
    options = ["--adapter", "mamba", "--max_steps", "2", "--per_device_train_batch_size", "2", *TRAINING]
    command = ["-m", "hmba_hf.cli", "finetune", "--cpu", "--num_processes", "1", "--mixed_precision", "no"]
    return folder, run(folder, *command, "--model", base, "--output_dir", folder, *options)


@pytest.fixture(scope="module")
def drama(tmp_path_factory):
    """The clips of the micro-world in the DRAMA schema."""
    folder = tmp_path_factory.mktemp("drama")
    write_drama(folder, WORLD, {"train": 6, "test": 3})
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of the micro-world as an MP4 file of 2.5 seconds."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, MicroWorld(WORLD, "test", 1)[0].frames)
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(folder):
    return [loss for _, loss in json.loads((folder / "history.json").read_text())["loss"]]


def opens(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.fixture(scope="module")
def folder_of_pictures(tmp_path_factory):
    """Twelve pictures, of which the fifth cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        Image.new("RGB", (64, 48), (20 * i, 100, 60)).save(folder / f"{i:03}.png")
    (folder / "004.png").write_bytes(b"no picture")
    return folder


def answers_of(folder):
    return read_lines(folder / "answers.jsonl")


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_drive_is_streamed_with_answers_and_a_picture_of_each_frame(finetuned, tmp_path, call, capsys, mode):
    world = MicroWorld(WORLD, "test", 1)
    write_video(tmp_path / "drive.mp4", [*world[0].frames] * 4, 10)
    words = ["--model", finetuned[0], "--source", tmp_path / "drive.mp4", "--mode", mode, "--every", 1]
    call("stream_video.py", *words, "--max_new_tokens", 3, "--output_dir", tmp_path / "out")
    answers, printed = answers_of(tmp_path / "out"), capsys.readouterr().out
    assert [answer["timestamp"] for answer in answers] == pytest.approx([0.0, 1.0])
    assert all({"question", "generated_text", "objects", "timestamp"} == answer.keys() for answer in answers)
    assert "20 frames, 0 broken" in printed and "answer" in printed
    assert len(list(iter_frames(tmp_path / "out" / "annotated.mp4"))) == 20


@pytest.mark.parametrize("changed", ["text", "words"])
def test_a_stream_tells_an_answer_that_has_not_changed_once(finetuned, tmp_path, call, capsys, monkeypatch, changed):
    monkeypatch.setattr(VideoStream, "ask", lambda self, question, **_: answer_at(self.timestamp))

    def answer_at(seconds):
        text = f"A van[0.1,0.1,0.2,{0.2 + seconds / 10:.3f}]" if seconds < 1.5 else "A dog"
        return {"generated_text": text, "objects": [], "timestamp": seconds}

    write_video(tmp_path / "drive.mp4", [*MicroWorld(WORLD, "test", 1)[0].frames] * 4, 10)
    words = ["--model", finetuned[0], "--source", tmp_path / "drive.mp4", "--every", 0.5, "--changed", changed]
    call("stream_video.py", *words, "--output_dir", tmp_path / "out")
    times = [answer["timestamp"] for answer in answers_of(tmp_path / "out")]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5] if changed == "text" else [0.0, 1.5])
    assert "20 frames, 0 broken, 0 moments held by an older frame" in capsys.readouterr().out


@pytest.mark.parametrize(("on_error", "frames"), [("skip", 11), ("hold", 12)])
def test_a_broken_frame_is_survived_in_a_stream(
    finetuned, folder_of_pictures, tmp_path, call, capsys, on_error, frames
):
    words = ["--model", finetuned[0], "--source", folder_of_pictures, "--source_fps", 4, "--on_error", on_error]
    call("stream_video.py", *words, "--max_new_tokens", 2, "--output_dir", tmp_path / "out")
    printed = capsys.readouterr()
    assert (
        f"{frames} frames, 1 broken" in printed.out
        and "004.png cannot be read as a picture" in printed.out + printed.err
    )
    assert len(list(iter_frames(tmp_path / "out" / "annotated.mp4"))) == frames


@pytest.mark.parametrize("name", ["fixtures/broken_bitflips.mp4", "thirdparty_fixtures/decord_unordered.mov"])
@pytest.mark.parametrize("on_error", ["skip", "hold"])
def test_a_damaged_file_is_streamed_as_far_as_it_goes(finetuned, shared_data, tmp_path, call, capsys, name, on_error):
    words = ["--model", finetuned[0], "--source", shared_data / name, "--on_error", on_error, "--max_new_tokens", 2]
    call("stream_video.py", *words, "--output_dir", tmp_path / "out")
    printed = capsys.readouterr()
    assert ("broken frame: " in printed.out + printed.err) == ("broken" in name)
    assert len(answers_of(tmp_path / "out")) >= 1
    assert len(list(iter_frames(tmp_path / "out" / "annotated.mp4"))) >= 3


def test_a_broken_frame_ends_a_stream_that_shall_not_survive_it(finetuned, folder_of_pictures, tmp_path, call):
    words = ["--model", finetuned[0], "--source", folder_of_pictures, "--source_fps", 4, "--on_error", "stop"]
    with pytest.raises(SystemExit, match=r"004\.png cannot be read as a picture"):
        call("stream_video.py", *words, "--max_new_tokens", 2, "--output_dir", tmp_path / "out")
    assert len(answers_of(tmp_path / "out")) == 1
    assert len(list(iter_frames(tmp_path / "out" / "annotated.mp4"))) == 4


def test_a_stream_that_is_stopped_leaves_all_it_has_done(finetuned, folder_of_pictures, tmp_path):
    for i in range(12, 3000):
        (tmp_path / f"{i:06}.png").symlink_to(folder_of_pictures / "000.png")
    words = ["--model", finetuned[0], "--source", tmp_path, "--source_fps", 2, "--every", 0, "--max_new_tokens", 2]
    command = [sys.executable, EXAMPLES / "stream_video.py", *words, "--output_dir", tmp_path / "out"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        answers, waiting = tmp_path / "out" / "answers.jsonl", time.monotonic() + 120
        while not (answers.exists() and answers.read_text().count("\n") > 3) and time.monotonic() < waiting:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        printed = run.communicate(timeout=60)[0]
    assert run.returncode == 0 and "stopped" in printed and "answers and the annotated video are in" in printed
    assert len(answers_of(tmp_path / "out")) > 3
    assert len(list(iter_frames(tmp_path / "out" / "annotated.mp4"))) >= 3


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_is_for(path, call, capsys):
    with pytest.raises(SystemExit) as end:
        call(path, "--help")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_finetuning_leaves_a_checkpoint_and_how_the_loss_fell(base, finetuned):
    folder, printed = finetuned
    assert "6 clips; parameters that learn: {'adapter': " in printed
    assert len(losses(folder)) == 2 and losses(folder)[1] < losses(folder)[0]
    made_by = json.loads((folder / "history.json").read_text())["arguments"]
    assert made_by["adapter"] == "mamba" and made_by["max_train_samples"] == 6
    assert made_by["learning_rate"] == 1e-2 and made_by["max_steps"] == 2 and made_by["seed"] == 42
    assert opens(folder / "loss.png")[0] > 100
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.adapter == "mamba"
    processor = AutoProcessor.from_pretrained(folder)
    world = MicroWorld(WORLD, "test", 2)
    assert len(answer_samples(model, processor, world, max_new_tokens=2)) == 2
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    for part, learns in {"vision_tower": False, "projector": True, "language_model": True}.items():
        moved = [not torch.equal(before[name], after[name]) for name in before if part_of(name) == part]
        assert any(moved) if learns else not any(moved), part


def test_two_processes_learn_from_a_dataset_what_one_learns_from_the_same_clips(base, drama, finetuned, tmp_path):
    options = ["--adapter", "mamba", "--max_steps", "2", "--per_device_train_batch_size", "1", *TRAINING]
    script = [*TWO_PROCESSES, EXAMPLES / "finetune.py", "--model", base, "--dataset_name", drama]
    printed = run(tmp_path, *script, "--output_dir", tmp_path / "two", *options)
    assert printed.count("6 clips; parameters that learn") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(finetuned[0]), abs=2e-3)


def test_finetuning_can_be_resumed(base, tmp_path, call):
    options = ["--adapter", "mean", "--per_device_train_batch_size", "2", *TRAINING, "--lr_scheduler_type", "constant"]
    words = ["finetune.py", "--model", base, *options, "--output_dir", tmp_path / "out"]
    call(*words, "--max_steps", 1)
    first = losses(tmp_path / "out")
    call(*words, "--max_steps", 2, "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-1")
    assert len(losses(tmp_path / "out")) == 2 and losses(tmp_path / "out")[:1] == first


def test_the_options_of_the_adapter_and_the_world_reach_model_and_clips(base, tmp_path, call, monkeypatch, capsys):
    seen = []

    def note(collator, sample):
        seen.append((sample.id, len(sample.frames)))
        return encode(collator, sample)

    encode = SampleCollator.encode
    monkeypatch.setattr(SampleCollator, "encode", note)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ["--adapter", "mamba", "--fusion", "add", "--branches", "temporal", "divided_space_time"]
    options += ["--temporal_strides", 1, 3, "--num_frames", 8, "--motion", "order", "--world_seed", 7]
    words = ["--model", base, "--use_cpu", "True", "--max_steps", 1, "--per_device_train_batch_size", 1]
    call("finetune.py", *words, *options, "--hub_token", "secret", "--output_dir", tmp_path / "out")
    assert all(name.startswith("train-order-7-") and frames == 8 for name, frames in seen) and seen
    config = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").config
    assert (config.adapter, config.fusion, config.num_frames) == ("mamba", "add", 8)
    assert (config.branches, config.temporal_strides) == (["temporal", "divided_space_time"], [1, 3])
    assert AutoProcessor.from_pretrained(tmp_path / "out").video_processor.num_frames == 8
    assert f"no picture of the loss: plotting curves needs `{install_command('demo')}`" in capsys.readouterr().out
    assert len(losses(tmp_path / "out")) == 1 and "secret" not in (tmp_path / "out" / "history.json").read_text()
    words = ["--max_samples", 2, "--motion", "order", "--world_seed", 9, "--max_new_tokens", 2, *QUICK]
    call("evaluate.py", "--model", tmp_path / "out", *words, "--output_dir", tmp_path)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["test-order-9-000000", "test-order-9-000001"]
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert 0 <= scores["picked"] <= 1 and "motion: order: 2 of 2 samples" in capsys.readouterr().out


def test_a_dataset_is_learned_and_answered_one_frame_at_a_time(base, drama, tmp_path, call):
    """The micro-world needs three frames to move in; it has no say about other clips."""
    words = ["--num_frames", 1, "--use_cpu", "True", "--max_steps", 1, "--per_device_train_batch_size", 1]
    call("finetune.py", "--model", base, "--dataset_name", drama, *words, "--output_dir", tmp_path / "a")
    words = ["--dataset_name", drama, "--max_new_tokens", 2, *QUICK, "--output_dir", tmp_path]
    call("evaluate.py", "--model", tmp_path / "a", *words)
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert scores["count"] == 3 and "picked" not in scores


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--num_frames", 8], r"fit .*'num_frames': 8.*: .*embedding must be \(8, 32\), got \(5, 32\)"),
        (["--temporal_strides", 1, 2, 3], r"does not fit {'temporal_strides': \[1, 2, 3\]}: "),
        (["--temporal_strides", 1, 3], r"does not fit {'temporal_strides': \[1, 3\]}: .* must be absent"),
        (["--fusion", "cosine"], r"does not fit {'fusion': 'cosine'}: "),
        (["--adapter", "transformer"], r"does not fit {'adapter': 'transformer'}: "),
    ],
)
def test_a_trained_adapter_that_does_not_fit_is_refused(finetuned, call, words, name):
    with pytest.raises(ValueError, match=f"{name}.* start from a base without one"):
        call("finetune.py", "--model", finetuned[0], "--use_cpu", "True", "--max_steps", 1, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learns", "brain"], r"must be of \['adapter', .*\], got \['brain'\]"),
        (["--learns", "adapter"], r"must hold parameters, got none in \['adapter'\]"),
        (["--adapter", "lstm"], "adapter must be one of .*, got 'lstm'"),
        (["--temporal_strides", "0"], "temporal_strides must be different integers of at least 1"),
        (["--dataset_name", "nowhere"], "a dataset must be 'micro-world', a folder or a Hub id, got 'nowhere'"),
        (["--train_split", "dev"], "split must be of .* got 'dev'"),
        (["--max_new_tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        (["--dataset_weights", "-1"], r"weights must be one positive number for each of 1 datasets, got \[-1.0\]"),
        (["--keep_features", "nan"], "keep_features must be gigabytes from 0 on, got nan"),
    ],
)
def test_finetuning_says_what_is_wrong_with_an_option(base, call, words, message):
    with pytest.raises(ValueError, match=message):
        call("finetune.py", "--model", base, "--use_cpu", "True", "--max_steps", 1, *words)


@pytest.mark.parametrize("script", ["finetune.py", "evaluate.py", "predict.py"])
def test_an_unknown_motion_is_refused_with_the_known_ones(script, base, call, capsys):
    with pytest.raises(SystemExit):
        call(script, "--model", base, "--motion", "up")
    assert "'symmetric', 'order', 'monotone'" in capsys.readouterr().err


def test_evaluation_writes_predictions_and_scores(finetuned, drama, tmp_path):
    options = ["--dataset_name", drama, "--max_new_tokens", "6", "--batch_size", "2", "--output_dir", "scores/test"]
    printed = run(tmp_path, EXAMPLES / "evaluate.py", "--model", finetuned[0], *QUICK, *options)
    folder, world = tmp_path / "scores" / "test", MicroWorld(WORLD, "test", 3)
    predictions = read_lines(folder / "predictions.jsonl")
    assert [prediction["id"] for prediction in predictions] == [sample.id for sample in world]
    assert [prediction["reference"] for prediction in predictions] == [sample.answer for sample in world]
    assert predictions[0]["boxes"] == [list(box) for box in world[0].boxes]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scores"]["count"] == 3 and 0 <= metrics["scores"]["mean_iou"] <= 1
    assert metrics["scores"].keys() >= {"bleu_4", "rouge_l", "cider", "unparsed"} and metrics["tokenizer"] == "words"
    assert metrics["bootstrap"] == {"confidence": 0.95, "draws": 20, "seed": 0}
    assert metrics["arguments"]["dataset_name"] == str(drama) and metrics["arguments"]["num_samples"] == 3
    assert metrics["versions"]["transformers"] and metrics["versions"].keys() >= {"java", "pycocoevalcap"}
    assert {line.split()[0] for line in printed.splitlines() if line} >= metrics["scores"].keys()
    assert [one["id"] for one in read_lines(folder / "per_sample.jsonl")] == [sample.id for sample in world]
    index = json.loads((folder / "eval_results.json").read_text())["model-index"]
    name, results = model_index_to_eval_results(index)
    values = {result.metric_name: result.metric_value for result in results}
    assert name == finetuned[0].name and values["mIoU"] == metrics["scores"]["mean_iou"]
    assert {(result.dataset_type, result.dataset_split) for result in results} == {(drama.name, "test")}


def test_action_and_justification_of_videos_are_scored_apart(finetuned, tmp_path, call, capsys):
    write_bddx(tmp_path / "bddx", WORLD, {"test": 2})
    words = ["--dataset_name", tmp_path / "bddx", "--max_new_tokens", 4, *QUICK, "--output_dir", tmp_path]
    call("evaluate.py", "--model", finetuned[0], *words)
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert {name.split("_")[0] for name in scores} == {"action", "justification"}
    assert "justification_cider" in capsys.readouterr().out


def test_a_dataset_with_nothing_to_score_is_answered_and_said_so(finetuned, tmp_path, call, capsys):
    rows = [to_drama_row(replace(sample, answer="", boxes=(), labels=())) for sample in MicroWorld(WORLD, "test", 2)]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows, features=drama_features()).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    words = ["--dataset_name", tmp_path, "--max_new_tokens", 4, *QUICK, "--output_dir", tmp_path / "out"]
    call("evaluate.py", "--model", finetuned[0], *words)
    assert "There is nothing to score: no prediction of" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"] == {}
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text()) == {"model-index": []}
    assert len(read_lines(tmp_path / "out" / "predictions.jsonl")) == 2


def test_two_processes_predict_what_one_evaluates(finetuned, drama, tmp_path, call, capsys):
    words = ["--model", finetuned[0], "--dataset_name", drama, "--split", "test", "train"]
    words += ["--batch_size", 2, "--max_new_tokens", 6, "--device_map", "cpu"]
    printed = run(tmp_path, *TWO_PROCESSES, EXAMPLES / "predict.py", *words, "--output_dir", "two")
    assert "batches to predict, processes: 2" in printed and printed.count("predictions: two/predictions.jsonl") == 1
    call("evaluate.py", *words, *QUICK, "--output_dir", "one")
    assert (tmp_path / "two" / "predictions.jsonl").read_bytes() == (
        tmp_path / "one" / "predictions.jsonl"
    ).read_bytes()
    call("evaluate.py", "--predictions", "two/predictions.jsonl", *QUICK, "--output_dir", "scored")
    one, scored = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "scored"))
    assert scored["scores"] == one["scores"] and scored["splits"] == one["splits"]
    assert list(one["splits"]) == ["test", "train"] and one["splits"]["train"]["samples"]["answered"] == 6
    assert scored["arguments"]["dataset_name"] == str(drama), "from the recipe beside the predictions"
    results = json.loads((tmp_path / "scored" / "eval_results.json").read_text())["model-index"][0]["results"]
    assert [result["dataset"]["split"] for result in results] == ["test", "train"]


def test_answers_of_unknown_origin_are_scored_and_credited_to_nobody(tmp_path, call, capsys):
    answer = {"index": 0, "id": "a", "answer": "A van.", "reference": "A van stops.", "error": None}
    (tmp_path / "given.jsonl").write_text(json.dumps(answer) + "\n")
    (tmp_path / "eval_results.json").write_text("of another run")
    call("evaluate.py", "--predictions", tmp_path / "given.jsonl", *QUICK, "--output_dir", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["scores"]["bleu_1"] > 0 and metrics["dataset"] is None
    assert not {"dataset_name", "motion", "model", "batch_size"} & set(metrics["arguments"])
    assert not (tmp_path / "eval_results.json").exists() and "No eval_results.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("evaluate.py", [], "give either --model or --predictions"),
        ("evaluate.py", ["--model", "a", "--predictions", "b"], "give either --model or --predictions"),
        (
            "evaluate.py",
            ["--predictions", "b", "--split", "test", "train", "--max_samples", 3],
            "--predictions must come without options of predicting, got --split, --max_samples",
        ),
        ("evaluate.py", ["--model", "a", "--confidence", 95], "confidence must be in (0, 1)"),
        ("evaluate.py", ["--model", "a", "--seed", -1], "the seed of the resampling must be zero or more, got -1"),
        ("ablate.py", ["branches", "--seeds", 0, -1], "--seeds must be zero or more, got -1"),
        ("evaluate.py", ["--model", "a", "--draws", 0], "draws at least 1, got 0.95 and 0"),
        ("predict.py", [], "the following arguments are required: --model"),
    ],
)
def test_what_shall_be_answered_or_scored_must_be_said(call, capsys, script, words, message):
    with pytest.raises(SystemExit):
        call(script, *words)
    assert message in capsys.readouterr().err


def test_prediction_that_is_interrupted_says_how_to_go_on(finetuned, tmp_path, call, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hmba_hf.evaluation.predicting.predict_batches", interrupt)
    with pytest.raises(SystemExit, match="stopped; the same command resumes from"):
        call("predict.py", "--model", finetuned[0], "--max_samples", 2, "--output_dir", tmp_path)


def test_a_video_is_described_at_a_moment(finetuned, clip, tmp_path):
    words = ["--video", clip, "--timestamp", "1.2", "--max_new_tokens", "6", "--output", "pictures/answer.png"]
    printed = run(tmp_path, EXAMPLES / "describe_video.py", "--model", finetuned[0], *words)
    assert printed.startswith("frames at 0.00, 0.00, 0.20, 0.70, 1.20 s\n")
    assert "picture: pictures/answer.png" in printed
    assert opens(tmp_path / "pictures" / "answer.png") >= (960, 800)


def test_a_real_video_is_described_at_its_end(finetuned, shared_data, tmp_path, call, capsys):
    video = shared_data / "clips" / "freeway_cars_720p_38f.mp4"
    call("describe_video.py", "--model", finetuned[0], "--video", video, "--max_new_tokens", 6)
    assert "frames at 0.00, 0.00, 0.48, 0.96, 1.48 s" in capsys.readouterr().out
    width, height = opens(tmp_path / "answer.png")
    assert width == 960 and height > 400


def test_a_moment_outside_of_the_video_is_an_error(finetuned, clip, call):
    with pytest.raises(ValueError, match=r"timestamp 99.000 s lies outside .*clip.mp4, which ends at 2.5"):
        call("describe_video.py", "--model", finetuned[0], "--video", clip, "--timestamp", 99)


def test_the_base_of_the_micro_world_can_be_trained_anew(tmp_path):
    options = ["--tower_steps", "1", "--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "True"]
    options += ["--num_pictures", "64", "--num_test_pictures", "2"]
    run(tmp_path, EXAMPLES / "train_micro_base.py", "--output_dir", tmp_path / "base", *options)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    assert model.config.adapter == "none"
    still = MicroWorld(MicroWorldConfig(), "test", 1).still_sample(0)
    assert len(answer_samples(model, processor, [still], max_new_tokens=2)) == 1


def test_the_card_of_the_shipped_base_is_what_its_training_writes():
    module = runpy.run_path(str(EXAMPLES / "train_micro_base.py"))
    shipped = (EXAMPLES / "micro_base" / "README.md").read_text()
    count = int(re.search(r"([\d,]+) parameters", shipped)[1].replace(",", ""))
    pictures = int(re.search(r"on (\d+) held-out", shipped)[1])
    numbers = [float(text) for text in re.findall(r"0\.\d{3}", shipped)]
    scores = SimpleNamespace(count=pictures, mean_iou=numbers[0], accuracy=numbers[1], unparsed=numbers[2])
    assert module["CARD"].format(count=count, scores=scores) == shipped
    model = AutoModelForImageTextToText.from_pretrained(EXAMPLES / "micro_base")
    assert count == model.num_parameters()


def test_the_shipped_base_is_small_and_finds_road_users_in_pictures():
    folder = EXAMPLES / "micro_base"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 2**20
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    world = MicroWorld(MicroWorldConfig(), "test", 48)
    stills = [world.still_sample(index, "where") for index in range(len(world))]
    scores = score_grounding(answer_samples(model, processor, stills, max_new_tokens=48), stills, processor)
    assert scores.mean_iou > 0.4 and scores.unparsed == 0
