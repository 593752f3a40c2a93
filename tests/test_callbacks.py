import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training.callbacks import ExactResume, SignalledStop
from hmba_hf.training.checkpoints import last_whole_checkpoint
from tiny_bases import tune

STOPPABLE = ["--enable_jit_checkpoint", "True", "--learns", "adapter", "lora", "--lora_dropout", 0.1]
QUICK = ["--max_eval_samples", 2, "--max_new_tokens", 2]


def signalled_at(step, monkeypatch):
    """Let SIGTERM come in the middle of one step; return the steps at which it has come."""
    train, come = AdapterTrainer.training_step, []

    def train_and_signal(self, *args, **kwargs):
        if self.state.global_step == step - 1 and not come:
            come.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "training_step", train_and_signal)
    return come


def history(folder):
    record = json.loads((folder / "history.json").read_text())
    return record["loss"], record["metrics"]


def assert_same_result(folder, wanted):
    assert history(folder) == history(wanted)
    found, expected = (load_file(path / "adapter_model.safetensors") for path in (folder, wanted))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (3, ["--max_steps", 6, "--save_steps", 2, "--save_total_limit", 1, "--gradient_accumulation_steps", 2]),
        (3, ["--num_train_epochs", 2, "--save_strategy", "epoch", "--eval_strategy", "epoch", *QUICK]),
        (7, ["--max_steps", 9, "--save_strategy", "no", "--train_sampling_strategy", "group_by_length"]),
    ],
    ids=["steps", "epochs", "grouped"],
)
def test_a_run_that_sigterm_stops_goes_on_and_ends_as_if_it_had_not_been(
    stored_model, tmp_path, monkeypatch, capsys, step, words
):
    words = [*words, *STOPPABLE]
    tune(stored_model, tmp_path / "whole", *words)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        assert signalled_at(step, patch) == []
        stopped = tune(stored_model, tmp_path / "out", *words)
    assert stopped.has_stopped and stopped.state.global_step == step
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"checkpoint-{step}"], (
        "nothing that looks finished"
    )
    assert "stopped by SIGTERM" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = tune(stored_model, tmp_path / "out", *words)
    assert f"resuming from {tmp_path / 'out' / f'checkpoint-{step}'}" in capsys.readouterr().out
    assert not resumed.has_stopped
    assert_same_result(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_of_a_loader_outlive_the_signal_that_stops_their_run(
    stored_model, tmp_path, monkeypatch, streaming, request
):
    encode = SampleCollator.encode

    def signal_all(self, sample):
        if get_worker_info() is not None:
            for process in (os.getpid(), os.getppid()):  # as clusters do
                os.kill(process, signal.SIGTERM)
        return encode(self, sample)

    monkeypatch.setattr(SampleCollator, "encode", signal_all)
    words = ["--max_steps", 4, "--dataloader_num_workers", 1, *STOPPABLE]
    if streaming:
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)
        words += ["--streaming", "True", "--dataset_name", request.getfixturevalue("few_rows")]
    trainer = tune(stored_model, tmp_path / "out", *words)
    assert trainer.has_stopped
    step = trainer.state.global_step
    assert last_whole_checkpoint(tmp_path / "out") == tmp_path / "out" / f"checkpoint-{step}"


