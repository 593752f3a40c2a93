"""Options of `from_pretrained` that users of transformers know: every join takes them, or refuses them by name."""

from functools import partial

import pytest
import torch
from transformers import BertForMaskedLM

from hmba_hf import (
    HMBAForConditionalGeneration,
    HMBAProcessor,
    HMBAVLMForConditionalGeneration,
    HMBAVLMProcessor,
    MambaVLForVideoClassification,
    MambaVLProcessor,
    VideoMambaForVideoTextRetrieval,
)
from test_joining_hmba import VISION, save_checkpoint, save_language_model
from tiny_mambavl import HEADS
from tiny_mambavl import tiny_model as tiny_mambavl
from tiny_pairs import tiny_retrieval
from tiny_processors import tiny_tokenizer
from tiny_vlm_bases import save_vlm

JOINS = ("hmba", "hmba_vlm", "mambavl", "retrieval")
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture(scope="module")
def joins(tmp_path_factory):
    """Each join of the package, of tiny parts on the disk, by its name."""
    folder = tmp_path_factory.mktemp("parts")
    save_checkpoint(folder / "clip", "clip_vision_model", VISION)
    save_language_model(folder / "llama")
    save_vlm("llava", folder / "vlm")
    mambavl = tiny_mambavl(text_features="contextual").mambavl
    mambavl.vision_model.save_pretrained(folder / "videos")
    mambavl.text_model.save_pretrained(folder / "texts")
    tiny_tokenizer().save_pretrained(folder / "texts")
    retrieval = tiny_retrieval()
    retrieval.vision_model.save_pretrained(folder / "videomamba")
    retrieval.text_model.save_pretrained(folder / "bert")
    return {
        "hmba": partial(HMBAForConditionalGeneration.from_vision_text_pretrained, folder / "clip", folder / "llama"),
        "hmba_vlm": partial(HMBAVLMForConditionalGeneration.from_base_pretrained, folder / "vlm"),
        "mambavl": partial(
            MambaVLForVideoClassification.from_vision_text_pretrained,
            folder / "videos",
            folder / "texts",
            heads=HEADS,
        ),
        "retrieval": partial(
            VideoMambaForVideoTextRetrieval.from_vision_text_pretrained,
            folder / "videomamba",
            folder / "bert",
            num_fusion_layers=1,
        ),
        "hmba processor": partial(
            HMBAProcessor.from_vision_text_pretrained, folder / "clip", folder / "llama", **COLOURS
        ),
        "hmba_vlm processor": partial(HMBAVLMProcessor.from_base_pretrained, folder / "vlm"),
        "mambavl processor": partial(
            MambaVLProcessor.from_vision_text_pretrained, folder / "videos", folder / "texts", **COLOURS
        ),
    }


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_the_dtype_of_a_join_is_taken_under_its_older_name_too(joins, name, dtype):
    assert joins[name](torch_dtype=dtype).dtype == torch.bfloat16


@pytest.mark.parametrize("name", JOINS)
def test_a_dtype_that_is_given_twice_or_is_none_is_refused(joins, name):
    with pytest.raises(ValueError, match="dtype must be given once, got dtype=float16 and torch_dtype=bfloat16"):
        joins[name](dtype="float16", torch_dtype="bfloat16")
    for option in ("dtype", "torch_dtype"):
        with pytest.raises(
            ValueError, match="dtype must be a dtype of torch, its name, or 'auto', got 'half-precise'"
        ):
            joins[name](**{option: "half-precise"})


@pytest.mark.parametrize("name", JOINS)
def test_options_of_files_and_memory_change_no_weight_of_a_join(joins, name):
    torch.manual_seed(0)
    wanted = joins[name]().state_dict()
    torch.manual_seed(0)
    loaded = joins[name](use_safetensors=True, force_download=True, low_cpu_mem_usage=True)
    torch.testing.assert_close(loaded.state_dict(), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("name", JOINS)
def test_a_join_whose_files_are_of_another_kind_says_so(joins, name):
    with pytest.raises((OSError, ValueError), match="pytorch_model.bin|must be in safetensors, got use_safetensors=F"):
        joins[name](use_safetensors=False)
    with pytest.raises(OSError, match="model.fp16.safetensors"):
        joins[name](variant="fp16")


@pytest.mark.parametrize("name", JOINS)
def test_the_attention_of_a_join_is_chosen_for_all_its_parts(joins, name):
    model = joins[name](attn_implementation="eager")
    chosen = {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}
    assert chosen == {"eager"}


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("option", ["trust_remote_code", "output_loading_info", "state_dict"])
def test_an_option_that_no_join_takes_is_refused_with_the_reason(joins, name, option):
    with pytest.raises(ValueError, match=rf"got \['{option}'\]; {option} is none, for "):
        joins[name](**{option: True})


@pytest.mark.parametrize("name", ["hmba processor", "hmba_vlm processor", "mambavl processor"])
def test_a_joined_processor_takes_the_options_of_its_model(joins, name):
    joins[name](torch_dtype="bfloat16", use_safetensors=True, force_download=True, variant="fp16")
    joins[name](dtype="bfloat16", attn_implementation="eager", low_cpu_mem_usage=True)


def test_pickled_weights_are_no_half_of_a_retrieval_model(joins, tmp_path):
    _, text = joins["retrieval"].args
    torch.save(BertForMaskedLM.from_pretrained(text).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((text / "config.json").read_bytes())
    with pytest.raises(OSError, match="no file named model.safetensors"):
        VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(
            joins["retrieval"].args[0], tmp_path, num_fusion_layers=1
        )
