"""Runs that start from a folder of low-rank updates."""

import json
import shutil

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from asked_clips import AskedClips, save_mambavl
from drawn_clips import Clips
from drawn_clips import save_base as save_classifier
from hmba_hf.families import load_model
from hmba_hf.tasks.classification import run as classification_run
from hmba_hf.tasks.classification.question_run import finetune as finetune_questions
from hmba_hf.training.updates import find_updates
from test_finetuning_mambavl import arguments as of_questions
from test_finetuning_videomamba import arguments as of_classifier
from test_retrieval_training import train_tiny
from tiny_bases import tune
from tiny_models import assert_equal_weights
from tiny_pairs import tiny_pair_processor, tiny_retrieval
from tiny_pretraining import pretrain_tiny, save_student, save_teacher

LEARNS = ["--learns", "adapter", "lora", "--lora_targets", "q_proj", "v_proj", "--lora_rank", 4]
STILL = ["--max_steps", 1, "--learning_rate", 0]


@pytest.fixture(scope="module")
def updates(stored_model, tmp_path_factory):
    """Low-rank updates that have learned for two steps."""
    folder = tmp_path_factory.mktemp("updates") / "first"
    tune(stored_model, folder, "--max_steps", 2, *LEARNS)
    return folder


@pytest.mark.parametrize("place", ["", "checkpoint-2"])
def test_a_run_goes_on_with_the_updates_that_it_starts_from(stored_model, updates, tmp_path, place, capsys):
    held = load_file(updates / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in held.items() if "lora_B" in name)
    tune(updates / place, tmp_path / "second", *STILL, *LEARNS, "--lora_dropout", 0.5)
    assert f"the low-rank updates of {updates / place} are trained further" in capsys.readouterr().out
    found = load_file(tmp_path / "second" / "adapter_model.safetensors")
    assert found.keys() == held.keys() and all(torch.equal(found[name], held[name]) for name in held)
    settings = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(stored_model) and settings["lora_dropout"] == 0.5


def test_the_updates_are_merged_where_the_language_model_learns_as_a_whole_or_not_at_all(
    stored_model, updates, tmp_path, capsys
):
    base = AutoModelForImageTextToText.from_pretrained(stored_model)
    merged = PeftModel.from_pretrained(base, updates).merge_and_unload()
    processor = AutoProcessor.from_pretrained(updates)
    processor.chat_template += "{# of the updates #}"
    renamed = shutil.copytree(updates, tmp_path / "renamed")
    processor.save_pretrained(renamed)
    for number, words in enumerate(([], ["--learns", "projector"])):
        folder = tmp_path / str(number)
        tune(renamed, folder, *STILL, *words)
        assert "are merged into their base" in capsys.readouterr().out
        assert_equal_weights(AutoModelForImageTextToText.from_pretrained(folder), merged)
        assert not (folder / "adapter_config.json").exists()
        assert AutoProcessor.from_pretrained(folder).chat_template == processor.chat_template


def test_updates_in_pickles_start_no_run(updates, tmp_path):
    pickled = shutil.copytree(updates, tmp_path / "pickled", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(pickled / "adapter_model.safetensors")
    torch.save(weights, pickled / "adapter_model.bin")
    assert find_updates(str(pickled), None).path == str(pickled)
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match="must have its low-rank updates in adapter_model.safetensors"):
        find_updates(str(pickled), None)


