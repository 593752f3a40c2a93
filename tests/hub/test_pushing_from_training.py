"""Training ends on the Hub, and pushes while it goes on: where `push_checkpoint` does, and without losing anything."""

import json

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForImageTextToText

from hmba_hf.data.micro_world.parquet import write_drama
from hmba_hf.data.micro_world.world import MicroWorldConfig
from hmba_hf.data.preparing.publishing import PushOptions, push_folder
from hmba_hf.hub import push_checkpoint
from hmba_hf.models.decoding_video import VideoDecodeError
from tiny_bases import tune
from tiny_models import assert_equal_weights
from tiny_runs import evaluate, run_example


@pytest.fixture
def pushed_base(hub, parts):
    push_checkpoint(*parts, "org/base")
    return "org/base"


PUSH = ["--push_to_hub", "True", "--hub_model_id", "org/tuned", "--eval_split", "test", "--max_new_tokens", "3"]


def test_training_pushes_where_push_checkpoint_does(hub, pushed_base, tmp_path):
    trainer = tune(
        pushed_base, tmp_path / "out", *PUSH, "--max_steps", 2, "--hub_license", "mit", "--hub_strategy", "end"
    )
    repository = hub.repository("org/tuned")
    assert repository.private and repository.titles() == ["Pin the revision", "Model save", "initial commit"]
    files = repository.files()
    assert "training_args.bin" not in files and (tmp_path / "out" / "training_args.bin").exists()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads(files["training_arguments.json"])["max_steps"] == 2 and "example.png" in files
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("mit", ["org/base"])
    assert "| `max_steps` | 2 |" in card.text and "torch 2" in card.text and "micro-world" in card.data.tags
    assert card.data.eval_results is None
    assert_equal_weights(trainer.model, AutoModelForImageTextToText.from_pretrained("org/tuned"))
    trainer.create_model_card(license="apache-2.0")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "apache-2.0"


