"""Options and parts of a MambaVL that is joined: they work, or are refused by name."""

import pytest
import torch
from transformers import BitsAndBytesConfig, RobertaModel

from hmba_hf import MambaVLForVideoClassification
from tiny_mambavl import HEADS, tiny_batch, tiny_model


@pytest.fixture
def parts(tmp_path):
    model = tiny_model(text_features="contextual").mambavl
    model.vision_model.to(torch.bfloat16).save_pretrained(tmp_path / "vision")
    model.text_model.to(torch.bfloat16).save_pretrained(tmp_path / "text")
    return str(tmp_path / "vision"), str(tmp_path / "text")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", torch.bfloat16])
def test_a_join_takes_its_dtype_by_name(dtype, parts):
    model = MambaVLForVideoClassification.from_vision_text_pretrained(*parts, heads=HEADS, dtype=dtype)
    assert {parameter.dtype for name, parameter in model.named_parameters() if not name.endswith("A_log")} == {
        torch.bfloat16
    }
    assert model(**tiny_batch()).logits.isfinite().all()


def test_parts_that_cannot_be_joined_are_refused_by_name(parts, tmp_path):
    join = MambaVLForVideoClassification.from_vision_text_pretrained
    vision, text = parts
    settings = BitsAndBytesConfig(load_in_4bit=True)
    for name in ("quantization_config", "text_quantization_config", "vision_quantization_config"):
        with pytest.raises(ValueError, match="must have plain weights, got a quantization_config for .*: join plain"):
            join(vision, text, heads=HEADS, **{name: settings})
    with pytest.raises(ValueError, match="must be a model of videos or pictures, got RobertaModel .* reads input_ids"):
        join(text, text, heads=HEADS)
    with pytest.raises(ValueError, match="must be a folder or a Hub id, got RobertaModel"):
        join(vision, RobertaModel.from_pretrained(text), heads=HEADS)
    (tmp_path / "text" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match="must be a whole model, got low-rank updates in"):
        join(vision, text, heads=HEADS)
