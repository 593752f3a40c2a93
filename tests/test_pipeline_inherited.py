"""Arguments that the pipeline inherits: each one works, or is refused by its name."""

from contextlib import contextmanager

import pytest
import torch

from hmba_hf import VideoTextToTextPipeline
from tiny_models import lively_model
from tiny_processors import clip, tiny_processor


@pytest.fixture
def pipe():
    return VideoTextToTextPipeline(
        model=lively_model(), processor=tiny_processor(), task="video-text-to-text", device="cpu", max_new_tokens=3
    )


def test_answers_are_never_pickled():
    parts = {"model": lively_model(), "processor": tiny_processor()}
    with pytest.raises(ValueError, match="binary_output must be false, since answers are text and never pickles"):
        VideoTextToTextPipeline(**parts, binary_output=True)
    with pytest.raises(ValueError, match="binary_output must be false"):
        VideoTextToTextPipeline(parts["model"], *[None] * 4, parts["processor"], "", "cpu", True)
    with pytest.raises(ValueError, match=r"must be given within it, got \['tokenizer'\]"):
        VideoTextToTextPipeline(parts["model"], parts["processor"].tokenizer, processor=parts["processor"])
    assert VideoTextToTextPipeline(**parts, binary_output=False, device="cpu").binary_output is False


@pytest.mark.parametrize(
    ("supported", "is_supported"),
    [
        (["HMBAForConditionalGeneration"], True),
        ({"hmba": "HMBAForConditionalGeneration"}, True),
        ({"other": "Other", "hmba": ("HMBAModel", "HMBAForConditionalGeneration")}, True),
        (["HMBAModel"], False),
        ({"hmba": "HMBAModel"}, False),
    ],
)
def test_a_model_that_is_not_among_those_supported_is_named(pipe, supported, is_supported, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.pipelines.base.logger.error", said.append)
    pipe.check_model_type(supported)
    assert not said if is_supported else "'HMBAForConditionalGeneration' is not supported for" in said[0]


def test_tensors_come_to_the_device_of_the_pipeline_however_they_are_nested(pipe):
    given = {"a": torch.ones(2), "b": [torch.ones(3), {"c": (torch.ones(1), "text")}], "d": None, "e": 4}
    pipe.device = torch.device("meta")
    found = pipe.ensure_tensor_on_device(**given)
    assert found["a"].is_meta and found["b"][0].is_meta and found["b"][1]["c"][0].is_meta
    assert found["b"][1]["c"][1] == "text" and found["d"] is None and found["e"] == 4
    assert found["a"].shape == (2,) and not given["a"].is_meta


def test_a_pipeline_answers_on_its_device_and_in_its_context(pipe, monkeypatch):
    entered, seen = [], []

    @contextmanager
    def on_device(device):
        entered.append(device)
        yield
        entered.append("left")

    monkeypatch.setattr(torch.cuda, "device", on_device)
    pipe.device = torch.device("cuda", 1)
    with pipe.device_placement():
        assert entered == [torch.device("cuda", 1)]
    assert entered[1:] == ["left"]
    pipe.device = torch.device("cpu")
    with pipe.device_placement():
        assert len(entered) == 2, "a CPU needs no placement"

    generate = pipe.model.generate

    def noting(**inputs):
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return generate(**inputs)

    monkeypatch.setattr(pipe.model, "generate", noting)
    assert pipe.get_inference_context() is torch.no_grad
    answer = pipe(videos=clip(), text="Left?")
    monkeypatch.setattr(pipe, "get_inference_context", lambda: torch.inference_mode)
    assert pipe(videos=clip(), text="Left?") == answer
    assert seen == [(False, False), (False, True)]
