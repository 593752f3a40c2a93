import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hmba_hf import HMBAForConditionalGeneration, HMBAProcessor, HMBAVideoProcessor
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Sample
from hmba_hf.digests import fingerprint
from hmba_hf.evaluation import predicting, prediction_files, splits
from hmba_hf.evaluation.prediction_files import PredictionFolder
from hmba_hf.evaluation.recipes import dataset_revision, settings
from hmba_hf.evaluation.splits import Splits
from hmba_hf.families import load_model
from hmba_hf.tasks.answering.generation import answer_samples
from hmba_hf.tasks.answering.prediction import PredictionArguments, predict
from tiny_models import open_gate, tiny_model, tiny_tower
from tiny_processors import tiny_tokenizer

COUNT = 7  # batches of 2, 2, 2 and 1


def save_model(folder, seed):
    torch.manual_seed(seed)
    model = open_gate(tiny_model(vision_config=tiny_tower(image_size=32, patch_size=16)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and any(part in name for part in ("language_model", "projector", "lm_head")):
                weight.mul_(20)  # answers depend on the clip
    model.save_pretrained(folder)
    video_processor = HMBAVideoProcessor(size={"height": 32, "width": 32})
    HMBAProcessor(video_processor, tiny_tokenizer(), patch_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("checkpoint"), 4)


@pytest.fixture(scope="module")
def arguments(checkpoint):
    """Arguments for a folder; `changes` override single values."""

    def build(folder, **changes):
        fields = {"model": str(checkpoint), "max_samples": COUNT, "batch_size": 2, "max_new_tokens": 6}
        return PredictionArguments(**{**fields, "device_map": "cpu", "output_dir": str(folder), **changes})

    return build


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    """The file that a run leaves which nothing disturbs."""
    return predict(arguments(tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture
def answered(monkeypatch):
    """The batches that are answered during the test."""
    batches = []

    def note(model, samples, share, **options):
        batches.extend(list(batch) for batch in share)
        return predict_batches(model, samples, share, **options)

    predict_batches = predicting.predict_batches
    monkeypatch.setattr(predicting, "predict_batches", note)
    return batches


def started(folder, undisturbed, lines, name="predictions-one.jsonl"):
    """A folder in which a run of the same recipe was killed after some lines of the undisturbed one, in another."""
    whole = undisturbed.read_text().splitlines()
    folder.mkdir()
    (folder / "recipe.json").write_bytes((undisturbed.parent / "recipe.json").read_bytes())
    text = "".join(whole[index] + "\n" for index in lines)
    (folder / name).write_text(text + whole[-1][: len(whole[-1]) // 2])
    return folder


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_sample_has_one_answer_in_the_order_of_the_dataset(undisturbed, checkpoint):
    records = [json.loads(line) for line in undisturbed.read_text().splitlines()]
    world = MicroWorld(MicroWorldConfig(frame_size=32), "test", COUNT)
    assert [record["index"] for record in records] == list(range(COUNT))
    assert [record["id"] for record in records] == [sample.id for sample in world]
    assert [record["reference"] for record in records] == [sample.answer for sample in world]
    assert files_of(undisturbed.parent) == ["predictions.jsonl", "recipe.json"]
    model = HMBAForConditionalGeneration.from_pretrained(checkpoint)
    processor = HMBAProcessor.from_pretrained(checkpoint)
    answers = answer_samples(model, processor, world, batch_size=2, max_new_tokens=6)
    assert [record["answer"] for record in records] == answers and len(set(answers)) > 2


def test_a_record_of_the_micro_world_names_its_motion_its_risk_and_the_others(undisturbed):
    world = MicroWorld(MicroWorldConfig(frame_size=32), "test", COUNT)
    record, scene = json.loads(undisturbed.read_text().splitlines()[3]), world.scene(3)
    assert record["tags"] == ["motion: symmetric", f"risk: {scene.users[scene.risk].kind}"]
    assert record["boxes"] == [list(scene.boxes[scene.risk])] and record["size"] == [32, 32]
    assert len(record["others"]) == 3 and record["boxes"][0] not in record["others"]
    assert record["error"] is None and record["split"] == "test" and record["question"] == world[3].question


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ([], [[0, 1], [2, 3], [4, 5], [6]]),
        ([2, 3], [[0, 1], [4, 5], [6]]),
        ([0, 1, 2, 5, 4], [[2, 3], [6]]),
        ([0, 1, 0, 1, 2, 3], [[4, 5], [6]]),
        (range(6), [[6]]),
    ],
)
def test_what_is_there_is_kept_and_batches_that_are_not_whole_are_answered_again(
    arguments, undisturbed, answered, tmp_path, lines, missing
):
    folder = started(tmp_path / "out", undisturbed, lines)
    assert predict(arguments(folder)).read_bytes() == undisturbed.read_bytes()
    assert answered == missing
    assert files_of(folder) == ["predictions.jsonl", "recipe.json"]


def test_an_unfinished_folder_of_version_0_1_is_finished(arguments, undisturbed, answered, tmp_path):
    folder = started(tmp_path / "out", undisturbed, [0, 1, 4, 5], name="answers-one.jsonl")
    assert predict(arguments(folder)).read_bytes() == undisturbed.read_bytes()
    assert answered == [[2, 3], [6]]
    assert files_of(folder) == ["predictions.jsonl", "recipe.json"]


def test_a_finished_folder_is_left_as_it_is(arguments, undisturbed, answered):
    before = undisturbed.read_bytes()
    assert predict(arguments(undisturbed.parent)).read_bytes() == before and answered == []


def test_a_run_that_was_killed_while_it_merged_ends_like_any_other(arguments, undisturbed, answered, tmp_path):
    folder = started(tmp_path / "out", undisturbed, range(COUNT))
    (folder / "_predictions.jsonl.123").write_text("half a file")
    assert predict(arguments(folder)).read_bytes() == undisturbed.read_bytes()
    (folder / "predictions-left.jsonl").write_text(undisturbed.read_text().splitlines()[0] + "\n")
    assert predict(arguments(folder)).read_bytes() == undisturbed.read_bytes()
    assert files_of(folder) == ["predictions.jsonl", "recipe.json"] and answered == []


def pretend_processes(monkeypatch, index, count):
    """This process as number `index` of `count`, whose others never keep it waiting."""
    state = SimpleNamespace(
        process_index=index,
        num_processes=count,
        is_main_process=index == 0,
        wait_for_everyone=lambda: None,
        device=torch.device("cpu"),
    )
    monkeypatch.setattr(predicting, "PartialState", lambda cpu, timeout: state)


def test_processes_share_what_is_missing_and_their_number_may_change(
    arguments, undisturbed, tmp_path, monkeypatch, answered
):
    folder = tmp_path / "out"
    PredictionFolder(folder).claim(json.loads((undisturbed.parent / "recipe.json").read_text()))
    pretend_processes(monkeypatch, 1, 3)
    predict(arguments(folder))
    assert answered == [[2, 3]], "the second of three takes every third batch"
    pretend_processes(monkeypatch, 1, 2)
    predict(arguments(folder))
    assert answered == [[2, 3], [4, 5]], "of three batches that are left the second of two takes one"
    pretend_processes(monkeypatch, 0, 1)
    assert predict(arguments(folder)).read_bytes() == undisturbed.read_bytes()
    assert answered[2:] == [[0, 1], [6]]


def test_nothing_is_merged_while_a_sample_is_missing(tmp_path, undisturbed):
    folder = PredictionFolder(started(tmp_path / "out", undisturbed, [0, 1, 3]))
    with pytest.raises(RuntimeError, match=r"one record for each of 4 samples, got none for \[2\]"):
        folder.merge(4)
    assert (tmp_path / "out" / "predictions-one.jsonl").exists()


def test_of_two_answers_the_one_that_the_whole_batch_was_there_for_counts(tmp_path):
    def given(index, answer, error=None):
        return {"index": index, "answer": answer, "error": error}

    for is_merged in (True, False):
        folder = tmp_path / str(is_merged)
        for number in range(8):  # the names of files are drawn
            alone, whole = (PredictionFolder(folder / str(number)) for _ in range(2))
            alone.claim({})
            alone.append([given(0, "alone"), given(1, None, "damaged")])
            if is_merged:
                alone.merge(2)
            whole.append([given(0, "with 1"), given(1, "with 0")])
            assert [record["answer"] for record in whole.read().values()] == ["with 1", "with 0"]
            assert whole.merge(2).read_text().count("with") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch_size must be 3, got 2"),
        ({"max_new_tokens": 5}, "max_new_tokens must be 5, got 6"),
        ({"motion": "order"}, "motion must be 'order', got 'symmetric'"),
        ({"max_samples": 5}, "max_samples must be 5, got 7, num_samples must be 5, got 7"),
        ({"split": ["validation"]}, r"split must be \['validation'\], got \['test'\]"),
    ],
)
def test_a_folder_of_another_recipe_is_refused_and_nothing_in_it_lost(arguments, undisturbed, changes, message):
    before = undisturbed.read_bytes()
    with pytest.raises(ValueError, match=f"holds predictions of another recipe: {message}; choose another output_dir"):
        predict(arguments(undisturbed.parent, **changes))
    assert undisturbed.read_bytes() == before


def test_an_answer_has_a_token_at_least(arguments, tmp_path):
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        arguments(tmp_path, max_new_tokens=0)


def test_other_weights_in_the_same_place_are_another_recipe(arguments, undisturbed, tmp_path):
    folder = started(tmp_path / "out", undisturbed, range(6))
    other = save_model(tmp_path / "other", 3)
    with pytest.raises(ValueError, match="of another recipe: model must be .*, weights must be '"):
        predict(arguments(folder, model=str(other)))
    predictions = predict(arguments(folder, model=str(other), overwrite=True))
    assert predictions.read_bytes() == predict(arguments(tmp_path / "new", model=str(other))).read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("processor_config.json", lambda content: content["video_processor"].update(fps=8.0), "processor"),
        ("generation_config.json", lambda content: content.update(repetition_penalty=3.0), "generation_config"),
        ("config.json", lambda content: content.update(video_token_id=98), "config"),
    ],
)
def test_other_settings_of_the_same_weights_are_another_recipe(
    arguments, undisturbed, checkpoint, tmp_path, name, change, part
):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    recipe = json.loads((undisturbed.parent / "recipe.json").read_text())
    model, processor = (
        HMBAForConditionalGeneration.from_pretrained(other),
        HMBAProcessor.from_pretrained(other),
    )
    assert {key: recipe[key] for key in settings(model, processor)} == settings(model, processor), "wherever it is"
    content = json.loads((other / name).read_text())
    change(content)
    (other / name).write_text(json.dumps(content))
    folder = started(tmp_path / "out", undisturbed, [0, 1])
    (folder / "recipe.json").write_text(json.dumps({**recipe, "model": str(other)}))
    with pytest.raises(ValueError, match=f"of another recipe: {part} must be '.*', got '{recipe[part]}'; choose"):
        predict(arguments(folder, model=str(other)))


