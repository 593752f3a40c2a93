"""Arguments that model and pipeline inherit: each one works, or is refused by its name."""

from contextlib import ExitStack

import pytest
import torch
from peft import LoraConfig
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
    MixtralConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
    pipeline,
)
from transformers.generation.continuous_batching.utils import WorkloadHints
from transformers.utils import is_kernels_available
from transformers.utils.loading_report import LoadStateDictInfo

from hmba_hf import HMBAForConditionalGeneration
from hmba_hf.models.pipeline_hmba import VideoTextToTextPipeline
from tiny_models import VIDEO_TOKEN_ID, assert_equal_weights, lively_model, tiny_config, tiny_inputs, tiny_model
from tiny_processors import clip, tiny_processor, user, video

GREEDY = {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}


@pytest.fixture
def model():
    return lively_model()


def answers(model, inputs, **options):
    return model.generate(**inputs, **GREEDY, **options)[:, inputs["input_ids"].shape[1] :]


def test_a_prompt_may_be_given_by_position(model):
    inputs = tiny_inputs()
    wanted = answers(model, inputs)
    found = model.generate(inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"], **GREEDY)
    assert torch.equal(found[:, -4:], wanted)


def test_what_guides_generation_is_heeded(model):
    inputs, wanted = tiny_inputs(), answers(model, tiny_inputs())
    assert answers(model, inputs, prefix_allowed_tokens_fn=lambda row, ids: [5]).tolist() == [[5] * 4]

    def force_six(ids, scores):
        return scores.index_fill(-1, torch.tensor(6), 1e9)

    assert answers(model, inputs, logits_processor=[force_six]).tolist() == [[6] * 4]

    class AtOnce(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return torch.ones(len(ids), dtype=torch.bool)

    assert answers(model, inputs, stopping_criteria=StoppingCriteriaList([AtOnce()])).shape == (1, 1)
    ended = answers(model, inputs, custom_generate=lambda model, input_ids, **rest: input_ids)
    assert ended.shape == (1, 0)
    negative = {
        "negative_prompt_ids": torch.tensor([[1, 10, 11]]),
        "negative_prompt_attention_mask": torch.ones(1, 3).long(),
    }
    guided = [answers(model, inputs, guidance_scale=3.0), answers(model, inputs, guidance_scale=3.0, **negative)]
    assert not torch.equal(guided[0], wanted) and not torch.equal(guided[1], wanted)


def test_a_streamer_is_given_the_answer_and_scores_can_be_read(model, capsys):
    tokenizer = tiny_processor().tokenizer
    found = model.generate(**tiny_inputs(), **GREEDY, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out.strip() == tokenizer.decode(found[0, -4:]).strip()
    kept = model.generate(**tiny_inputs(), **GREEDY, return_dict_in_generate=True, output_scores=True)
    scores = model.compute_transition_scores(kept.sequences, kept.scores, normalize_logits=True)
    assert scores.shape == (1, 4) and (scores <= 0).all()


def test_prompts_with_video_tokens_are_refused_where_no_videos_can_be_given(model):
    with pytest.raises(ValueError, match="must be without videos, got one in prompt 1"):
        model.generate_batch([[1, 10, 11], [1, VIDEO_TOKEN_ID, 12]], generation_config=GenerationConfig(**GREEDY))


def test_scores_of_beams_add_up_to_those_of_their_answers(model):
    beams = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 1.0}
    kept = model.generate(**tiny_inputs(batch=2), **GREEDY, **beams, return_dict_in_generate=True, output_scores=True)
    scores = model.compute_transition_scores(kept.sequences, kept.scores, kept.beam_indices)
    assert scores.shape == (4, 4) and len({*kept.beam_indices.flatten().tolist()}) > 2
    torch.testing.assert_close(scores.sum(-1) / 4, kept.sequences_scores)


TEXTS = ([1, 10, 11], [1, 12])


def plain_answers(model):
    return [model.generate(torch.tensor([prompt]), **GREEDY)[0, len(prompt) :].tolist() for prompt in TEXTS]


def test_texts_are_answered_together_as_they_are_alone(model, capsys):
    loud = model.lm_head.register_forward_hook(
        lambda m, args, out: out.index_fill(-1, torch.tensor(VIDEO_TOKEN_ID), 9e3)
    )
    wanted = plain_answers(model)
    how = {
        "generation_config": GenerationConfig(max_new_tokens=9, do_sample=False, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(page_size=32, num_blocks=8, return_logprobs=True),
    }
    found = model.generate_batch(
        [*TEXTS],
        max_new_tokens=4,
        record_timestamps=True,
        progress_bar=True,
        persistent_manager=True,
        warmup=False,
        **how,
    )
    assert [answer.generated_tokens for answer in found.values()] == wanted, "and never with a video token"
    assert all(len(answer.timestamps) == len(answer.logprobs) == 4 for answer in found.values())
    assert "Solving 2 requests" in capsys.readouterr().err
    loud.remove()
    kept = model.init_continuous_batching(**how)
    assert kept is model.init_continuous_batching(**how), "a manager that was to persist"
    model.destroy_cached_continuous_batching_manager()
    assert kept is not model.init_continuous_batching(**how)
    with pytest.raises(TypeError, match=r"options of generate_batch must be among .*, got \['do_sample'\]"):
        model.generate_batch([*TEXTS], do_sample=True)


def test_texts_are_answered_as_they_come_and_videos_are_refused(model):
    wanted = plain_answers(model)
    config = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1)
    how = {"continuous_batching_config": ContinuousBatchingConfig(page_size=32, num_blocks=8)}
    hints = WorkloadHints(max_prompt_length=3, max_generated_length=4, num_requests=2)
    with model.continuous_batching_context_manager(
        config, block=True, timeout=5, persistent_manager=False, warmup=False, workload_hints=hints, **how
    ) as manager:
        for add, prompt in (
            (manager.add_request, [1, VIDEO_TOKEN_ID]),
            (manager.add_requests, [[1], [1, VIDEO_TOKEN_ID]]),
        ):
            with pytest.raises(ValueError, match="must be without videos, got one with video tokens"):
                add(prompt)
        names = manager.add_requests([*TEXTS])
        found = {}
        while not found.keys() >= {*names} and manager.is_running():
            answer = manager.get_result(timeout=1)
            if answer is not None:
                found[answer.request_id] = answer.generated_tokens
    assert [found[name] for name in names] == wanted
    assert not manager.is_running() and not hasattr(model, "_cached_continuous_batching_manager")


def test_what_a_config_compiles_is_kept_until_another_comes(model, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: given.append(options) or [call])
    config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compiled = model.get_compiled_call(config)
    assert compiled == [model.__call__] and model.get_compiled_call(config) is compiled
    assert model.get_compiled_call(CompileConfig(backend="aot_eager", mode=None)) is not compiled
    assert [options["backend"] for options in given] == ["eager", "aot_eager"] and given[0]["fullgraph"]


@pytest.mark.skipif(is_kernels_available(), reason="what is refused without the package `kernels`")
def test_kernels_of_others_need_their_package(model):
    for trusts in (False, True):
        # transformers 5.19 knows no such attention at all
        with pytest.raises((ImportError, ValueError), match='kernels|"someone/attention"` is not supported'):
            model.set_attn_implementation("someone/attention", allow_all_kernels=trusts)
    assert model.model.language_model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="Kernels are not available"):
        model.set_use_kernels(True, kernel_config=None, mode=None)
    model.set_use_kernels(False)
    assert not model.use_kernels


def test_attention_is_what_is_asked_for_or_refused(model):
    assert model.get_correct_attn_implementation(None) == "sdpa"
    assert model.get_correct_attn_implementation("eager", is_init_check=True) == "eager"
    with pytest.raises(ValueError, match='"nonsense"` is not supported'):
        model.get_correct_attn_implementation("nonsense")


def test_experts_of_the_language_model_are_run_as_is_asked():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_local_experts": 4, "num_key_value_heads": 2, "vocab_size": 104, "pad_token_id": 102}
    model = tiny_model(text_config=MixtralConfig(**sizes, **experts))
    inputs = tiny_inputs()
    logits = []
    for name in ("eager", "batched_mm"):
        model.set_experts_implementation(name)
        assert model.get_experts_implementation()["text_config"] == name
        assert model.model.language_model.config._experts_implementation == name
        logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits)
    assert model.get_correct_experts_implementation("eager") == "eager"
    for refused in (model.set_experts_implementation, model.get_correct_experts_implementation):
        with pytest.raises(ValueError, match='"nonsense"` is not supported'):
            refused("nonsense")


