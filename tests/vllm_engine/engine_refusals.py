"""What vLLM's engine cannot do with an H-MBA is refused in one sentence, before it starts."""

import numpy as np
import pytest
from engine_quantised import save_quantised
from PIL import Image
from tiny_engines import save_model
from transformers import Gemma3nTextConfig
from vllm import LLM

from hmba_hf import HMBAConfig, HMBAVLMProcessor
from hmba_hf.integrations.vllm.reading import ClipParser
from tiny_hmba_vlm import model_on
from tiny_vlm_bases import tiny_vlm

SMALL = {"enforce_eager": True, "dtype": "float32", "max_model_len": 512}


def test_a_model_on_a_base_that_was_not_tested_is_refused(tmp_path):
    base = tiny_vlm("qwen3_vl")
    model_on(base).save_pretrained(tmp_path)
    HMBAVLMProcessor(base.processor, boxes_dialect="thousand").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="on a language model or on one of internvl, .* got one on qwen3_vl"):
        LLM(str(tmp_path), **SMALL)


def test_a_language_model_of_one_stage_is_refused_in_two(tmp_path):
    save_model("llama", tmp_path)
    config = HMBAConfig.from_pretrained(tmp_path)
    config.text_config = Gemma3nTextConfig(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pipeline_parallel_size must be 1 with Gemma3nForCausalLM"):
        LLM(str(tmp_path), pipeline_parallel_size=2, **SMALL)


def test_weights_in_four_bits_are_refused_in_float32(tmp_path):
    model = tmp_path / "model"
    save_model("llama", model)
    save_quantised(model, 4, tmp_path)
    with pytest.raises(ValueError, match="dtype must be bfloat16 for weights in 4 bits .* got float32"):
        LLM(str(tmp_path / "quantised"), **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": "x"}, "num_frames must be a whole number, one or more, got 'x'"),
        ({"num_frames": None, "fps": False}, "fps must be a number greater than zero, got False"),
        ({"timestamp": 3.0}, "timestamp must be an option of a request, got 3.0 for an engine"),
        ({"videos_kwargs": {"num_frames": 257}}, "a clip must have at most 256 frames, got 257"),
        ({"size": {"height": 14, "width": 14}}, "options of an engine must be among fps, .* got .'size'."),
    ],
    ids=str,
)
def test_an_engine_whose_options_are_wrong_does_not_start(tmp_path, options, message):
    save_model("llama", tmp_path)
    with pytest.raises(ValueError, match=message):
        LLM(str(tmp_path), mm_processor_kwargs=options, **SMALL)


def test_an_engine_whose_reader_would_leave_options_unread_does_not_start(tmp_path):
    save_model("llama", tmp_path)
    message = "media_io_kwargs of videos must hold no options, as mm_processor_kwargs does, got .'num_frames'."
    with pytest.raises(ValueError, match=message):
        LLM(str(tmp_path), media_io_kwargs={"video": {"num_frames": 3}}, **SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "got int"),
        ([3], "got int"),
        ([("a", "b", "c")], "got tuple"),
        (np.zeros((4, 4), np.uint8), r"frames must be \(t, height, width, 3\) or .*, got \(4,\)"),
        ([np.zeros((4, 4), np.uint8)], r"frames must be \(t, height, width, 3\) or .*, got \(4, 4\)"),
    ],
    ids=str,
)
def test_what_is_no_video_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ClipParser().parse_mm_data({"video": data})


def test_frames_come_in_lists_and_tuples_with_metadata_and_without():
    picture = Image.new("RGB", (8, 6))
    frames = np.zeros((2, 6, 8, 3), np.uint8)
    of_pictures = ([(picture, picture)], (picture, picture), [picture, picture])
    of_arrays = (frames, (frames, None), [(frames, {})])
    for shape, forms in (((2, 3, 6, 8), of_pictures), ((2, 6, 8, 3), of_arrays)):
        for data in forms:
            (clip,) = ClipParser().parse_mm_data({"video": data})["video"].get_all()
            assert clip.source.shape == shape and not clip.metadata