def test_the_vocabulary_and_the_prompt_are_settings_too(checkpoint):
    model = tiny_model()
    processor = HMBAProcessor.from_pretrained(checkpoint)
    before = settings(model, processor)
    processor.chat_template += " "
    prompted = settings(model, processor)
    processor.tokenizer.add_tokens(["another"])
    assert len({one["processor"] for one in (before, prompted, settings(model, processor))}) == 3


def test_answers_without_a_recipe_are_nobodys(arguments, undisturbed, tmp_path):
    folder = started(tmp_path / "out", undisturbed, [0, 1])
    (folder / "recipe.json").unlink()
    with pytest.raises(ValueError, match="holds predictions of another recipe: batch_size must be 2, got None"):
        predict(arguments(folder))


def test_a_dataset_that_has_changed_under_its_name_is_refused(arguments, undisturbed, tmp_path):
    folder = started(tmp_path / "out", undisturbed, [0, 1])
    answers = folder / "predictions-one.jsonl"
    answers.write_text(answers.read_text().replace("test-symmetric-0-000001", "test-symmetric-0-999999"))
    with pytest.raises(ValueError, match="the dataset has changed: sample 1 is test-symmetric-0-000001, .*-999999"):
        predict(arguments(folder))


class Broken(MicroWorld):
    """A world in whose middle one clip is a damaged video."""

    def __getitem__(self, index):
        if index == 3:
            return Sample("damaged", "Where?", "Here.", video=b"no video at all")
        return super().__getitem__(index)


