"""What vLLM's engine cannot do with an H-MBA is refused in one sentence, before it starts."""

import pytest
from tiny_engines import save_model
from transformers import AutoProcessor
from vllm import LLM

from hmba_hf import HMBAVLMProcessor
from tiny_hmba_vlm import model_on
from tiny_vlm_bases import tiny_vlm

SMALL = {"enforce_eager": True, "dtype": "float32", "max_model_len": 512}


def test_a_model_on_a_vision_language_model_is_refused(tmp_path):
    base = tiny_vlm("qwen3_vl")
    model_on(base).save_pretrained(tmp_path)
    HMBAVLMProcessor(base.processor, boxes_dialect="thousand").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be an H-MBA on a language model, got one on qwen3_vl"):
        LLM(str(tmp_path), **SMALL)


def test_a_processor_that_writes_times_is_refused(tmp_path):
    save_model("llama", tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    processor.time_format = " at {seconds} s. "
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="time_format must be None for vLLM"):
        LLM(str(tmp_path), **SMALL)
