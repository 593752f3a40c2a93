"""Linear layers with products of our own, and models of transformers whose layers become such."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from transformers import CLIPVisionConfig, CLIPVisionModel

from hmba_hf import set_linear_implementation
from hmba_hf.models import layers_linear
from hmba_hf.models.layers_linear import Linear

PIXELS = torch.linspace(0, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)


@pytest.fixture
def tower():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=16, patch_size=8)).eval()


@pytest.fixture
def products(monkeypatch):
    """Return a list of the shapes that the op has multiplied."""
    shapes = []
    multiply = layers_linear.linear

    def counted(x, weight, bias=None):
        shapes.append(tuple(weight.shape))
        return multiply(x, weight, bias)

    monkeypatch.setattr(layers_linear, "linear", counted)
    return shapes


def test_the_layer_is_torchs_with_another_product(products):
    torch.manual_seed(1)
    layer = Linear(6, 5)
    torch.manual_seed(1)
    plain = nn.Linear(6, 5)
    x = torch.randn(3, 6)
    assert layer.state_dict().keys() == plain.state_dict().keys() and repr(layer) == repr(plain)
    assert_close(layer(x), plain(x))
    assert products == [(5, 6)]


def test_a_tower_of_transformers_takes_our_products_and_gives_them_back(tower, products, tmp_path):
    wanted = tower(PIXELS).last_hidden_state
    tower.save_pretrained(tmp_path / "before")
    set_linear_implementation(tower)
    assert_close(tower(PIXELS).last_hidden_state, wanted, atol=1e-5, rtol=1e-5)
    assert len(products) == 12  # six in each layer
    tower.save_pretrained(tmp_path / "ours")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    products.clear()
    set_linear_implementation(tower, "torch")
    assert_close(tower(PIXELS).last_hidden_state, wanted, atol=0, rtol=0)
    assert products == []


def test_layers_of_other_libraries_stay_what_they_are(tower):
    class Quantised(nn.Linear):
        pass

    name = next(name for name, _ in tower.named_modules() if name.endswith("mlp.fc1"))
    tower.set_submodule(name, Quantised(16, 24))
    updated = get_peft_model(tower, LoraConfig(target_modules=["fc2"]))
    kinds = {name: type(module) for name, module in updated.named_modules()}
    set_linear_implementation(updated)
    changed = {name for name, module in updated.named_modules() if type(module) is not kinds[name]}
    assert changed and all(kinds[name] is nn.Linear for name in changed)
    assert type(tower.get_submodule(name)) is Quantised


def test_an_unknown_implementation_is_refused(tower):
    with pytest.raises(ValueError, match=r"implementation must be one of \['auto', 'torch'\], got 'mkl'"):
        set_linear_implementation(tower, "mkl")
