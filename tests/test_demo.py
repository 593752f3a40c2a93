import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from hmba_hf.commands import demo
from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the demo in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: demo.main([str(word) for word in words])


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", MicroWorld(MicroWorldConfig(frame_size=32), "test", 1)[0].frames)
    return tmp_path / "clip.mp4"


def test_the_demo_answers_at_once_teaches_compares_and_reports(clip, tmp_path, call, monkeypatch, capsys):
    call("--steps", 1, "--clips", 2, "--video", clip)
    printed, bars = capsys.readouterr()
    assert printed.index("First answer") < printed.index("first_answer.png") < printed.index("$ hmba finetune")
    assert "H-MBA: mIoU" in printed and "current frame only: mIoU" in printed and "worth nothing" in printed
    assert "MISSING" not in printed + bars and "{'loss'" not in printed and bars.count("\n") == 1
    folder = tmp_path / "runs" / "demo"
    assert Image.open(folder / "first_answer.png").size == Image.open(folder / "held_out_0.png").size
    report = (folder / "report.html").read_text()
    assert report.count("<img") == 5 and "worth nothing" in report

    describe = demo.describe

    def describe_all_but_one(pipe, video, *words):
        if video == str(clip):
            raise ValueError("no moment")
        return describe(pipe, video, *words)

    monkeypatch.setattr(demo, "finetune", lambda *words, **options: pytest.fail("both have learned already"))
    monkeypatch.setattr(demo, "describe", describe_all_but_one)
    call("--steps", 1, "--clips", 2, "--video", clip)
    assert "is left out of the report: no moment" in capsys.readouterr().out
    assert (folder / "report.html").read_text().count("<img") == 4


def test_a_demo_that_was_stopped_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    options = demo.finetuning_options("none", 3) | {"per_device_train_batch_size": 2, "save_steps": 1}
    monkeypatch.setattr(demo, "finetuning_options", lambda adapter, steps: options)
    moves = []

    def move(count=1):
        moves.append(count)
        if len(moves) == 3:  # the beginning, and two steps
            raise KeyboardInterrupt

    bar = SimpleNamespace(update=move, set_postfix=lambda **values: None)
    with pytest.raises(KeyboardInterrupt):
        demo.learn(tmp_path, "none", 3, bar)
    folder = tmp_path / "current_frame_only"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    kept = demo.learn(tmp_path, "none", 3, bar)
    assert moves == [0, 1, 1, 1, 1, 1] and kept.held > 0
    assert not [*folder.glob("checkpoint-*")]
    assert demo.learn(tmp_path, "none", 3, bar, kept) is kept and moves[-1] == 3
    options["seed"] = 1  # what other options have made is made anew
    demo.learn(tmp_path, "none", 3, bar)
    assert moves[-4:] == [0, 1, 1, 1]


def test_a_demo_that_is_stopped_says_that_it_goes_on(call, monkeypatch, capsys):
    def stop(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "show_all", stop)
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 130, "as shells count Ctrl-C"
    assert "stopped: the same command goes on from the last checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps", "--clips"])
def test_a_demo_has_steps_and_clips(option, call, monkeypatch, capsys):
    monkeypatch.setattr(demo, "show_all", lambda *words: pytest.fail("nothing must be done"))
    with pytest.raises(SystemExit):
        call(option, 0)
    assert f"error: {option} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["typo.mp4", "pyproject.toml"])
def test_the_demo_refuses_what_is_no_video_before_any_work(name, call, monkeypatch, capsys):
    monkeypatch.setattr(demo, "show_all", lambda *words: pytest.fail("nothing must be done"))
    with pytest.raises(SystemExit):
        call("--video", ROOT / name)
    assert "error: --video: " in capsys.readouterr().err


def test_the_shipped_tuned_model_is_small_and_finds_the_risk_more_often_than_chance():
    assert (demo.TUNED / "model.safetensors").stat().st_size <= 2_000_000
    assert not [*demo.TUNED.glob("*.py")]
    held_out = MicroWorld(MicroWorldConfig(), "test", 40)[:]
    scores = demo.ask(demo.TUNED, held_out, SimpleNamespace(update=lambda: None))
    assert scores["right road user"] > 0.6  # one in four by chance
    assert scores["without a box"] == 0


def test_the_card_of_the_shipped_tuned_model_is_what_its_training_writes():
    card = runpy.run_path(str(ROOT / "examples" / "train_micro_tuned.py"))["CARD"]
    shipped = (demo.TUNED / "README.md").read_text()
    written = {
        "parameters": r"([\d,]+) parameters",
        "steps": r"in (\d+) steps",
        "clips": r"on (\d+) held-out",
    }
    numbers = {name: int(re.search(pattern, shipped)[1].replace(",", "")) for name, pattern in written.items()}
    scores = [float(text) for text in re.findall(r"\d\.\d{3}", shipped)]
    numbers |= dict(zip(("mean_iou", "accuracy", "picked"), scores, strict=True))
    assert card.format(**numbers) == shipped
