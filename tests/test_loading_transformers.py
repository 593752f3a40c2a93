"""The versions of transformers that H-MBA runs with: both names of the cache, wherever one is taken or given."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, LlamaModel

from hmba_hf.models.loading_transformers import CACHE_NAME, CACHE_NAMES, slice_logits_to_keep
from tiny_models import lively_model, open_gate, tiny_inputs, tiny_model

LLAMA_FORWARD = LlamaModel.forward


def takes_past_key_values(
    self, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs
):
    given = {"attention_mask": attention_mask, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
    return LLAMA_FORWARD(self, **given, **{CACHE_NAME: past_key_values}, **kwargs)


def takes_cache(self, attention_mask=None, position_ids=None, cache=None, inputs_embeds=None, **kwargs):
    given = {"attention_mask": attention_mask, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
    return LLAMA_FORWARD(self, **given, **{CACHE_NAME: cache}, **kwargs)


def takes_whatever_comes(*args, **kwargs):
    return LLAMA_FORWARD(*args, **kwargs)


def takes_no_cache(self, attention_mask=None, position_ids=None, inputs_embeds=None, **kwargs):
    raise AssertionError("it must be refused before it is called")


@pytest.mark.parametrize("forward", [takes_past_key_values, takes_cache, takes_whatever_comes])
def test_a_language_model_is_taken_whatever_name_its_forward_has_for_the_cache(monkeypatch, forward):
    inputs, options = tiny_inputs(), {"max_new_tokens": 5, "eos_token_id": None}
    wanted = lively_model().generate(**inputs, **options)
    assert not torch.equal(wanted, lively_model().generate(**tiny_inputs(), **options))
    monkeypatch.setattr(LlamaModel, "forward", forward)
    found, lengths = lively_model(), []
    found.model.language_model.layers[0].register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    assert torch.equal(found.generate(**inputs, **options), wanted)
    assert lengths == [inputs["input_ids"].shape[1], 1, 1, 1, 1], "the prompt is read once"


def test_a_language_model_without_a_cache_is_refused(monkeypatch):
    monkeypatch.setattr(LlamaModel, "forward", takes_no_cache)
    with pytest.raises(ValueError, match=r"got LlamaModel, which does not take \['cache'\]"):
        tiny_model()


@pytest.mark.parametrize("part", ["whole", "base"])
def test_the_cache_of_continuous_batching_keeps_its_name(monkeypatch, part):
    """Attention takes it as `cache`, also where the language model calls its own cache `past_key_values`."""
    seen = []

    def forward(self, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None, **kwargs):
        seen.append((past_key_values, kwargs.pop("cache", None)))
        return takes_past_key_values(self, attention_mask, position_ids, None, inputs_embeds, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    model = tiny_model() if part == "whole" else tiny_model().model
    paged = object()
    own = object()
    plain = DynamicCache()
    for cache in ({"cache": paged}, {"past_key_values": own}, {"cache": plain}):
        model(input_ids=torch.tensor([[1, 2]]), **cache)
    assert seen == [(None, paged), (own, None), (plain, None)]


@torch.no_grad()
@pytest.mark.parametrize("name", CACHE_NAMES)
@pytest.mark.parametrize("part", ["whole", "base"])
def test_forward_takes_and_gives_the_cache_under_both_names(part, name):
    model = open_gate(tiny_model())
    inputs = tiny_inputs()
    model = model if part == "whole" else model.model
    whole = model(**inputs)
    start = {name: value[:, :-2] for name, value in inputs.items() if name != "pixel_values_videos"}
    first = model(**start, pixel_values_videos=inputs["pixel_values_videos"], use_cache=True)
    assert first.cache is first.past_key_values and first.cache.get_seq_length() == start["input_ids"].shape[1]
    rest = model(input_ids=inputs["input_ids"][:, -2:], **{name: first.cache})
    assert_close(rest[0], whole[0][:, -2:])
    assert rest.past_key_values is first.cache
    with pytest.raises(ValueError, match="one of cache and past_key_values must be given, got both"):
        model(input_ids=inputs["input_ids"][:, -2:], cache=first.cache, past_key_values=first.cache)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_generation_goes_on_from_a_cache_under_either_name(name):
    model, inputs = lively_model(), tiny_inputs()
    options = {"max_new_tokens": 4, "eos_token_id": None}
    wanted = model.generate(**inputs, **options)
    start = {key: value[:, :-1] for key, value in inputs.items() if key != "pixel_values_videos"}
    with torch.no_grad():
        first = model(**start, pixel_values_videos=inputs["pixel_values_videos"], use_cache=True)
    found = model.generate(input_ids=inputs["input_ids"], **{name: first.cache}, **options)
    assert torch.equal(found, wanted)


def test_a_cache_stays_where_it_is_and_out_of_predictions_under_both_names():
    model = tiny_model()
    assert set(CACHE_NAMES) <= set(model._skip_keys_device_placement)
    assert set(CACHE_NAMES) <= set(model.config.keys_to_ignore_at_inference)


def test_logits_are_kept_where_they_are_wanted():
    hidden_states = torch.arange(12.0).view(2, 3, 2)
    assert torch.equal(slice_logits_to_keep(hidden_states, 0), hidden_states)
    assert torch.equal(slice_logits_to_keep(hidden_states, 2), hidden_states[:, 1:])
    assert torch.equal(slice_logits_to_keep(hidden_states, torch.tensor([2, 0])), hidden_states[:, [2, 0]])
    each = slice_logits_to_keep(hidden_states, torch.tensor([[2], [0]]))
    assert torch.equal(each, torch.stack([hidden_states[0, 2:], hidden_states[1, :1]]))
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.equal(slice_logits_to_keep(hidden_states, mask), hidden_states[0, ::2])
