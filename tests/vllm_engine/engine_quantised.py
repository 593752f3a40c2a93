"""Language models in fewer bits in vLLM's engine; the other parts of their checkpoints are whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_engines import open_engine
from safetensors.torch import load_file, save_file
from tiny_engines import LENGTH, save_model, save_videos, sixteen_requests
from torch import Tensor
from transformers import AutoProcessor, pipeline
from vllm import SamplingParams

GROUP = 32  # weights of a row that share a scale, in 4 bits
OF_BITS = {
    8: {
        "format": "int-quantized",
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    },
    4: {
        "format": "pack-quantized",
        "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP},
        "input_activations": None,
    },
}


def is_quantised(name: str) -> bool:
    return name.startswith("model.language_model.layers.") and name.endswith("_proj.weight")


def rounded(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round values to whole numbers, and return these and the scale of each last dimension."""
    scale = values.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (values / scale).round(), scale


def save_quantised(model: Path, bits: int, folder: Path) -> None:
    """Write a model in fewer bits, as compressed-tensors has it, and one with the weights that these mean."""
    weights = load_file(model / "model.safetensors")
    packed: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not is_quantised(name):
            packed[name] = meant[name] = weight
            continue
        rows, columns = weight.shape
        length = columns if bits == 8 else GROUP
        whole, scale = rounded(weight.view(rows, -1, length), bits)
        meant[name] = (whole * scale).view(rows, columns)
        packed[f"{name}_scale"] = scale.squeeze(-1)
        if bits == 8:
            packed[name] = whole.view(rows, columns).to(torch.int8)
            continue
        fours = (whole.view(rows, -1, 8) + 8).to(torch.int32)
        shifts = 4 * torch.arange(8, dtype=torch.int32)
        packed[f"{name}_packed"] = (fours << shifts).sum(-1, dtype=torch.int32)
        packed[f"{name}_shape"] = torch.tensor([rows, columns])
    config = json.loads((model / "config.json").read_text())
    group = {"targets": ["Linear"], **OF_BITS[bits]}
    quantised = {
        "quant_method": "compressed-tensors",
        "format": group.pop("format"),
        "config_groups": {"group": group},
    }
    quantised["ignore"] = ["lm_head", "model.multi_modal_projector"]
    for part, held, settings in (
        ("quantised", packed, {"quantization_config": quantised}),
        ("meant", meant, {}),
    ):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config | settings))
        (folder / part / "generation_config.json").write_text((model / "generation_config.json").read_text())
        save_file(held, folder / part / "model.safetensors", {"format": "pt"})
        AutoProcessor.from_pretrained(model).save_pretrained(folder / part)


def round_activations(model: Any) -> None:
    """Let layers whose weights have 8 bits see values in 8 bits, too, each token with a scale of its own."""

    def see_rounded(_: Any, seen: tuple[Tensor]) -> tuple[Tensor]:
        whole, scale = rounded(seen[0], 8)
        return (whole * scale,)

    for name, layer in model.named_modules():
        if is_quantised(f"{name}.weight"):
            layer.register_forward_pre_hook(see_rounded)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model and requests."""
    folder = tmp_path_factory.mktemp("model")
    save_model("llama", folder)
    return folder, sixteen_requests(save_videos(tmp_path_factory.mktemp("videos")))


def parts_of(model):
    """Return the dtypes of the parts that stay whole, and how the language model's layers compute."""
    whole = {weight.dtype for weight in model.video.parameters()}
    layers = [layer for name, layer in model.language_model.named_modules() if name.endswith("_proj")]
    return whole, {type(layer.quant_method).__name__ for layer in layers}


def surprises(folder, requests, answered, prepare=None):
    """Return the logarithms of the probabilities that the pipeline's model gives to tokens that were answered."""
    pipe = pipeline("video-text-to-text", model=str(folder), processor=AutoProcessor.from_pretrained(folder))
    if prepare is not None:
        prepare(pipe.model)
    found = []
    for request, tokens in zip(requests, answered, strict=True):
        inputs = pipe.preprocess(request.for_pipeline())["inputs"]
        inputs.pop("frame_size")
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=-1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = pipe.model(**inputs).logits[0, -len(tokens) - 1 : -1]
        logits[:, pipe.model.config.video_token_id] = float("-inf")
        found.append(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).squeeze(1))
    return torch.stack(found)  # (requests, tokens)


def answer(llm, requests):
    """Return the tokens of an engine's answers, and the logarithms of the probabilities that it gives to them."""
    how = SamplingParams(temperature=0, max_tokens=LENGTH, min_tokens=LENGTH, logprobs=0)
    done = llm.generate([request.for_engine() for request in requests], how, use_tqdm=False)
    answered = [list(got.outputs[0].token_ids) for got in done]
    said = [[next(iter(one.values())).logprob for one in got.outputs[0].logprobs] for got in done]
    return answered, torch.tensor(said)


def test_in_eight_bits_answers_are_as_likely_as_the_weights_that_these_mean_say(asked, tmp_path):
    model, requests = asked
    save_quantised(model, 8, tmp_path)
    with open_engine(tmp_path / "quantised") as llm:
        assert llm.apply_model(parts_of) == [({torch.float32}, {"CompressedTensorsLinearMethod"})]
        answered, said = answer(llm, requests)
    meant = surprises(tmp_path / "meant", requests, answered, round_activations)
    whole = surprises(model, requests, answered)
    print(f"median distance {(said - meant).abs().median():.5f}, of whole weights {(said - whole).abs().median():.5f}")
    # Values that lie between two whole numbers of 8 bits are rounded to one or the other by the last bit of a sum.
    assert (said - meant).abs().median() < (said - whole).abs().median() / 4


def test_in_four_bits_answers_are_as_likely_as_the_weights_that_these_mean_say(asked, tmp_path):
    model, requests = asked
    save_quantised(model, 4, tmp_path)
    with open_engine(tmp_path / "quantised", dtype="bfloat16") as llm:
        ((whole_parts, methods),) = llm.apply_model(parts_of)
        assert torch.bfloat16 in whole_parts and methods == {"CompressedTensorsLinearMethod"}
        answered, said = answer(llm, requests)
    meant = surprises(tmp_path / "meant", requests, answered)
    whole = surprises(model, requests, answered)
    print(f"median distance {(said - meant).abs().median():.5f}, of whole weights {(said - whole).abs().median():.5f}")
    # The engine computes in bfloat16, the pipeline in float32.
    assert (said - meant).abs().median() < (said - whole).abs().median() / 4
