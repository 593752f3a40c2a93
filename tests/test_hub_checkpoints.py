"""A checkpoint in a folder: what lies in it, what its card says, and that the card is what the Hub can read."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from hmba_hf.hub import CardDetails, push_checkpoint, recorded_training, save_checkpoint
from hmba_hf.hub.cards import compose_card
from hmba_hf.hub.checkpoints import checkpoint_files
from hmba_hf.repositories import PICKLES, commit_files
from hmba_hf.training import LoraSettings, learn
from test_bundle import ENTRIES, import_closure
from tiny_models import assert_equal_weights, tiny_model

ROOT = Path(__file__).parents[1]


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


DETAILS = CardDetails(
    license="apache-2.0",
    training={"learning_rate": 2e-5, "dataset_name": ["org/drama", "/home/me/bddx"], "lora_targets": None},
    environment={"torch": "2.13.0", "java": None},
    base_model=["openai/clip-vit-large-patch14", "lmsys/vicuna-7b-v1.5"],
    picture=Image.new("RGB", (64, 48), "red"),
    tags=["night"],
)


def test_tags_of_a_model_come_onto_its_card(stored_model):
    model, _ = load(stored_model)
    model.add_model_tags(["trl", "sft"])
    tags = compose_card(model, DETAILS, [], "org/tiny").data.tags
    assert {"trl", "sft", "night", "driving"} <= set(tags) and len(tags) == len(set(tags))


def test_a_checkpoint_holds_weights_code_processor_and_card_and_nothing_pickled(stored_model, stored_run, tmp_path):
    model, processor = load(stored_model)
    folder = save_checkpoint(tmp_path / "out", model, processor, [stored_run], DETAILS, max_shard_size="40KB")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    code = {f"{name}.py" for name in import_closure(ENTRIES)}
    shards = {name for name in names if name.endswith(".safetensors")}
    assert len(shards) > 2
    others = "README.md example.png chat_template.jinja config.json generation_config.json processor_config.json "
    others += "model.safetensors.index.json tokenizer.json tokenizer_config.json training_arguments.json"
    assert names == code | shards | set(others.split())
    assert checkpoint_files(folder).keys() == names
    assert not [name for name in names if name.endswith(tuple(PICKLES))]
    config = json.loads((folder / "config.json").read_text())
    assert len(config["auto_map"]) == 4 and config["custom_pipelines"]
    assert recorded_training(folder)["learning_rate"] == 2e-5 and recorded_training(stored_model) == {}
    assert_equal_weights(model, load(folder)[0])


def test_saving_again_leaves_no_shard_of_before(stored_model, tmp_path):
    model, processor = load(stored_model)
    save_checkpoint(tmp_path, model, processor, max_shard_size="40KB")
    save_checkpoint(tmp_path, model, processor)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_card_says_what_it_must_and_comes_back(stored_model, stored_run, tmp_path):
    model, processor = load(stored_model)
    save_checkpoint(tmp_path, model, processor, [stored_run], DETAILS)
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "video-text-to-text", "apache-2.0")
    assert data.base_model == list(DETAILS.base_model) and data["base_model_relation"] == "finetune"
    assert data.datasets == ["org/drama"]
    assert {"hmba", "driving", "mamba", "custom_code", "micro-world", "night"} <= {*data.tags}
    metrics = json.loads((stored_run / "metrics.json").read_text())
    held = {result.metric_name: result for result in data.eval_results}
    assert held["mIoU"].metric_value == metrics["scores"]["mean_iou"]
    assert held["mIoU"].metric_args["command"] == metrics["command"]
    assert str(ModelCard(str(card))) == str(card)
    assert ModelCard(str(card)).data.to_dict() == data.to_dict() == metadata_load(tmp_path / "README.md") | {}
    text = card.text
    for part in (
        metrics["command"],
        "mIoU",
        "| `learning_rate` | 2e-05 |",
        "![",
        "](example.png)",
        "Not for driving",
    ):
        assert part in text, part
    assert "org/drama, bddx" in text and "/home/me" not in text
    assert "no number" not in text and "worth nothing on a road" in text, "it was scored on the micro-world"
    assert "revision = None" in text and "java" not in text.split("## Intended use")[0].split("## Training")[1]
    assert "{" not in text.replace("{{", "{").split("```")[0], "nothing of the template is left"


def test_a_card_without_runs_has_no_number(stored_model):
    model, _ = load(stored_model)
    card = compose_card(model, CardDetails(), repo_id="org/tiny", revision="0" * 40)
    assert card.data.eval_results is None and "model-index" not in card.data.to_dict()
    assert "None are stored." in card.text and 'revision = "' + "0" * 40 in card.text
    assert "No licence of the weights has been stated" in card.text and "license" not in card.data.to_dict()
    assert "How it was trained has not been recorded" in card.text and "worth nothing" not in card.text
    assert card.data.base_model is None, "a folder is no base that others know"


def test_a_model_remembers_its_parents_by_their_hub_ids():
    model = tiny_model()
    model.config.vision_config._name_or_path = "openai/clip-vit-large-patch14"
    model.config.text_config._name_or_path = "lmsys/vicuna-7b-v1.5"
    data = compose_card(model, CardDetails()).data
    assert data.base_model == ["openai/clip-vit-large-patch14", "lmsys/vicuna-7b-v1.5"]
    model.config._name_or_path = "org/hmba-base"
    data = compose_card(model, CardDetails()).data
    assert (data.base_model, data["base_model_relation"]) == (["org/hmba-base"], "finetune")


def test_a_model_in_a_folder_is_a_child_of_what_its_training_began_with_and_never_of_itself():
    model = tiny_model()
    details = CardDetails(
        training={"model_name_or_path": "org/hmba-base", "dataset_name": ["org/drama@v1", "org/drama"]}
    )
    card = compose_card(model, details, repo_id="org/hmba-drama")
    assert (card.data.base_model, card.data["base_model_relation"]) == (["org/hmba-base"], "finetune")
    assert card.data.datasets == ["org/drama"] and "`org/drama@v1`, `org/drama`" in card.text
    model.config._name_or_path = "org/hmba-drama"  # pushed there again, with results
    assert compose_card(model, details, repo_id="org/hmba-drama").data.base_model == ["org/hmba-base"]
    assert compose_card(model, CardDetails(), repo_id="org/hmba-drama").data.base_model is None


def test_results_of_another_model_are_refused_and_so_is_a_number_by_hand(stored_model, stored_run, tmp_path):
    model, processor = load(stored_model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="must hold scores of this checkpoint, .* got scores of the weights"):
        save_checkpoint(tmp_path / "out", model, processor, [stored_run])
    with pytest.raises(ValueError, match="results must be folders that `hmba evaluate` has written, got float"):
        save_checkpoint(tmp_path / "other", model, processor, [0.9])
    assert not (tmp_path / "other").exists() and not (tmp_path / "out" / "README.md").exists()


def lora(stored_model, **settings):
    model, processor = load(stored_model)
    return learn(model, ["adapter", "lora"], LoraSettings(rank=2, targets=["q_proj"], **settings))[0], processor


def test_low_rank_updates_have_a_card_of_their_base_and_no_base_in_them(stored_model, tmp_path):
    model, processor = lora(stored_model, base_commit="1" * 40)
    model.peft_config["default"].base_model_name_or_path = "org/hmba-base"
    folder = save_checkpoint(tmp_path, model, processor, card=CardDetails(license="mit"))
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and card.data.pipeline_tag == "video-text-to-text"
    assert (card.data.base_model, card.data["base_model_relation"]) == (["org/hmba-base"], "adapter")
    assert "org/hmba-base" in card.text and "1" * 40 in card.text and "lora" in card.data.tags
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == "1" * 40
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    with pytest.raises(ValueError, match="must hold no other kind of checkpoint, got adapter_config.json"):
        save_checkpoint(tmp_path, *load(stored_model))
    model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(ValueError, match=r"must have the one name 'default', got \['default', 'second'\]"):
        save_checkpoint(tmp_path / "two", model, processor)
    assert not (tmp_path / "two").exists()


def test_low_rank_updates_on_a_folder_are_not_pushed(stored_model):
    model, processor = lora(stored_model)
    with pytest.raises(ValueError, match="must belong to a base on the Hub, got .*push the base first"):
        push_checkpoint(model, processor, "org/lora")


def test_the_templates_of_cards_are_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["hmba_hf"]
    packaged = {path for pattern in patterns for path in (ROOT / "src" / "hmba_hf").glob(pattern)}
    assert {*(ROOT / "src" / "hmba_hf" / "model_cards").iterdir()} <= packaged


def test_a_model_of_no_family_is_refused(tmp_path):
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    with pytest.raises(ValueError, match=r"model_type must be of \['hmba', .*\], got 'llama'"):
        save_checkpoint(tmp_path, LlamaForCausalLM(config), None)


def test_a_relation_must_be_one_that_the_hub_knows():
    with pytest.raises(ValueError, match="base_model_relation must be one of .*, got 'cousin'"):
        CardDetails(base_model_relation="cousin")


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "a/b.pkl"])
def test_a_pickle_is_never_uploaded(name):
    with pytest.raises(ValueError, match=f"got pickles: .*{name}"):
        commit_files("org/tiny", {name: b""}, lambda name: False, "Upload")


def test_what_else_lies_in_a_folder_stays_there(stored_model, tmp_path):
    folder = shutil.copytree(stored_model, tmp_path / "run")
    for name in ("training_args.bin", "optimizer.pt", "seal.json", "trainer_state.json", "secret.txt", "train.py"):
        (folder / name).write_bytes(b"")
    (folder / "checkpoint-2").mkdir()
    shutil.copy(stored_model / "model.safetensors", folder / "checkpoint-2")
    assert checkpoint_files(folder).keys() == {path.name for path in stored_model.iterdir()}
