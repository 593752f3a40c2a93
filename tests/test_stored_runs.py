"""Numbers reach a card only if stored answers score them."""

import json
import shutil

import pytest
import torch

import hmba_hf
from hmba_hf.hub.stored_runs import StoredRun, read_runs
from tiny_bases import save_base
from tiny_runs import run_example


@pytest.fixture
def run(stored_run, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(stored_run, tmp_path / "run")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_stored_run_tells_its_numbers_with_what_made_them(run, stored_model):
    stored = StoredRun(run)
    metrics = json.loads((run / "metrics.json").read_text())
    found = {result.metric_name: result for result in stored.results}
    assert found["mIoU"].metric_value == metrics["scores"]["mean_iou"]
    assert {result.dataset_split for result in stored.results} == {"test"}
    for result in stored.results:
        arguments = result.metric_args
        assert arguments["command"].startswith("hmba evaluate ") and f"--model {stored_model}" in arguments["command"]
        assert "torch " in arguments["environment"] and f"hmba-hf {hmba_hf.__version__}" in arguments["environment"]
        assert len(arguments["interval"]) == 2 and arguments["answered"] == 3
    stored.check_model(stored_model)


def test_the_run_of_another_model_is_refused(run, tmp_path):
    torch.manual_seed(1)
    other = save_base(tmp_path / "other", adapter="mamba")
    with pytest.raises(ValueError, match="must hold scores of this checkpoint, .* got scores of the weights"):
        StoredRun(run).check_model(other)


def test_answers_scored_from_elsewhere_are_found_there(run, tmp_path):
    words = ["--predictions", run / "predictions.jsonl", "--output_dir", tmp_path / "scores", "--draws", 20]
    run_example("evaluate.py", *words, "--tokenizer", "words")
    assert [one.metric_value for one in StoredRun(tmp_path / "scores").results] == [
        one.metric_value for one in StoredRun(run).results
    ]


def test_scores_that_could_not_be_written_leave_no_older_ones_behind(run, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hmba_hf.files.flush_to_disk", full)
    with pytest.raises(OSError, match="The predictions are safe: make room"):
        words = ["--predictions", run / "predictions.jsonl", "--output_dir", run]
        run_example("evaluate.py", *words, "--draws", 20, "--tokenizer", "words")
    assert not (run / "metrics.json").exists() and (run / "predictions.jsonl").exists()


def test_a_tokenizer_without_its_java_is_refused_before_anything_is_answered(java, capsys):
    with pytest.raises(SystemExit):
        run_example("evaluate.py", "--model", "a", "--tokenizer", "ptb")
    assert "the PTB tokenizer needs Java, and no `java` that runs was found" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["scores", "intervals", "samples"])
def test_a_number_that_the_answers_do_not_score_is_refused(run, part):
    metrics = json.loads((run / "metrics.json").read_text())
    name = {"samples": "answered"}.get(part, "mean_iou")
    better = [0.9, 1.0] if part == "intervals" else 0.95
    change(run / "metrics.json", **{part: {**metrics[part], name: better}})
    with pytest.raises(ValueError, match=rf"got {part} where {name} is .*9.* and should be "):
        StoredRun(run)


def test_a_number_that_cannot_be_computed_here_is_refused_with_the_reason(run):
    metrics = json.loads((run / "metrics.json").read_text())
    change(run / "metrics.json", scores={**metrics["scores"], "spice": 0.5})
    with pytest.raises(ValueError, match="spice is 0.5 and should be None"):
        StoredRun(run)


def test_answers_that_were_touched_are_refused(run):
    lines = (run / "predictions.jsonl").read_text().splitlines(keepends=True)
    (run / "predictions.jsonl").write_text("".join(lines[:2]))
    with pytest.raises(ValueError, match="must hold 3 predictions, got 2"):
        StoredRun(run)


def test_metrics_of_other_answers_are_refused(run):
    change(run / "recipe.json", weights="0" * 16)
    with pytest.raises(ValueError, match="metrics.json must be of the predictions of recipe.json, got weights is"):
        StoredRun(run)


@pytest.mark.parametrize(("name", "value"), [("dataset", "org/drama"), ("split", "validation")])
def test_scores_do_not_tell_of_other_clips_than_the_answers_are_about(run, name, value):
    change(run / "metrics.json", **{name: value})
    with pytest.raises(
        ValueError, match=rf"the {name} of the scores must be that of the predictions, '.*', got '{value}'"
    ):
        StoredRun(run)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, "a folder that `hmba evaluate` has written"),
        ("metrics.json", "{", "a folder that `hmba evaluate` has written"),
        ("metrics.json", "[1]", "must be a JSON object, got list"),
        ("metrics.json", '{"scores": {"mean_iou": 0.9}}', r"got one without \['intervals', "),
        ("recipe.json", None, "a folder that `hmba evaluate` has written"),
        ("recipe.json", "{}", "must hold predictions of `hmba predict`, got a recipe without weights"),
    ],
)
def test_a_folder_of_something_else_is_refused(run, name, content, message):
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        StoredRun(run)


def test_a_number_by_hand_is_no_run(run):
    with pytest.raises(ValueError, match="results must be folders that `hmba evaluate` has written, got dict"):
        read_runs([{"mean_iou": 0.9}])
    with pytest.raises(ValueError, match="results must be a list of folders of `hmba evaluate`"):
        read_runs(run)
    with pytest.raises(ValueError, match="results must be of one run for each split"):
        read_runs([run, run])
