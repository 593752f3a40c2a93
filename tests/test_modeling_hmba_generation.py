"""Every way of `generate` that transformers offers, with videos, against the plain loop or the prompt alone."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import CompileConfig, LlamaForCausalLM

from hmba_hf.models import loading_transformers
from hmba_hf.models.loading_transformers import PREFILL_CHUNKS_KEEP_VIDEOS
from tiny_models import NUM_PATCHES, VIDEO_TOKEN_ID, open_gate, tiny_inputs, tiny_model

PAD = 102
NEW = 6
SAMPLES = {"num_return_sequences": 2, "do_sample": True, "top_k": 1}
CACHES = [{}, {"use_cache": False}, {"cache_implementation": "static"}]

KEEPS_VIDEOS = pytest.mark.skipif(not PREFILL_CHUNKS_KEEP_VIDEOS, reason="transformers 5.23 is the first to keep them")
IN_CHUNKS = pytest.param({"prefill_chunk_size": 3}, marks=KEEPS_VIDEOS)


def talkative_model(**kwargs):
    """Build a model whose answer depends on the video and does not end early."""
    model = open_gate(tiny_model(**kwargs))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "A_log" not in name:
                parameter.mul_(8)
    model.generation_config.update(eos_token_id=None, pad_token_id=PAD, max_new_tokens=NEW, do_sample=False)
    return model


@pytest.fixture
def model():
    return talkative_model()


def answers(model, inputs, **kwargs):
    """Generate and return the new tokens only."""
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return model.generate(**inputs, **kwargs)[:, prompt:]


@torch.no_grad()
def plain_loop(model, input_ids, **inputs):
    """Take the likeliest token that is no video token, run everything again, and so on."""
    for _ in range(NEW):
        logits = model(input_ids=input_ids, **inputs, use_cache=False).logits[:, -1]
        logits[:, VIDEO_TOKEN_ID] = -torch.inf
        input_ids = torch.cat([input_ids, logits.argmax(-1, keepdim=True)], dim=1)
    return input_ids[:, -NEW:]


def left_padded(*rows):
    """Join prompts of one row each into a left-padded batch with all their videos."""
    length = max(row["input_ids"].shape[1] for row in rows)
    ids = torch.full((len(rows), length), PAD)
    for i, row in enumerate(rows):
        ids[i, length - row["input_ids"].shape[1] :] = row["input_ids"][0]
    pixels = torch.cat([row["pixel_values_videos"] for row in rows if "pixel_values_videos" in row])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values_videos": pixels}


def text_row():
    return {"input_ids": torch.tensor([[1, 40, 41, 42]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


def test_greedy_search_equals_the_plain_loop(model):
    inputs = tiny_inputs()
    wanted = plain_loop(model, inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"])
    assert torch.equal(answers(model, inputs), wanted)


def test_the_answer_depends_on_the_video(model):
    inputs, found = tiny_inputs(), set()
    for frame in (None, 0, 4):  # the past matters as the present does
        pixels = inputs["pixel_values_videos"].clone()
        if frame is not None:
            pixels[:, frame] = torch.randn(3, 28, 28)
        found.add(tuple(answers(model, {**inputs, "pixel_values_videos": pixels})[0].tolist()))
    assert len(found) == 3


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_every_cache_gives_the_same_answer(model, cache):
    inputs = tiny_inputs(batch=2)
    wanted = plain_loop(model, inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"])
    assert torch.equal(answers(model, inputs, **cache), wanted)


def test_compiled_steps_give_the_same_answer(model):
    inputs, graphs = tiny_inputs(batch=2), []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph

    # Generating code takes minutes on a small CPU; a graph without a break is what the model is responsible for.
    compilation = CompileConfig(fullgraph=True, backend=backend, mode=None)
    compilation._compile_all_devices = True
    found = answers(model, inputs, cache_implementation="static", compile_config=compilation)
    assert torch.equal(found, answers(model, inputs))
    assert len(graphs) == 1


def test_sampling_repeats_with_its_seed(model):
    inputs, drawn = tiny_inputs(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(answers(model, inputs, do_sample=True, temperature=30.0, num_return_sequences=3))
    assert drawn[0].shape == (3, NEW)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len({tuple(row.tolist()) for row in drawn[0]}) > 1


def test_several_samples_of_the_likeliest_token_are_the_greedy_answer(model):
    inputs = tiny_inputs(batch=2)
    drawn = answers(model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(drawn, answers(model, inputs).repeat_interleave(2, dim=0))


@pytest.mark.parametrize("videos", [1, 2])
def test_beam_search_over_a_batch_equals_each_row_alone(model, videos):
    inputs = tiny_inputs(batch=2, videos=videos)
    beams = {"num_beams": 3, "num_return_sequences": 2}
    for i, wanted in enumerate(answers(model, inputs, **beams).split(2)):
        pixels = inputs["pixel_values_videos"].split(videos)[i]
        assert torch.equal(answers(model, {**row_of(inputs, i), "pixel_values_videos": pixels}, **beams), wanted)


def row_of(inputs, i):
    return {k: v[i : i + 1] for k, v in inputs.items() if k in ("input_ids", "attention_mask")}


def test_beam_search_scores_its_answer_as_the_model_does(model):
    inputs = tiny_inputs()
    found = model.generate(**inputs, num_beams=4, return_dict_in_generate=True, output_scores=True, length_penalty=0.0)
    logits = model(found.sequences, inputs["pixel_values_videos"]).logits
    start = inputs["input_ids"].shape[1]
    logits = logits[:, start - 1 : -1].log_softmax(-1)
    score = logits.gather(2, found.sequences[:, start:, None]).sum()
    assert_close(found.sequences_scores[0], score, atol=1e-3, rtol=1e-3)


def test_a_left_padded_batch_answers_as_each_prompt_alone(model):
    rows = [tiny_inputs(), tiny_inputs(videos=2), tiny_inputs()]
    rows[2]["input_ids"] = torch.cat([torch.tensor([[1, 30, 31]]), rows[2]["input_ids"][:, 1:]], dim=1)
    rows[2]["attention_mask"] = torch.ones(1, 13, dtype=torch.long)
    wanted = torch.cat([answers(model, row) for row in rows])
    assert torch.equal(answers(model, left_padded(*rows)), wanted)


@pytest.mark.parametrize("how", [*CACHES, {"num_beams": 2}], ids=str)
def test_a_batch_with_videos_in_some_rows_answers_as_each_row_alone(model, how):
    rows = [text_row(), tiny_inputs(), text_row(), tiny_inputs(videos=2)]
    wanted = torch.cat([answers(model, row, **how) for row in rows])
    assert torch.equal(answers(model, left_padded(*rows), **how), wanted)


def test_text_alone_is_answered_by_the_language_model(model):
    alone = LlamaForCausalLM(model.config.text_config).eval()
    alone.model, alone.lm_head = model.model.language_model, model.lm_head
    alone.generation_config = model.generation_config
    assert torch.equal(answers(model, text_row()), answers(alone, text_row()))


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_clips_of_any_length_are_answered(model, frames):
    inputs = tiny_inputs(frames=frames)
    wanted = plain_loop(model, inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"])
    assert torch.equal(answers(model, inputs), wanted)


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, SAMPLES], ids=str)
def test_clips_padded_to_one_length_are_answered_as_each_alone(model, how):
    rows = [tiny_inputs(frames=3), tiny_inputs(frames=5)]
    wanted = torch.cat([answers(model, row, **how) for row in rows])
    short = rows[0]["pixel_values_videos"]
    rows[0]["pixel_values_videos"] = torch.cat([torch.zeros_like(short[:, :2]), short], dim=1)
    mask = torch.arange(5) >= torch.tensor([[2], [0]])
    assert torch.equal(answers(model, {**left_padded(*rows), "frame_mask": mask}, **how), wanted)


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}], ids=str)
def test_embeddings_instead_of_ids_give_the_same_answer(model, how):
    inputs = tiny_inputs(batch=2)
    wanted = answers(model, inputs, **how)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(answers(model, {**inputs, "inputs_embeds": embeds}, **how), wanted)


@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, SAMPLES], ids=str)
def test_features_computed_before_give_the_same_answer(model, how):
    inputs = tiny_inputs(batch=2)
    wanted = answers(model, inputs, **how)
    video = model.get_video_features(inputs.pop("pixel_values_videos"))
    assert torch.equal(answers(model, {**inputs, "mm_encoder_outputs": {"video": video}}, **how), wanted)


@KEEPS_VIDEOS
@pytest.mark.parametrize("chunk", [1, 3, 4, 64])
def test_a_prompt_read_in_chunks_gives_the_same_answer(model, chunk):
    inputs = tiny_inputs(batch=2, videos=2)
    assert torch.equal(answers(model, inputs, prefill_chunk_size=chunk), answers(model, inputs))


@pytest.mark.parametrize("by_config", [False, True])
def test_chunks_that_would_lose_their_videos_are_refused(model, monkeypatch, by_config):
    monkeypatch.setattr(loading_transformers, "PREFILL_CHUNKS_KEEP_VIDEOS", False)
    config = copy.deepcopy(model.generation_config)
    config.prefill_chunk_size = 4
    how = {"generation_config": config} if by_config else {"prefill_chunk_size": 4}
    with pytest.raises(ValueError, match="prefill_chunk_size must be absent with transformers older than 5.23, got 4"):
        answers(model, tiny_inputs(), **how)


def test_another_model_may_assist(model):
    inputs = tiny_inputs()
    assistants = [LlamaForCausalLM(model.config.text_config).eval(), open_gate(tiny_model())]
    for assistant in assistants:
        assistant.generation_config.update(eos_token_id=None, pad_token_id=PAD)
        assert torch.equal(answers(model, inputs, assistant_model=assistant), answers(model, inputs))


def test_the_prompt_may_assist(model):
    inputs = tiny_inputs(videos=2)
    assert torch.equal(answers(model, inputs, prompt_lookup_num_tokens=3), answers(model, inputs))


def test_the_video_is_encoded_once(model):
    calls = []
    model.model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    answers(model, tiny_inputs(batch=2), num_beams=2)
    assert calls == [10]


@pytest.mark.parametrize("new_video", [False, True])
def test_a_second_turn_on_the_first_turns_cache_equals_the_whole_prompt(model, new_video):
    first, more = tiny_inputs(), tiny_inputs() if new_video else text_row()
    turn = model.generate(**first, return_dict_in_generate=True)
    ids = torch.cat([turn.sequences, more["input_ids"]], dim=1)
    videos = [row["pixel_values_videos"] for row in (first, more) if "pixel_values_videos" in row]
    wanted = answers(model, {"input_ids": ids, "pixel_values_videos": torch.cat(videos)})
    new = {"pixel_values_videos": videos[1]} if new_video else {}
    assert torch.equal(answers(model, {"input_ids": ids, "past_key_values": turn.past_key_values, **new}), wanted)


@pytest.mark.parametrize(
    "how",
    [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}, {"use_cache": False}, {"suppress_tokens": [5]}, SAMPLES],
    ids=str,
)
def test_a_model_that_wants_to_show_a_video_still_answers(model, how):
    model.lm_head.register_forward_hook(lambda m, args, out: out.index_fill(-1, torch.tensor(VIDEO_TOKEN_ID), 1e4))
    found = answers(model, tiny_inputs(), **how)
    assert found.shape == (how.get("num_return_sequences", 1), NEW)
    assert not (found == VIDEO_TOKEN_ID).any()


def test_other_tokens_may_be_suppressed_too(model):
    loud = torch.tensor([5, VIDEO_TOKEN_ID])
    model.lm_head.register_forward_hook(lambda m, args, out: out.index_fill(-1, loud, 1e4))
    assert (answers(model, tiny_inputs()) == 5).all()
    assert not torch.isin(answers(model, tiny_inputs(), suppress_tokens=[5]), loud).any()


def test_what_the_model_saw_and_where_can_be_returned(model):
    model.set_attn_implementation("eager")
    inputs = tiny_inputs()
    found = model.generate(**inputs, return_dict_in_generate=True, output_attentions=True, output_logits=True)
    assert len(found.attentions) == len(found.logits) == NEW
    assert found.attentions[0][0].shape == (1, 4, 11, 11)


@pytest.mark.parametrize(
    "how", [*CACHES, {"num_beams": 2}, pytest.param({"prefill_chunk_size": 3}, marks=KEEPS_VIDEOS)], ids=str
)
def test_a_prompt_without_its_video_is_not_answered_as_if_it_had_one(model, how):
    inputs = tiny_inputs()
    pixels = inputs.pop("pixel_values_videos")
    with pytest.raises(ValueError, match=r"for each of 0 video features, got \d"):
        answers(model, inputs, **how)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    if "prefill_chunk_size" not in how:
        with pytest.raises(ValueError, match=r"for each of 0 video features, got \d"):
            answers(model, {"inputs_embeds": embeds}, **how)
    assert answers(model, {**inputs, "pixel_values_videos": pixels}, **how).shape == (1, NEW)


def test_a_second_turn_without_its_video_is_not_answered_as_if_it_had_one(model):
    first, more = tiny_inputs(), tiny_inputs()
    turn = model.generate(**first, return_dict_in_generate=True)
    ids = torch.cat([turn.sequences, more["input_ids"]], dim=1)
    with pytest.raises(ValueError, match="for each of 0 video features, got 4"):
        answers(model, {"input_ids": ids, "past_key_values": turn.past_key_values})


def test_two_videos_are_not_spread_over_the_tokens_of_one_and_a_half(model):
    inputs = tiny_inputs(batch=2)
    start = inputs["input_ids"][0].tolist().index(VIDEO_TOKEN_ID)
    inputs["input_ids"][0, start] = 20
    inputs["input_ids"][1, start + NUM_PATCHES] = VIDEO_TOKEN_ID
    with pytest.raises(ValueError, match=r"each prompt must hold 4 video tokens for each of its videos, got \[3, 5\]"):
        answers(model, inputs)


@pytest.mark.parametrize("adapter", ["none", "mean", "transformer"])
def test_baselines_generate(adapter):
    inputs, model = tiny_inputs(), talkative_model(adapter=adapter)
    wanted = plain_loop(model, inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"])
    assert torch.equal(answers(model, inputs), wanted)