def test_a_model_is_built_without_memory_where_transformers_builds_it():
    for allows in (None, True):
        with ExitStack() as stack:
            given = {"is_quantized": False, "_is_ds_init_called": False, "allow_all_kernels": allows}
            for context in HMBAForConditionalGeneration.get_init_context(torch.bfloat16, **given):
                stack.enter_context(context)
            model = HMBAForConditionalGeneration(tiny_config())
        assert {weight.device.type for weight in model.parameters()} == {"meta"}
        assert model.lm_head.weight.dtype == torch.bfloat16


def test_weights_are_drawn_once_and_those_that_are_loaded_stay():
    model, other = tiny_model(), tiny_model()
    other.load_state_dict(model.state_dict())
    for draw in (model.init_weights, model.initialize_weights):
        draw()
        assert_equal_weights(model, other)
    for module in model.modules():
        module._is_hf_initialized = False
    model.initialize_weights()
    weights = other.state_dict()
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
    for name, weight in model.state_dict().items():
        spread = weights[name].std()
        if weight.ndim > 1 and spread > 0 and "vision_tower" not in name:
            assert 0.6 < weight.std() / spread < 1.6, f"{name} is of another distribution"


def test_weights_that_are_tied_are_named_and_never_drawn():
    tied, plain = tiny_model(tie_word_embeddings=True), tiny_model()
    wanted = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    assert tied.get_expanded_tied_weights_keys() == tied.get_expanded_tied_weights_keys(all_submodels=True) == wanted
    assert plain.get_expanded_tied_weights_keys(all_submodels=True) == {}
    tied.lm_head.weight._is_hf_initialized = False
    report = LoadStateDictInfo({"lm_head.weight", "model.temporal_adapter.gate"}, set(), set(), [], {}, set())
    tied.model.temporal_adapter.gate._is_hf_initialized = False
    tied.mark_tied_weights_as_initialized(report)
    assert tied.lm_head.weight._is_hf_initialized
    assert report.missing_keys == {"lm_head.weight", "model.temporal_adapter.gate"}


