import copy

import accelerate
import peft
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from hmba_hf.models.layers_vision_tower import read_layer
from tiny_models import tiny_inputs, tiny_model

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
PLAIN = ("clip_vision_model", "siglip_vision_model")
OTHER = ("dinov2", "vit")
FRAMES = torch.linspace(-1, 1, 2 * 3 * 28 * 28).unflatten(0, (2, 3, 28, 28))


def tower_of(model_type, **kwargs):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES, image_size=28, patch_size=14, **kwargs)
    return AutoModel.from_config(config).eval()


def runs_of(tower):
    """Count the runs of each layer."""
    stack = getattr(tower, "encoder", tower)
    counts = [0] * SIZES["num_hidden_layers"]

    def count(place):
        counts[place] += 1

    for place, layer in enumerate(getattr(stack, "layers", None) or stack.layer):
        layer.register_forward_pre_hook(lambda layer, given, place=place: count(place))
    return counts


@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 1, 2, 3, 4])
@pytest.mark.parametrize("model_type", [*PLAIN, *OTHER])
def test_a_layers_states_are_those_of_a_run_of_all_layers(model_type, layer):
    tower = tower_of(model_type)
    for _ in range(2):
        _, states = read_layer(tower, FRAMES, layer)
        wanted = tower(FRAMES, output_hidden_states=True).hidden_states
        assert len(wanted) == 5
        assert torch.equal(states, wanted[layer])


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("model_type", PLAIN)
def test_gradients_are_those_of_a_run_of_all_layers(model_type, checkpoints):
    tower = tower_of(model_type).train()
    if checkpoints:
        newer = hasattr(tower, "activation_checkpointing_enable")  # 5.23 has renamed it
        enable = tower.activation_checkpointing_enable if newer else tower.gradient_checkpointing_enable
        enable()
    gradients = []
    for states in (read_layer(tower, FRAMES, -3)[1], tower(FRAMES, output_hidden_states=True).hidden_states[-3]):
        tower.zero_grad()
        states.square().sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in tower.parameters()])
    assert any(gradient is None for gradient in gradients[0])
    assert_close(gradients[0], gradients[1], atol=0, rtol=0)


@pytest.mark.parametrize("model_type", PLAIN)
def test_layers_behind_the_one_that_is_read_do_not_run(model_type):
    tower = tower_of(model_type)
    counts = runs_of(tower)
    read_layer(tower, FRAMES, -2)
    assert counts == [1, 1, 1, 1], "the first run"
    read_layer(tower, FRAMES, -2)
    assert counts == [2, 2, 2, 1]
    read_layer(tower, FRAMES, 2)
    assert counts == [3, 3, 2, 1]
    read_layer(tower, FRAMES, -1)
    assert counts == [4, 4, 3, 2]


@pytest.mark.parametrize("wanted", ["output_hidden_states", "output_attentions"])
@pytest.mark.parametrize("model_type", PLAIN)
def test_states_and_attentions_of_all_layers_are_given_where_they_are_asked_for(model_type, wanted):
    tower = tower_of(model_type, attn_implementation="eager")
    whole = tower(FRAMES, output_hidden_states=True, output_attentions=True)
    read_layer(tower, FRAMES, -2)
    output, states = read_layer(tower, FRAMES, -2, **{wanted: True})
    name = wanted.removeprefix("output_")
    assert len(output[name]) == len(whole[name])
    assert_close(output[name], whole[name], atol=0, rtol=0)
    assert torch.equal(states, whole.hidden_states[-2])


def test_attentions_that_the_towers_own_configuration_asks_for_are_given():
    tower = tower_of("clip_vision_model", attn_implementation="eager", output_attentions=True)
    assert len(read_layer(tower, FRAMES, -2)[0].attentions) == 4


def test_reading_a_layer_leaves_the_tower_as_it_was():
    tower = tower_of("clip_vision_model")
    read_layer(tower, FRAMES, -2)
    before = copy.deepcopy(tower)
    _, states = read_layer(tower, FRAMES, -2)
    assert torch.equal(read_layer(before, FRAMES, -2)[1], states)
    assert [name for name, _ in tower.named_modules()] == [name for name, _ in before.named_modules()]
    assert vars(tower).keys() == vars(before).keys()
    assert_close(tower.state_dict(), before.state_dict(), atol=0, rtol=0)


def test_hooks_of_a_tower_see_the_run():
    tower = tower_of("clip_vision_model")
    read_layer(tower, FRAMES, -2)
    seen = []
    tower.register_forward_pre_hook(lambda tower, given: seen.append(given[0].shape))
    tower.register_forward_hook(lambda tower, given, output: seen.append(output.last_hidden_state.shape))
    read_layer(tower, FRAMES, -2)
    assert seen == [FRAMES.shape, (2, 5, 32)]


@pytest.mark.parametrize("part", ["", "encoder"])
def test_a_forward_that_something_has_replaced_is_the_one_that_runs(part):
    tower = tower_of("clip_vision_model")
    _, wanted = read_layer(tower, FRAMES, -2)
    accelerate.cpu_offload(tower.get_submodule(part), "cpu")
    counts = runs_of(tower)
    _, states = read_layer(tower, FRAMES, -2)
    assert torch.equal(states, wanted)
    assert counts == [1, 1, 1, 1]


def test_a_tower_in_a_wrapper_that_shows_its_parts_runs_as_the_wrapper_likes():
    model = peft.get_peft_model(
        tiny_model(), peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["vision_tower"])
    )
    inputs = tiny_inputs()
    wanted = model(**inputs).logits
    assert_close(model(**inputs).logits, wanted, atol=0, rtol=0)
    tower = tower_of("clip_vision_model")
    _, states = read_layer(tower, FRAMES, -2)
    wrapped = peft.get_peft_model(tower, peft.LoraConfig(target_modules=["q_proj"]))
    for _ in range(2):
        assert_close(read_layer(wrapped, FRAMES, -2)[1], states, atol=0, rtol=0)


def test_a_layer_that_the_tower_does_not_have_is_an_error():
    for layer in (5, -6):
        with pytest.raises(IndexError):
            read_layer(tower_of("clip_vision_model"), FRAMES, layer)


def test_a_model_does_not_run_the_layers_that_it_does_not_read():
    model = tiny_model()
    counts = [0, 0, 0]

    def count(place):
        counts[place] += 1

    for place, layer in enumerate(model.model.vision_tower.encoder.layers):
        layer.register_forward_pre_hook(lambda layer, given, place=place: count(place))
    pixels = tiny_inputs()["pixel_values_videos"]
    whole = model.get_video_features(pixels, output_hidden_states=True)
    assert counts == [1, 1, 1]
    assert torch.equal(model.get_video_features(pixels).last_hidden_state, whole.last_hidden_state)
    assert counts == [2, 2, 1]
    model(**tiny_inputs())
    assert counts == [3, 3, 1]
