import json
import os
import shutil

import pytest

from hmba_hf import files
from hmba_hf.files import explained_write_errors, write_json, written_whole
from hmba_hf.training.checkpoints import (
    SEAL,
    break_seal,
    checkpoint_to_resume,
    last_whole_checkpoint,
    read_recipe,
    rotate_checkpoints,
    seal_checkpoint,
)

RECIPE = {"learning_rate": 1e-3, "dataset_name": ["micro-world"]}


def checkpoint(run, steps, recipe=RECIPE):
    """A sealed checkpoint of two files, one of them in a folder."""
    folder = run / f"checkpoint-{steps}"
    (folder / "shards").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "shards" / "optimizer").write_bytes(b"moments")
    seal_checkpoint(folder, recipe)
    return folder


def test_the_last_whole_checkpoint_is_that_of_the_most_steps(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None and last_whole_checkpoint(tmp_path / "nowhere") is None
    folders = [checkpoint(tmp_path, steps) for steps in (9, 100, 20)]
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole_checkpoint(tmp_path) == folders[1]


@pytest.mark.parametrize("harm", ["unsealed", "half deleted", "cut off", "grown", "torn seal", "odd seal"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path, harm):
    whole, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    optimizer = newer / "shards" / "optimizer"
    if harm == "unsealed":
        break_seal(newer)
    elif harm.endswith("seal"):
        (newer / SEAL).write_text('{"recipe": {}' + ', "files": []}' * (harm == "odd seal"))
    elif harm == "half deleted":
        optimizer.unlink()
    else:
        optimizer.write_bytes(b"mom" if harm == "cut off" else b"moments and more")
    assert read_recipe(newer) is None and read_recipe(whole) == RECIPE
    assert checkpoint_to_resume(tmp_path, RECIPE) == whole
    with pytest.raises(ValueError, match="must be a whole checkpoint, got .*checkpoint-4"):
        checkpoint_to_resume(tmp_path, RECIPE, str(newer))


@pytest.mark.parametrize("other", ["checkpoint-is-incomplete.txt", "monitor.lock", "shards/.nfs0001"])
def test_a_seal_covers_what_a_save_has_written_and_no_mark_of_others(tmp_path, other):
    folder = tmp_path / "checkpoint-2"
    (folder / "shards").mkdir(parents=True)
    (folder / other).write_text("in progress")
    (folder / "optimizer").write_text("of an earlier try")
    before = break_seal(folder)
    for name in ("model.safetensors", "optimizer", "shards/.metadata"):
        (folder / name).write_text("written in this try")
    seal_checkpoint(folder, RECIPE, before)
    (folder / other).unlink()
    assert last_whole_checkpoint(tmp_path) == folder
    (folder / "shards" / ".metadata").unlink()
    assert last_whole_checkpoint(tmp_path) is None


def test_a_checkpoint_that_version_0_1_took_on_sigterm_counts_without_the_mark_in_its_seal(tmp_path):
    folder = checkpoint(tmp_path, 2)
    seal = json.loads((folder / SEAL).read_text())
    seal["files"]["checkpoint-is-incomplete.txt"] = 44
    write_json(folder / SEAL, seal)
    assert last_whole_checkpoint(tmp_path) == folder


def names(run):
    return sorted(path.name for path in run.iterdir())


def test_older_checkpoints_are_deleted_only_when_the_newer_one_is_whole(tmp_path):
    checkpoint(tmp_path, 2)
    newest = checkpoint(tmp_path, 4)
    (newest / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="checkpoint-4 lacks files .*: older checkpoints stay"):
        rotate_checkpoints(tmp_path, 1, newest)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


def test_what_is_not_whole_is_deleted_first_and_never_in_the_place_of_what_is(tmp_path):
    folders = {steps: checkpoint(tmp_path, steps) for steps in (2, 10, 4, 6)}
    break_seal(folders[10])  # left by a kill, before the run went on from an earlier one
    for time, steps in enumerate((2, 4, 6)):
        os.utime(folders[steps] / SEAL, (time + 1, time + 1))
    for limit in (None, 0, 4):
        rotate_checkpoints(tmp_path, limit, folders[6])
        assert len(names(tmp_path)) == 4
    rotate_checkpoints(tmp_path, 3, folders[6])
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    rotate_checkpoints(tmp_path, 1, folders[6], best=str(folders[2]))
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6"]
    rotate_checkpoints(tmp_path, 1, folders[6])
    assert names(tmp_path) == ["checkpoint-6"]


def test_a_folder_of_another_recipe_is_refused_with_what_differs(tmp_path):
    folder = checkpoint(tmp_path, 2)
    other = {**RECIPE, "learning_rate": 2e-3}
    message = r"holds checkpoints of another recipe: learning_rate must be 0.002, got 0.001\. Name another"
    with pytest.raises(ValueError, match=message):
        checkpoint_to_resume(tmp_path, other)
    assert checkpoint_to_resume(tmp_path, RECIPE) == folder
    assert checkpoint_to_resume(tmp_path / "elsewhere", other) is None


def test_a_checkpoint_that_is_asked_for_may_be_of_another_recipe(tmp_path, capsys):
    folder = checkpoint(tmp_path, 2)
    assert checkpoint_to_resume(tmp_path, {**RECIPE, "max_steps": 9}, str(folder)) == folder
    assert "max_steps must be 9, got None" in capsys.readouterr().out


def test_a_run_that_began_elsewhere_goes_on_from_its_own_checkpoints(tmp_path):
    start = checkpoint(tmp_path / "elsewhere", 2)
    run = tmp_path / "run"
    assert checkpoint_to_resume(run, RECIPE, str(start)) == start
    first = checkpoint(run, 4)
    assert checkpoint_to_resume(run, RECIPE, str(start)) == first
    assert checkpoint_to_resume(run, {**RECIPE, "newer_option": None}, str(start)) == first
    second = checkpoint(run, 6)
    assert checkpoint_to_resume(run, RECIPE, str(first)) == first, "back, as it is asked for"
    shutil.rmtree(first)
    assert checkpoint_to_resume(run, RECIPE, str(first)) == second, "which has taken its place"


def test_an_error_that_no_disk_makes_stays_what_it_is(tmp_path):
    for error in (RuntimeError("CUDA error: an assert"), ConnectionError("no route to the Hub")):
        with (
            pytest.raises(type(error), match=str(error)) as raised,
            explained_write_errors(tmp_path / "model", "safe"),
        ):
            raise error
        assert raised.value is error
    with pytest.raises(OSError, match="could not be written"), explained_write_errors(tmp_path / "model", "safe"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "history.json"
    write_json(path, [1])
    with pytest.raises(KeyError), written_whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: pytest.fail("not before all of it is on the disk"))
        patch.setattr(files, "flush_to_disk", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_json(path, [2])
    assert json.loads(path.read_text()) == [1] and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_says_what_is_safe(tmp_path):
    with pytest.raises(
        OSError, match=r"model could not be written, .* MiB are free: .*No space left.*\. All before it is whole"
    ):
        with explained_write_errors(tmp_path / "model", "All before it is whole"):
            raise OSError(28, "No space left on device")