def test_an_unreadable_clip_stops_the_run_or_is_skipped_and_nothing_is_lost(
    arguments, answered, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        splits, "load_samples", lambda *_, **__: Broken(MicroWorldConfig(frame_size=32), "test", COUNT)
    )
    with pytest.raises(ValueError, match=r"sample 3 \(damaged\) cannot be read, and on_error is not 'skip'"):
        predict(arguments(tmp_path))
    assert sorted(PredictionFolder(tmp_path).read()) == [0, 1]
    answered.clear()
    records = [json.loads(line) for line in predict(arguments(tmp_path, on_error="skip")).read_text().splitlines()]
    assert answered == [[2, 3], [4, 5], [6]], "the answers before the clip are kept"
    assert "skipped 1 of 7: they cannot be read" in capsys.readouterr().out
    assert [record["index"] for record in records if record["error"]] == [3]
    assert records[3]["answer"] is None and records[3]["error"].startswith("VideoDecodeError: ")
    assert records[3]["id"] == "damaged" and all(
        record["answer"] is not None for record in records if not record["error"]
    )
    with pytest.raises(ValueError, match=r"sample 3 \(damaged\) cannot be read"):
        predict(arguments(tmp_path))  # what was skipped is no answer
    monkeypatch.setattr(
        splits, "load_samples", lambda *_, **__: MicroWorld(MicroWorldConfig(frame_size=32), "test", COUNT)
    )
    answered.clear()
    mended = [json.loads(line) for line in predict(arguments(tmp_path)).read_text().splitlines()]
    assert answered == [[2, 3]], "the batch of the clip that has been mended"
    assert mended[3]["error"] is None and mended[:3] + mended[4:] == records[:3] + records[4:]
    assert files_of(tmp_path) == ["predictions.jsonl", "recipe.json"]


