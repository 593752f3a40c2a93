"""LoRA adapters to the Hub and back, beside their base."""

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText

from tiny_models import lively_model, tiny_inputs

BASE, NAME = "org/base", "org/lora"
LAYERS = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"


@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_an_adapter_by_its_name_finds_its_base_by_name(hub, transport, tmp_path):
    api = HfApi()
    for name in (BASE, NAME):
        api.create_repo(name, private=True)
    lively_model().save_pretrained(tmp_path / "base")
    commit = api.upload_folder(repo_id=BASE, folder_path=tmp_path / "base").oid

    base = AutoModelForImageTextToText.from_pretrained(BASE, revision=commit)
    adapted = get_peft_model(base, LoraConfig(target_modules=LAYERS, init_lora_weights=False, revision=commit)).eval()
    adapted.save_pretrained(tmp_path / "lora")
    api.upload_folder(repo_id=NAME, folder_path=tmp_path / "lora")
    assert "adapter_model.safetensors" in hub.repository(NAME).files()

    inputs = tiny_inputs()
    with torch.no_grad():
        wanted, plain = adapted(**inputs).logits, lively_model()(**inputs).logits
        assert not torch.equal(wanted, plain)
        beside = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(BASE), NAME).eval()
        alone = AutoModelForImageTextToText.from_pretrained(NAME).eval()
        assert torch.equal(beside(**inputs).logits, wanted)
        assert torch.equal(alone(**inputs).logits, wanted)