def test_training_pushes_its_checkpoints_while_it_goes_on(hub, pushed_base, tmp_path):
    words = ["--max_steps", 4, "--save_steps", 2, "--hub_strategy", "every_save", "--hub_always_push", "True"]
    trainer = tune(pushed_base, tmp_path / "out", *PUSH, *words)
    repository = hub.repository("org/tuned")
    steps = [f"Training in progress, step {step}" for step in (4, 2)]
    assert repository.titles() == ["Pin the revision", "Model save", *steps, "initial commit"]
    for commit in repository.log():
        assert not [name for name in commit.files if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert not list((tmp_path / "out").glob("_pushing-*"))
    assert_equal_weights(trainer.model, AutoModelForImageTextToText.from_pretrained("org/tuned"))


def test_a_push_that_fails_during_training_ends_nothing(hub, pushed_base, tmp_path):
    words = ["--max_steps", 2, "--save_steps", 1, "--hub_strategy", "every_save", "--hub_always_push", "True"]
    hub.faults.fail("commit", 403)
    with pytest.warns(UserWarning, match="a push during training failed: .*403"):
        tune(pushed_base, tmp_path / "out", *PUSH, *words)
    assert hub.repository("org/tuned").titles()[:2] == ["Pin the revision", "Model save"]


@pytest.mark.parametrize("learns", ["adapter", "lora"])
def test_results_come_onto_the_card_of_a_tuned_model_and_what_it_told_stays(hub, pushed_base, tmp_path, learns):
    tune(pushed_base, tmp_path / "out", *PUSH, "--learns", learns, "--max_steps", 1)
    before = hub.repository("org/tuned").files()
    run = evaluate(tmp_path / "out", tmp_path / "run")
    for model, results in (
        (tmp_path / "out", ["--results", run]),
        ("org/tuned", []),
        ("org/tuned", ["--results", run]),
    ):
        run_example("push.py", "--model", model, "--repo_id", "org/tuned", *results)
        files = hub.repository("org/tuned").files()
        card = ModelCard(files["README.md"].decode())
        assert card.data.base_model == ["org/base"] and "| `max_steps` | 1 |" in card.text
        assert json.loads(files["training_arguments.json"]) == json.loads(before["training_arguments.json"])
        assert bool(card.data.eval_results) == bool(results)
    weights = [name for name in before if name.endswith(".safetensors")]
    assert len(weights) == 1 and files[weights[0]] == before[weights[0]]


@pytest.mark.parametrize("learns", ["adapter", "lora"])
def test_answers_are_of_the_revision_that_is_asked_for(hub, pushed_base, tmp_path, learns):
    def answered_by(model, folder, *words):
        return json.loads((evaluate(model, tmp_path / folder, *words) / "recipe.json").read_text())["weights"]

    for number in (1, 2):
        words = ["--learns", learns, "--max_steps", 1, "--warmup_steps", 0, "--learning_rate", number / 100]
        tune(pushed_base, tmp_path / str(number), *PUSH, *words)
        HfApi().create_tag("org/tuned", tag=f"v{number}")
    first = answered_by("org/tuned", "first", "--model_revision", "v1")
    assert first == answered_by(tmp_path / "1", "here")
    assert first != answered_by("org/tuned", "second", "--model_revision", "v2") == answered_by("org/tuned", "last")
    with pytest.raises(ValueError, match="revision='v1' needs a Hub repository; '.*' is a local folder"):
        answered_by(tmp_path / "1", "none", "--model_revision", "v1")
    with pytest.raises(ValueError, match="revision='v1' needs a Hub repository; '.*' is a local folder"):
        tune(tmp_path / "1", tmp_path / "none", "--model_revision", "v1")


def test_a_push_that_fails_in_the_end_loses_neither_the_model_nor_its_history(hub, pushed_base, tmp_path, monkeypatch):
    def broken(*arguments):
        raise VideoDecodeError("the clip is damaged")

    monkeypatch.setattr("hmba_hf.tasks.answering.run.first_held_out", broken)
    hub.faults.fail("commit", 403)
    with pytest.raises(HfHubHTTPError, match="403"):
        tune(pushed_base, tmp_path / "out", *PUSH, "--max_steps", 1, "--save_strategy", "no")
    assert len(json.loads((tmp_path / "out" / "history.json").read_text())["loss"]) == 1
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out")


def test_a_base_and_a_dataset_are_taken_at_the_revisions_that_are_asked_for(hub, parts, pushed_base, tmp_path):
    old = hub.repository("org/base").head
    with torch.no_grad():
        parts[0].lm_head.weight.mul_(2)
    push_checkpoint(*parts, "org/base")
    HfApi().create_tag("org/base", tag="v1", revision=old)
    write_drama(tmp_path / "drama", MicroWorldConfig(seed=3, frame_size=32), {"train": 4})
    push_folder(tmp_path / "drama", PushOptions("org/drama"))
    HfApi().create_tag("org/drama", tag="v1", repo_type="dataset")
    write_drama(tmp_path / "drama", MicroWorldConfig(seed=4, frame_size=32), {"train": 4})
    push_folder(tmp_path / "drama", PushOptions("org/drama"))
    losses = {}
    for revision, model in (("@v1", "v1"), ("@v1", "main"), ("", "v1")):
        words = ["--dataset_name", f"org/drama{revision}", "--model_revision", model, "--max_steps", 1]
        trainer = tune("org/base", tmp_path / f"out-{revision}-{model}", *PUSH, *words)
        losses[revision, model] = trainer.state.log_history[0]["loss"]
    assert len({*losses.values()}) == 3, "another base or other clips"
    card = ModelCard(hub.repository("org/tuned").files()["README.md"].decode())
    assert card.data.datasets == ["org/drama"]


def test_low_rank_updates_are_pushed_by_training_with_the_commit_of_their_base(hub, pushed_base, tmp_path):
    base = hub.repository("org/base").head
    tune(pushed_base, tmp_path / "out", *PUSH, "--learns", "adapter", "lora", "--lora_rank", 2, "--max_steps", 1)
    files = hub.repository("org/tuned").files()
    assert json.loads(files["adapter_config.json"])["revision"] == base
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", ["org/base"])
    assert base in card.text and "processor_config.json" in files and "model.safetensors" not in files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hub_token", "hf_x"], "never one among the arguments"),
        (["--hub_strategy", "checkpoint"], "must be 'end' or 'every_save', .* pickled, got 'checkpoint'"),
        (["--learns", "lora"], "must belong to a base on the Hub, got .*push the base first"),
    ],
)
def test_a_push_that_must_fail_fails_before_training(hub, stored_model, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        tune(stored_model, tmp_path / "out", *PUSH, *words, "--max_steps", 1)
    assert not hub.repositories and not list(tmp_path.glob("out/*.safetensors"))


def test_training_does_not_push_to_a_public_repository_unasked(hub, stored_model, tmp_path):
    hub.create("org/tuned")
    with pytest.raises(ValueError, match="org/tuned is public"):
        tune(stored_model, tmp_path / "out", *PUSH, "--max_steps", 1)
    tune(stored_model, tmp_path / "out", *PUSH, "--max_steps", 1, "--hub_private_repo", "False")
    assert "model.safetensors" in hub.repository("org/tuned").files()


def test_a_trainer_pushes_by_hand_as_the_arguments_say(hub, pushed_base, tmp_path):
    trainer = tune(pushed_base, tmp_path / "mine", "--max_steps", 1, "--hub_model_id", "org/mine")
    with pytest.raises(ValueError, match="never one among the arguments"):
        trainer.push_to_hub(token="mine")
    with pytest.raises(ValueError, match="never one among the arguments"):
        trainer.init_hf_repo(token="mine", private=True)
    trainer.push_to_hub("By hand", blocking=False, private=False, license="mit").result()
    repository = hub.repository("org/mine")
    assert not repository.private and repository.titles() == ["Pin the revision", "By hand", "initial commit"]
    HfApi().create_branch("org/mine", branch="night")
    trainer.push_to_hub("At night", revision="night", tags="night")
    assert repository.titles()[:2] == ["Pin the revision", "By hand"], "the branch alone has changed"
    assert "night" in ModelCard.load(hf_hub_download("org/mine", "README.md", revision="night")).data.tags