def test_a_full_disk_is_told_and_loses_no_answer(arguments, undisturbed, tmp_path, monkeypatch):
    written = PredictionFolder.append

    def append(self, records):
        if len(self.read()) >= 4:
            monkeypatch.setattr(prediction_files.os, "fsync", full)
        written(self, records)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PredictionFolder, "append", append)
    with pytest.raises(OSError, match=r"could not be written, .* MiB are free: .*All earlier predictions are safe"):
        predict(arguments(tmp_path))
    monkeypatch.undo()
    assert predict(arguments(tmp_path)).read_bytes() == undisturbed.read_bytes()


def test_a_dataset_of_which_nothing_can_be_read_is_an_error(arguments, tmp_path, monkeypatch):
    class Gone(MicroWorld):
        def __getitem__(self, index):
            raise OSError("no such disk")

    monkeypatch.setattr(splits, "load_samples", lambda *_, **__: Gone(size=3))
    with pytest.raises(ValueError, match="none of 3 samples could be read; the first one: OSError: no such disk"):
        predict(arguments(tmp_path, on_error="skip"))
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["test"] * 3


def test_a_model_must_be_named(arguments, tmp_path):
    with pytest.raises(ValueError, match="model must be a folder or Hub id, got None"):
        predict(arguments(tmp_path, model=None))


def test_several_splits_are_answered_one_after_the_other(arguments, tmp_path):
    config = MicroWorldConfig(frame_size=32)
    write_drama(tmp_path / "drama", config, {"test": 3, "validation": 2})
    changes = {"dataset_name": str(tmp_path / "drama"), "split": ["validation", "test"], "max_samples": None}
    lines = predict(arguments(tmp_path / "out", **changes)).read_text().splitlines()
    ids = [sample.id for split, size in (("validation", 2), ("test", 3)) for sample in MicroWorld(config, split, size)]
    records = [json.loads(line) for line in lines]
    assert [record["id"] for record in records] == ids
    assert [record["split"] for record in records] == ["validation"] * 2 + ["test"] * 3
    assert all("others" not in record and record["tags"] == [] for record in records)
    assert "motion" not in json.loads((tmp_path / "out" / "recipe.json").read_text())