def changed(updates, folder, **settings):
    """A copy of the updates with other settings."""
    shutil.copytree(updates, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*LEARNS[:-1], 8], "other settings: r must be 8, got 4. Name theirs by --lora_rank,"),
        ([*LEARNS, "--lora_alpha", 1], "other settings: lora_alpha must be 1.0, got 32.0"),
        (["--learns", "projector", "lora", *LEARNS[3:]], r"modules_to_save must be \['multi"),
        ([*LEARNS, "--num_frames", 3], "base without {'num_frames': 3}: .* or merge the updates first"),
    ],
)
def test_options_that_do_not_fit_the_updates_are_refused_by_name(updates, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        tune(updates, tmp_path / "second", *STILL, *words)


def test_updates_that_a_run_cannot_start_from_say_what_to_name_or_to_merge(stored_model, updates, tmp_path):
    nameless = changed(updates, tmp_path / "nameless", base_model_name_or_path=None)
    moved = changed(updates, tmp_path / "moved", base_model_name_or_path=str(tmp_path / "nowhere"))
    scaled = tmp_path / "scaled"
    model = AutoModelForImageTextToText.from_pretrained(stored_model)
    scales = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(model, scales).save_pretrained(scaled)
    cut = changed(updates, tmp_path / "cut")
    weights = load_file(cut / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_A" in name))
    save_file(weights, cut / "adapter_model.safetensors")
    for folder, message in (
        (nameless, "must name their base, got none in .*nameless: write it as base_model_name_or_path .* or merge"),
        (moved, "updates of .*nowhere, and no such folder is there: name where it is now"),
        (scaled, r"must hold a model or low-rank updates \(LoRA\), got IA3"),
        (cut, "must hold the weights that its settings name, got others: .*lora_A"),
    ):
        for words in (LEARNS, ["--learns", "adapter"]):
            with pytest.raises(ValueError, match=message):
                tune(folder, tmp_path / "second", *STILL, *words)


def updates_of(base, folder, targets, modules_to_save=None):
    """Save random low-rank updates of a base; return their folder and the weights of the two merged."""
    torch.manual_seed(3)
    settings = {"target_modules": targets, "modules_to_save": modules_to_save, "init_lora_weights": False}
    model = get_peft_model(load_model(base), LoraConfig(r=2, **settings))
    model.save_pretrained(folder)
    return folder, model.merge_and_unload().state_dict()


def holds(model, wanted, spared=()):
    held = model.state_dict()
    return all(torch.allclose(held[name], wanted[name]) for name in wanted.keys() - {*spared})


@pytest.mark.parametrize("head", [None, ["classifier"]])
def test_a_classifier_starts_from_updates_also_where_options_change_it(tmp_path, monkeypatch, head):
    monkeypatch.setattr(classification_run, "load_samples", lambda name, split, size, **options: Clips(size or 8))
    still = {"learning_rate": 0.0, "max_steps": 1, "save_strategy": "no"}
    folder, merged = updates_of(save_classifier(tmp_path / "base"), tmp_path / "updates", ["in_proj"], head)
    trainer = classification_run.finetune(*of_classifier(folder, tmp_path / "run", drop_path_rate=0.3, **still))
    assert holds(trainer.model, merged) and trainer.model.config.drop_path_rate == 0.3
    trainer = classification_run.finetune(*of_classifier(folder, tmp_path / "longer", num_frames=8, **still))
    assert trainer.model.config.num_frames == 8
    assert holds(trainer.model, merged, spared=["videomamba.embeddings.temporal_embeddings"])


def test_a_model_that_is_asked_questions_starts_from_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(classification_run, "load_samples", lambda name, split, size, **options: AskedClips(size or 8))
    folder, merged = updates_of(save_mambavl(tmp_path / "base"), tmp_path / "updates", ["in_proj", "x_proj"])
    options = {"learning_rate": 0.0, "max_steps": 1, "save_strategy": "no"}
    assert holds(finetune_questions(*of_questions(folder, tmp_path / "run", **options)).model, merged)


def test_models_of_videos_and_texts_and_of_videos_alone_start_from_updates(tmp_path):
    tiny_retrieval().save_pretrained(tmp_path / "pairs")
    tiny_pair_processor().save_pretrained(tmp_path / "pairs")
    folder, merged = updates_of(tmp_path / "pairs", tmp_path / "updates", ["in_proj", "query"])
    still = ["--max_steps", 1, "--learning_rate", 0, "--save_strategy", "no"]
    assert holds(train_tiny(tmp_path / "run", "--model", folder, "--drop_path_rate", 0.2, *still).model, merged)
    folder, merged = updates_of(save_student(tmp_path / "student"), tmp_path / "others", ["in_proj"])
    trainer = pretrain_tiny(folder, save_teacher(tmp_path / "teacher"), tmp_path / "pretrained", *still)
    assert holds(trainer.model, merged)
