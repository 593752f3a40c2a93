"""Low-rank updates of the language model, as training writes them, in vLLM's engine."""

import json
from pathlib import Path

import pytest
import torch
from open_engines import answers, open_engine
from safetensors.torch import load_file, save_file
from tiny_engines import pipeline_answers, save_model, save_videos, sixteen_requests
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm.lora.request import LoRARequest

from hmba_hf.training.parts import LoraSettings, learn

RANKS = {"first": 4, "second": 8}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Sixteen questions."""
    return sixteen_requests(save_videos(tmp_path_factory.mktemp("videos")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("model")
    save_model("llama", folder)
    return folder


@pytest.fixture(scope="module")
def updates(model, tmp_path_factory, requests):
    """For each name, the folder of low-rank updates and what the pipeline answers with them."""
    made = {}
    for name, rank in RANKS.items():
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(rank)
        base = AutoModelForImageTextToText.from_pretrained(model)
        updated, _ = learn(base, ["lora"], LoraSettings(rank=rank, alpha=2 * rank))
        for weight_name, weight in updated.named_parameters():
            if "lora_B" in weight_name:
                torch.nn.init.normal_(weight, std=0.2)
        updated.save_pretrained(folder / "updates")
        updated.merge_and_unload().save_pretrained(folder / "merged")
        AutoProcessor.from_pretrained(model).save_pretrained(folder / "merged")
        made[name] = folder / "updates", pipeline_answers(folder / "merged", requests)
    return made


@pytest.fixture(scope="module")
def llm(model):
    """An engine that takes two updates at a time."""
    with open_engine(model, enable_lora=True, max_loras=2, max_lora_rank=8) as engine:
        yield engine


def test_requests_with_updates_and_without_are_answered_together_as_by_the_pipeline(llm, model, updates, requests):
    wanted = {None: pipeline_answers(model, requests)}
    wanted |= {name: answer for name, (_, answer) in updates.items()}
    turns = [None, *updates]
    chosen = [turns[number % len(turns)] for number in range(len(requests))]
    loaded = {name: LoRARequest(name, number, str(updates[name][0])) for number, name in enumerate(updates, 1)}
    for _ in range(2):  # the second time, prompts are in the cache of each update
        got = answers(llm, [request.for_engine() for request in requests], [loaded.get(name) for name in chosen])
        assert got == [wanted[name][number] for number, name in enumerate(chosen)]
    for name in updates:
        alone = answers(llm, [request.for_engine() for request in requests], [loaded[name]] * len(requests))
        assert alone == wanted[name]
        assert sum(one != base for one, base in zip(alone, wanted[None], strict=True)) > 12, "the updates do nothing"


@pytest.mark.parametrize(
    "part", ["vision_tower.layers.0.self_attn.q_proj", "multi_modal_projector", "temporal_adapter.query.in_proj"]
)
def test_updates_of_another_part_are_refused_and_the_engine_lives_on(llm, updates, requests, tmp_path, part):
    folder, wanted = updates["first"]
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "q_proj.lora_A" in name)
    weights[f"base_model.model.model.{part}.lora_A.weight"] = weights[name].clone()
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match=f"must be of the language model alone, got model.{part}"):
        llm.llm_engine.add_lora(LoRARequest("other", 9, str(tmp_path)))
    loaded = LoRARequest("first", 1, str(folder))
    assert answers(llm, [requests[1].for_engine()], [loaded]) == [wanted[1]]


def test_parts_that_learned_whole_beside_the_updates_are_refused(llm, updates, requests, tmp_path):
    folder, wanted = updates["first"]
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["modules_to_save"] = ["temporal_adapter"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(Path(folder / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="modules_to_save.*temporal_adapter"):
        llm.llm_engine.add_lora(LoRARequest("whole", 10, str(tmp_path)))
    assert answers(llm, [requests[1].for_engine()], [LoRARequest("first", 1, str(folder))]) == [wanted[1]]