def test_modules_and_buffers_are_found_by_name(model):
    projector = model.model.multi_modal_projector
    assert model.retrieve_modules_from_names(["lm_head.weight"]) == [model.lm_head]
    assert model.retrieve_modules_from_names(["multi_modal_projector.bias"], remove_prefix=True) == [projector]
    names = ["model.multi_modal_projector.weight"]
    assert model.model.retrieve_modules_from_names(names, add_prefix=True) == [projector]
    assert model.model.retrieve_modules_from_names(names) == []
    buffers = dict(model.named_non_persistent_buffers())
    assert "model.language_model.rotary_emb.inv_freq" in buffers and not buffers.keys() & model.state_dict().keys()
    assert dict(model.named_non_persistent_buffers(recurse=False)) == {}
    model.model.again = model.model.language_model.rotary_emb
    twice = [name for name, _ in model.named_non_persistent_buffers(remove_duplicate=False)]
    assert len(twice) > len(buffers) == len([*model.named_non_persistent_buffers()])


def test_ids_that_look_padded_are_warned_of(model, monkeypatch):
    warned = []
    monkeypatch.setattr("transformers.modeling_utils.logger.warning_once", warned.append)
    for ids, mask in (([[1, 10]], None), ([[102, 1]], torch.tensor([[0, 1]]))):
        model.warn_if_padding_and_no_attention_mask(torch.tensor(ids), mask)
        assert not warned
    for part in (model, model.model):
        part.warn_if_padding_and_no_attention_mask(torch.tensor([[102, 1]]), None)
    assert len(warned) == 2 and "attention_mask" in warned[0]


@pytest.mark.skipif(
    not hasattr(PreTrainedModel, "activation_checkpointing_enable"), reason="this transformers recomputes all layers"
)
def test_layers_may_be_recomputed_by_turns(model):
    inputs = tiny_inputs()
    model.train()
    plain = model(**inputs, labels=inputs["input_ids"]).loss
    model.activation_checkpointing_enable(every_n_layers=2)
    assert torch.equal(model(**inputs, labels=inputs["input_ids"]).loss, plain)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing
    model.enable_input_require_grads()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    model.disable_input_require_grads()