def test_a_dataset_that_holds_a_sample_twice_is_refused_before_anything_is_answered(arguments, answered, tmp_path):
    write_drama(tmp_path / "drama", MicroWorldConfig(frame_size=32), {"test": 2})
    (shard,) = (tmp_path / "drama").rglob("*.parquet")
    shutil.copy(shard, shard.with_name("test-00001-of-00002.parquet"))
    shard.rename(shard.with_name("test-00000-of-00002.parquet"))
    changes = {"dataset_name": str(tmp_path / "drama"), "split": ["test"], "max_samples": None}
    message = "a sample must be once in a split, got 'test-symmetric-0-000000' of 'test' in rows 0 and 2"
    with pytest.raises(ValueError, match=message):
        predict(arguments(tmp_path / "out", **changes))
    assert answered == []
    assert len(predict(arguments(tmp_path / "first", **changes | {"max_samples": 2})).read_text().splitlines()) == 2


def test_videos_are_answered_too(arguments, tmp_path):
    write_bddx(tmp_path / "bddx", MicroWorldConfig(frame_size=32), {"test": 2})
    changes = {"dataset_name": str(tmp_path / "bddx"), "max_samples": None}
    records = [json.loads(line) for line in predict(arguments(tmp_path / "out", **changes)).read_text().splitlines()]
    assert [record["reference"].count("\n") for record in records] == [1, 1]
    assert all(record["size"] is None and record["boxes"] == [] for record in records)


def test_splits_are_one_sequence():
    world, other = MicroWorld(split="test", size=2), MicroWorld(split="train", size=3)
    splits = Splits({"test": world, "train": other})
    assert len(splits) == 5 and splits.locate(1) == (0, 1) and splits.locate(2) == (1, 0)
    assert [sample.id for sample in splits] == [sample.id for sample in [*world, *other]]
    assert [sample.id for sample in splits[1:3]] == [world[1].id, other[0].id]
    with pytest.raises(IndexError, match="from -5 to 4, got 5"):
        splits[5]


def test_models_are_told_apart_by_their_weights():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)
    assert fingerprint(first) != fingerprint(first.double()), "another precision, other answers"


def test_a_model_with_a_part_on_disk_is_the_same_model(checkpoint, tmp_path):
    whole = load_model(checkpoint)
    parts = ("vision_tower", "temporal_adapter", "multi_modal_projector", "language_model")
    places = {f"model.{name}": "disk" if name == "vision_tower" else "cpu" for name in parts} | {"lm_head": "cpu"}
    parted = load_model(checkpoint, device_map=places, offload_folder=tmp_path)
    assert any(parameter.is_meta for parameter in parted.parameters())
    assert fingerprint(parted) == fingerprint(whole)


def test_the_commit_of_a_hub_dataset_is_read_from_its_cache():
    file = {"filename": f"/cache/org___drama/default/0.0.0/{'0a' * 20}/drama-test.arrow"}
    assert dataset_revision(SimpleNamespace(rows=SimpleNamespace(cache_files=[file]))) == "0a" * 20
    local = {"filename": "/cache/parquet/default-1/0.0.0/9c46/parquet-test.arrow"}
    assert dataset_revision(SimpleNamespace(rows=SimpleNamespace(cache_files=[local]))) is None
    assert dataset_revision(MicroWorld(size=1)) is None


@pytest.mark.timeout(600)
@pytest.mark.long
def test_killed_at_random_moments_ten_times_the_result_is_that_of_an_undisturbed_run(checkpoint, tmp_path):
    command = [sys.executable, Path(__file__).parent / "killed_predictions.py", checkpoint, tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["undisturbed"].splitlines()) == 24
    assert report["ended"] == [report["undisturbed"]] * 5 and len(report["held"]) == 10
    assert len({count for count in report["held"] if 0 < count < 24}) > 1, f"kills in the middle: {report['held']}"