def test_a_run_ends_although_an_error_keeps_a_worker_that_outlives_the_signal():
    """Python sends SIGTERM to the worker, which an uncaught error holds, and waits for it."""
    script = """
from torch.utils.data import DataLoader
from hmba_hf.training.callbacks import spared_by_signals

batches = iter(DataLoader(range(100), num_workers=1, worker_init_fn=spared_by_signals(None)))
next(batches)
raise ValueError("a mistake")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ValueError: a mistake")


@pytest.fixture
def few_rows(tmp_path):
    from hmba_hf.data.micro_world.parquet import write_drama
    from hmba_hf.data.micro_world.world import MicroWorldConfig

    write_drama(tmp_path / "drama", MicroWorldConfig(frame_size=32), {"train": 4})
    return tmp_path / "drama"


def test_sigterm_ends_a_process_as_ever_outside_of_a_training(stored_model, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(AdapterTrainer, "training_step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(stored_model, tmp_path / "out", "--max_steps", 1, *STOPPABLE)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_training_that_no_signal_can_reach_is_refused_by_the_option_that_waits_for_one():
    stop = SignalledStop(Told)

    def train():
        with pytest.raises(ValueError, match="enable_jit_checkpoint must be false outside of the main thread"):
            with stop.listening():
                raise AssertionError("it listens")
        told.append(True)

    told = []
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert told and not stop.has_stopped


class Told:
    """One of two processes, of which this or the other one has been told to stop."""

    def __init__(self, other=False):
        self.is_set = other

    def set_trigger(self):
        self.is_set = True

    def check_trigger(self):
        was_set, self.is_set = self.is_set, False
        return was_set


def test_all_processes_stop_after_the_step_in_which_one_is_told_to():
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    for accelerator, is_told in ((Told(), True), (Told(other=True), False)):
        stop = SignalledStop(lambda accelerator=accelerator: accelerator)
        with stop.listening():
            stop.on_step_end(None, None, control)
            assert control.should_save == accelerator.is_set or not is_told
            if is_told:
                os.kill(os.getpid(), signal.SIGTERM)
                stop.on_step_end(None, None, control)
            assert control.should_save and not control.should_training_stop, "not before the checkpoint is there"
            stop.on_save(None, None, control)
        assert control.should_training_stop and stop.has_stopped
        control.should_save = False
        control.should_training_stop = False


def test_a_checkpoint_that_only_the_best_step_would_make_is_made_for_a_signal(stored_model, tmp_path, monkeypatch):
    scores = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    monkeypatch.setattr("hmba_hf.tasks.answering.run.answer_metrics", lambda *args: {"mean_iou": next(scores)})
    words = ["--max_steps", 6, "--save_strategy", "best", "--eval_strategy", "steps", "--eval_steps", 2, *QUICK]
    words += ["--metric_for_best_model", "mean_iou", *STOPPABLE]
    signalled_at(4, monkeypatch)
    tune(stored_model, tmp_path / "out", *words)
    assert last_whole_checkpoint(tmp_path / "out").name == "checkpoint-4"


def signalled_in_the_evaluation(monkeypatch, kind):
    """Let SIGTERM come twice at the start of the first evaluation, in its losses or in its answers; note it."""
    come = []
    own = getattr(AdapterTrainer, kind)

    def signal_and_go_on(self, *args, **kwargs):
        if not come:
            come.append(self.state.global_step)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, kind, signal_and_go_on)
    return come


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("training_step", ["--max_steps", 4, "--eval_strategy", "steps", "--eval_steps", 1, "--save_steps", 3]),
        ("predict_together", ["--num_train_epochs", 2, "--eval_strategy", "epoch", "--save_strategy", "epoch"]),
        (
            "predict_together",
            ["--max_steps", 3, "--eval_strategy", "steps", "--eval_steps", 3, "--save_strategy", "no"],
        ),
        (
            "prediction_step",
            ["--max_steps", 4, "--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "best"],
        ),
    ],
    ids=["first step", "answers at the end of an epoch", "answers after the last step", "best"],
)
def test_a_signal_saves_before_the_evaluation_that_the_next_run_makes_up_for(
    stored_model, tmp_path, monkeypatch, moment, words
):
    words = [*words, *QUICK, *STOPPABLE]
    if "best" in words:
        words += ["--metric_for_best_model", "loss", "--load_best_model_at_end", "True"]
    tune(stored_model, tmp_path / "whole", *words)
    evaluated = []
    with monkeypatch.context() as patch:
        come = signalled_in_the_evaluation(patch, moment)
        patch.setattr(ExactResume, "on_evaluate", lambda *args, **kwargs: evaluated.append(1), raising=False)
        stopped = tune(stored_model, tmp_path / "out", *words)
    assert stopped.has_stopped and not evaluated, "no evaluation comes before the checkpoint"
    step = come[0] + (moment == "training_step")
    assert last_whole_checkpoint(tmp_path / "out").name == f"checkpoint-{step}" and stopped.state.global_step == step
    resumed = tune(stored_model, tmp_path / "out", *words)
    assert not resumed.has_stopped
    assert_same_result(tmp_path / "out", tmp_path / "whole")


def test_a_signal_that_comes_while_a_checkpoint_is_saved_makes_it_the_last_one(stored_model, tmp_path, monkeypatch):
    save = AdapterTrainer.save_model

    def signal_and_save(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "save_model", signal_and_save)
    trainer = tune(stored_model, tmp_path / "out", "--max_steps", 5, "--save_steps", 2, *STOPPABLE)
    assert trainer.has_stopped and trainer.state.global_step == 2


def test_a_signal_before_the_first_step_ends_a_run_that_has_nothing_to_save(
    stored_model, tmp_path, monkeypatch, capsys
):
    signalled_in_the_evaluation(monkeypatch, "prediction_step")
    words = ["--max_steps", 2, "--eval_strategy", "steps", "--eval_on_start", "True", *QUICK, *STOPPABLE]
    assert tune(stored_model, tmp_path / "out", *words).has_stopped
    assert "stopped by SIGTERM: the same command starts from the beginning" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*"))