def test_parts_can_be_named_set_and_counted(model):
    assert model.get_decoder() is model.model.language_model and model.get_encoder("video") is model.model.vision_tower
    model.set_decoder(model.model.language_model)
    model.set_encoder(model.model.vision_tower, modality="video")
    counts = [model.num_parameters(), model.num_parameters(exclude_embeddings=True)]
    assert counts[0] == sum(weight.numel() for weight in model.parameters()) and counts[1] < counts[0]
    model.model.vision_tower.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) < counts[0]
    assert (
        model.get_memory_footprint() >= 4 * counts[0]
        and model.get_memory_footprint(return_buffers=False) >= 4 * counts[0]
    )
    for name in ("get_position_embeddings", "resize_position_embeddings"):
        with pytest.raises(NotImplementedError, match=name):
            getattr(model, name)(*([5] if name.startswith("resize") else []))
    with pytest.raises(ValueError, match="first quantize"):
        model.dequantize()


def test_a_model_changes_its_type_and_says_what_it_is(model):
    inputs, plain = tiny_inputs(), answers(model, tiny_inputs())
    assert model.half().dtype == torch.float16
    assert model.float().dtype == torch.float32 and answers(model, inputs).shape == plain.shape
    assert model.can_generate() and model.is_backend_compatible()
    assert model.is_remote_code() and model.is_custom_code(), "its code travels with it"
    assert model.get_parameter_or_buffer("lm_head.weight") is model.lm_head.weight
    with pytest.raises(ValueError, match="tokenizer"):
        model.heal_tokens(inputs["input_ids"])


def test_low_rank_updates_are_added_chosen_and_removed(model, monkeypatch):
    # transformers 5.24.0 asks for peft 0.22.0, which is not published yet; what it calls is in 0.21 as well.
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda min_version: None)
    inputs = tiny_inputs()
    plain = answers(model, inputs)
    settings = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model.add_adapter(settings, adapter_name="first")
    model.add_adapter(settings, adapter_name="second")
    model.set_adapter("first")
    assert model.active_adapters() == ["first"] and model.get_adapter_state_dict("first")
    logits = [model(**inputs).logits]
    model.set_adapter("second")
    logits += [model(**inputs).logits]
    model.disable_adapters()
    assert torch.equal(answers(model, inputs), plain)
    model.enable_adapters()
    assert not torch.equal(*logits)
    model.delete_adapter("first")
    assert torch.equal(model(**inputs).logits, logits[1])


@pytest.mark.parametrize("part", ["tokenizer", "feature_extractor", "image_processor", "video_processor"])
def test_a_pipeline_refuses_parts_that_its_processor_would_shadow(part):
    given = {part: getattr(tiny_processor(), part, object())}
    with pytest.raises(ValueError, match=rf"the parts of a processor must be given within it, got \['{part}'\]"):
        VideoTextToTextPipeline(model=tiny_model(), processor=tiny_processor(), **given)


def test_a_pipeline_answers_by_every_name_and_in_batches():
    pipe = pipeline(
        "video-text-to-text", model=lively_model(), processor=tiny_processor(), device="cpu", max_new_tokens=4
    )
    rows = [{"text": "Left?", "videos": clip(shade=shade)} for shade in (0, 200)]
    wanted = [pipe(row) for row in rows]
    assert pipe(rows, batch_size=2, num_workers=0) == wanted == pipe.predict(rows) == pipe.transform(rows)
    assert pipe([user(video(clip()), "Left?")]) == wanted[0]
    with pytest.raises(ValueError, match="images"):
        pipe(videos=clip(), text="Left?", images=clip()[0])


def test_a_pipeline_in_a_folder_takes_options_of_its_model(tmp_path):
    lively_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    options = {"attn_implementation": "eager", "ignore_mismatched_sizes": True}
    pipe = pipeline("video-text-to-text", model=str(tmp_path), dtype=torch.float64, device="cpu", model_kwargs=options)
    assert pipe.model.config._attn_implementation == "eager" and pipe.dtype == torch.float64
