import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    CLIPVisionConfig,
    LlamaConfig,
)

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAModel
from hmba_hf.conversion.rename_keys import TOWER, rename_tensors, shikra_rules, vision_tower_rules
from tiny_models import NUM_PATCHES, VIDEO_TOKEN_ID, open_adapter, open_gate, tiny_config, tiny_inputs, tiny_model

# Back over time, the current frame alone is scanned: a single step has no past to let decay.
OVER_ONE_STEP = {f"context.mixers.{scan}.reverse_mixer.A_log" for scan in ("temporal", "divided_time")}
LABELS = [f"{branch}/stride_{stride}" for stride in (1, 2) for branch in tiny_config().branches]


def record_spliced_embeddings(model):
    """Return a list that receives what the language model is given, at each forward."""
    seen, language_model = [], model.model.language_model
    language_model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw["inputs_embeds"]), with_kwargs=True)
    return seen


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def idle_parameters(module):
    """Return the names of the parameters that no gradient reached."""
    return {
        name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }


@pytest.fixture
def released(golden):
    """The tiny released model's weights in ours, its inputs, and its numbers."""
    tensors, facts = golden("hmba_e2e_small")
    clip, llama = facts["config"]["clip"], facts["config"]["llama"]
    clip_names = ("hidden_size", "intermediate_size", "image_size", "patch_size", "hidden_act", "layer_norm_eps")
    llama_names = ("hidden_size", "intermediate_size", "rms_norm_eps")
    sizes = [{"num_hidden_layers": c["layers"], "num_attention_heads": c["heads"]} for c in (clip, llama)]
    config = HMBAConfig.released(
        vision_config=CLIPVisionConfig(**sizes[0], **{name: clip[name] for name in clip_names}),
        text_config=LlamaConfig(**sizes[1], **{name: llama[name] for name in llama_names}, vocab_size=llama["vocab"]),
        video_token_id=facts["config"]["tokens"]["im_patch"],
    )
    model = HMBAForConditionalGeneration(config).eval()
    weights, tower = (
        {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)} for start in ("w.", "clip.")
    )
    state = model.state_dict()
    seen = {name: tensor for name, tensor in state.items() if name.startswith(TOWER)}
    read = {name: tensor for name, tensor in state.items() if name not in seen}
    renamed = rename_tensors(weights, shikra_rules(), read) | rename_tensors(tower, vision_tower_rules(seen), seen)
    model.load_state_dict(renamed)
    pixels = torch.cat([tensors["in.videos"], tensors["in.images"][:, None]], dim=1)
    return model, {"input_ids": tensors["in.input_ids"], "pixel_values_videos": pixels}, tensors


def test_the_released_model_gives_the_released_codes_numbers(released):
    model, inputs, tensors = released
    video = model.get_video_features(inputs["pixel_values_videos"])
    seen = record_spliced_embeddings(model)
    output = model(**inputs, labels=tensors["in.labels"])
    assert_close(video.last_hidden_state, tensors["out.adapted"], atol=2e-5, rtol=0)
    assert_close(seen[0], tensors["out.inputs_embeds"], atol=2e-5, rtol=0)
    assert_close(output.logits, tensors["out.logits"], atol=2e-5, rtol=0)
    assert_close(output.loss, tensors["out.loss"][0], atol=2e-5, rtol=0)


def test_the_vision_tower_gives_the_released_codes_features(released):
    model, inputs, tensors = released
    seen = []
    model.model.temporal_adapter.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.get_video_features(inputs["pixel_values_videos"])
    assert_close(seen[0][:, :-1], tensors["out.video_features"], atol=2e-5, rtol=0)
    assert_close(seen[0][:, -1], tensors["out.image_features"], atol=2e-5, rtol=0)


def test_a_fresh_adapter_changes_no_logit():
    inputs, model = tiny_inputs(batch=2), tiny_model()
    still = tiny_model(adapter="none")
    missing = still.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert not missing
    assert torch.equal(model(**inputs).logits, still(**inputs).logits)


def test_one_training_step_opens_the_gate():
    inputs, model = tiny_inputs(), tiny_model().train()
    before = model(**inputs).logits
    optimizer = torch.optim.SGD(model.model.temporal_adapter.parameters(), lr=1.0)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    assert model.model.temporal_adapter.gate.any()
    assert not torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("adapter", ["mamba", "none", "mean", "transformer"])
def test_every_adapter_answers_and_learns(adapter):
    model = open_gate(tiny_model(adapter=adapter)).train()
    output = model(**tiny_inputs(batch=2), labels=tiny_inputs(batch=2)["input_ids"])
    output.loss.backward()
    assert output.logits.shape == (2, 11, 104)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    behind_what_is_read = ("vision_tower.encoder.layers.2.", "vision_tower.post_layernorm.")
    idle = {name.removeprefix("model.temporal_adapter.") for name in idle_parameters(model)}
    idle = {name for name in idle if not name.startswith(tuple(f"model.{part}" for part in behind_what_is_read))}
    assert idle == (OVER_ONE_STEP if adapter == "mamba" else set())


def test_videos_that_differ_in_their_past_alone_are_learned_by_heart():
    inputs, losses = tiny_inputs(batch=2), {}
    inputs["pixel_values_videos"][1, -1] = inputs["pixel_values_videos"][0, -1]
    inputs["input_ids"][:, -2] = 14
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = inputs["input_ids"][:, -1] = torch.tensor([20, 30])
    for adapter in ("mamba", "none"):
        torch.manual_seed(0)
        model = tiny_model(adapter=adapter).train()
        model.model.vision_tower.requires_grad_(False)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        for _ in range(80):
            loss = model(**inputs, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[adapter] = loss.item()
    assert losses["mamba"] < 0.1 < math.log(2) - 0.01 < losses["none"]


def test_the_real_sizes_have_the_right_number_of_parameters():
    tiny_text = {"text_config": tiny_config().text_config, "video_token_id": VIDEO_TOKEN_ID}
    with torch.device("meta"):
        paper = HMBAForConditionalGeneration(HMBAConfig())
        released = HMBAModel(HMBAConfig.released(**tiny_text))
    mixer, norm, linear = 6_666_240, 2 * 1024, 1024 * 1024 + 1024
    # Pairs of mixers: T, DST over time and over space, JST for each of two strides; and the latent one.
    adapter = 11 * mixer + 8 * norm + 4 * linear + (5 + 3 + 2 + 1) * 1024 + 8 * 6
    assert count(paper.model.vision_tower) == 303_179_776
    assert count(paper.model.language_model) + count(paper.lm_head) == 6_738_440_192
    assert count(paper.model.temporal_adapter) == adapter
    assert count(paper.model.multi_modal_projector) == 1024 * 4096 + 4096
    assert count(released.temporal_adapter) == 21_055_490


def test_the_adapter_learns_at_its_real_width():
    config = HMBAConfig(text_config=tiny_config().text_config, video_token_id=VIDEO_TOKEN_ID)
    with torch.device("meta"):
        adapter = HMBAModel(config).temporal_adapter
    adapter = open_adapter(adapter.to_empty(device="cpu").apply(HMBAModel(tiny_config())._init_weights))
    frames = torch.randn(1, 3, 256, 1024)
    output, _, maps = adapter(frames)
    assert output.isfinite().all() and not torch.equal(output, frames[:, -1])
    assert maps["joint_space_time/stride_2"].shape == (1, 8, 256, 256)
    output.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in adapter.parameters())
    assert idle_parameters(adapter) == OVER_ONE_STEP


@pytest.mark.parametrize("auto", [AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModel])
def test_a_saved_model_loads_through_the_auto_classes(auto, tmp_path):
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    model.save_pretrained(tmp_path)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "mismatched_keys", "error_msgs"))
    body = loaded if auto is AutoModel else loaded.model
    wanted = model.model(**inputs).last_hidden_state
    assert_close(body(**inputs).last_hidden_state, wanted, atol=1e-6, rtol=1e-6)
    if auto is not AutoModel:
        assert not info["unexpected_keys"]
        assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_every_precision_gives_the_answer_and_keeps_the_decays_in_single(dtype, error, tmp_path):
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    model.save_pretrained(tmp_path)
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).train()
    output, wanted = loaded(**inputs, labels=inputs["input_ids"]), model(**inputs).logits
    output.loss.backward()
    assert output.logits.dtype == dtype
    assert_close(output.logits.float(), wanted, atol=error, rtol=0)
    inputs["pixel_values_videos"][:, :-1] = 0  # the same error would show a past that is not seen
    assert (model(**inputs).logits - wanted).abs().max() > 3 * error
    assert all(p.grad.isfinite().all() for p in loaded.parameters() if p.grad is not None)
    decays = {name: p.dtype for name, p in loaded.named_parameters() if name.endswith("A_log")}
    assert set(decays.values()) == {torch.float32} and len(decays) == 11
    assert loaded.model.temporal_adapter.gate.dtype == dtype


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map_changes_nothing(device_map, tmp_path):
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    model.save_pretrained(tmp_path)
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("part", ["vision_tower", "temporal_adapter", "multi_modal_projector", "language_model"])
def test_a_part_on_disk_gives_the_same_answer(part, tmp_path):
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    model.save_pretrained(tmp_path / "model")
    parts = ["vision_tower", "temporal_adapter", "multi_modal_projector", "language_model"]
    places = {f"model.{name}": "disk" if name == part else "cpu" for name in parts}
    places["lm_head"] = places["model.language_model"]  # their weights are tied
    loaded = HMBAForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk"
    )
    moved = [name for name, parameter in loaded.named_parameters() if parameter.device.type == "meta"]
    assert moved and all(name.startswith((f"model.{part}.", "lm_head.")) for name in moved)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)


def test_sdpa_equals_eager():
    inputs, model = tiny_inputs(batch=2), open_gate(tiny_model())
    model.set_attn_implementation("sdpa")
    sdpa = model(**inputs).logits
    model.set_attn_implementation("eager")
    assert_close(model(**inputs).logits, sdpa, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_runs_every_part_twice_and_gives_the_plain_gradients(use_reentrant):
    inputs, model = tiny_inputs(), open_gate(tiny_model()).train()
    inputs["labels"] = inputs["input_ids"]
    runs, body = [], model.model
    layers = (body.vision_tower.encoder.layers[0].self_attn, body.language_model.layers[0].self_attn)
    for inside in (*layers, body.temporal_adapter.query.latent_mixer.out_proj):
        inside.register_forward_pre_hook(lambda module, args: runs.append(type(module).__name__))
    model(**inputs).loss.backward()
    plain = {name: p.grad for name, p in model.named_parameters()}
    once = sorted(runs)
    assert once == ["CLIPAttention", "Linear", "LlamaAttention"]
    model.zero_grad()
    newer = hasattr(model, "activation_checkpointing_enable")  # 5.23 has renamed it
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    model(**inputs).loss.backward()
    assert sorted(runs) == sorted(3 * once)
    for name, p in model.named_parameters():
        assert_close(p.grad, plain[name], atol=1e-6, rtol=1e-4, msg=lambda m, k=name: f"{k}: {m}")


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_a_padded_clip_answers_as_the_clip_alone(frames):
    inputs, model = tiny_inputs(frames=frames), open_gate(tiny_model())
    pixels = torch.cat([torch.randn(1, 4, 3, 28, 28), inputs["pixel_values_videos"]], dim=1)
    mask = torch.arange(4 + frames)[None] >= 4
    padded = model(**{**inputs, "pixel_values_videos": pixels, "frame_mask": mask}).logits
    assert_close(padded, model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_each_video_goes_where_its_tokens_are():
    inputs, model = tiny_inputs(batch=2, videos=2), open_gate(tiny_model())
    seen = record_spliced_embeddings(model)
    model(**inputs)
    for row in range(2):
        places = (inputs["input_ids"][row] == VIDEO_TOKEN_ID).nonzero().flatten().split(NUM_PATCHES)
        for video, place in enumerate(places):
            pixels = inputs["pixel_values_videos"][2 * row + video][None]
            assert_close(seen[0][row, place], model.get_video_features(pixels).pooler_output[0], atol=1e-5, rtol=1e-5)


def test_a_batch_may_hold_videos_in_some_rows_only():
    inputs, model = tiny_inputs(batch=2), open_gate(tiny_model())
    ids, pixels = inputs["input_ids"].clone(), inputs["pixel_values_videos"][1:]
    ids[0][ids[0] == VIDEO_TOKEN_ID] = 20
    logits = model(input_ids=ids, pixel_values_videos=pixels).logits
    assert_close(logits[:1], model(input_ids=ids[:1]).logits, atol=1e-5, rtol=1e-5)
    assert_close(logits[1:], model(input_ids=ids[1:], pixel_values_videos=pixels).logits, atol=1e-5, rtol=1e-5)


def test_embeddings_instead_of_ids_give_the_same_logits():
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    wanted = model(**inputs).logits
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(model(**inputs, inputs_embeds=embeds).logits, wanted)
    with pytest.raises(ValueError, match="for each of 0 video features, got 4"):
        model(inputs_embeds=embeds)


def test_features_computed_before_give_the_same_logits():
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    wanted = model(**inputs).logits
    video = model.get_video_features(inputs.pop("pixel_values_videos"))
    assert torch.equal(model(**inputs, mm_encoder_outputs={"video": video}).logits, wanted)


def test_a_projector_of_eight_bits_gives_the_same_features():
    class EightBitLinear(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight * self.scale, self.bias)

    pixels, model = tiny_inputs()["pixel_values_videos"], open_gate(tiny_model())
    wanted, linear = model.get_video_features(pixels), model.model.multi_modal_projector
    linear.scale = linear.weight.detach().abs().max() / 127
    linear.weight = torch.nn.Parameter((linear.weight / linear.scale).round().to(torch.int8), requires_grad=False)
    linear.__class__ = EightBitLinear
    video = model.get_video_features(pixels)
    assert torch.equal(video.last_hidden_state, wanted.last_hidden_state)
    assert_close(video.pooler_output, wanted.pooler_output, atol=0.02, rtol=0)


def test_the_towers_hidden_states_are_given_when_asked_for():
    pixels, model = tiny_inputs()["pixel_values_videos"], tiny_model()
    assert model.get_video_features(pixels).hidden_states is None
    assert [h.shape for h in model.get_video_features(pixels, output_hidden_states=True).hidden_states] == 4 * [
        (5, 5, 32)
    ]


def test_outputs_are_named_also_as_a_tuple():
    inputs, model = tiny_inputs(), tiny_model()
    output = model(**inputs, labels=inputs["input_ids"], output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert output.video_hidden_states.shape == (1, NUM_PATCHES, 32)
    assert model(**inputs, logits_to_keep=1).logits.shape == (1, 1, 104)
    first, second, *_ = model(**inputs, labels=inputs["input_ids"], return_dict=False)
    assert_close((first, second), (output.loss, output.logits))


def test_the_loss_of_some_positions_is_that_of_the_tokens_behind_them():
    inputs, model = tiny_inputs(batch=2), tiny_model()
    ids = inputs["input_ids"]
    length = ids.shape[1]
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[0, 3:5] = True
    mask[1, 2] = True
    ways = {"mask": mask, "last": 3, "positions": torch.tensor([1, length - 2])}
    read = {"mask": mask, "last": torch.arange(length) >= length - 3}
    read["positions"] = torch.isin(torch.arange(length), ways["positions"])
    for name, kept in ways.items():
        labels = torch.full_like(ids, -100)
        labels[:, 1:] = torch.where(read[name].expand_as(ids)[:, :-1], ids[:, 1:], -100)
        wanted = model(**inputs, labels=labels)
        given = model(**inputs, labels=ids, logits_to_keep=kept)
        assert_close(given.loss, wanted.loss)
        assert given.logits.shape[:-1].numel() == read[name].expand_as(ids).sum()


@pytest.mark.parametrize("how", ["argument", "config", "features"])
def test_the_adapters_attention_is_given_when_asked_for(how):
    inputs, model = tiny_inputs(batch=2), open_gate(tiny_model(attn_implementation="eager"))
    assert model(**inputs).adapter_attentions is None
    if how == "config":
        model.config.output_attentions = True
        output = model(**inputs)
    elif how == "argument":
        output = model(**inputs, output_attentions=True)
    else:
        output = model.get_video_features(inputs["pixel_values_videos"], output_attentions=True)
    assert list(output.adapter_attentions) == LABELS
    assert_close(sum(a.sum(-1) for a in output.adapter_attentions.values()), torch.ones(2, 4, NUM_PATCHES))
    if how != "config":  # for the towers their own configs decide
        assert output.attentions[0].shape[:2] == ((10, 4) if how == "features" else (2, 4))


PIXELS = torch.zeros(1, 5, 3, 28, 28)
MASK_PATTERN = "frame_mask must be false for padding in front and true from each video's first frame"
MISFITS = {
    "few tokens": ({"input_ids": torch.tensor([[1, 99, 99, 99]])}, "for each of 4 video features, got 3"),
    "no videos": ({"pixel_values_videos": None}, "for each of 0 video features, got 4"),
    "videos over two rows": (
        {
            "input_ids": torch.tensor([[1, 99, 99, 99, 1], 5 * [99]]),
            "pixel_values_videos": PIXELS.repeat(2, 1, 1, 1, 1),
        },
        r"each prompt must hold 4 video tokens for each of its videos, got \[3, 5\]",
    ),
    "many videos": ({"pixel_values_videos": PIXELS.repeat(2, 1, 1, 1, 1)}, "for each of 8 video features, got 4"),
    "nan": ({"pixel_values_videos": PIXELS * float("nan")}, "must be finite, got NaN"),
    "infinity": ({"pixel_values_videos": PIXELS - float("inf")}, "must be finite, got NaN or infinity"),
    "one clip": ({"pixel_values_videos": PIXELS[0]}, r"must be \(videos, frames.*got \(5, 3, 28, 28\)"),
    "no frames": ({"pixel_values_videos": PIXELS[:, :0]}, r"must be \(videos, frames.*got \(1, 0, 3, 28, 28\)"),
    "ids and embeds": ({"inputs_embeds": torch.zeros(1, 11, 32)}, "exactly one of input_ids and inputs_embeds"),
    "no ids": ({"input_ids": None}, "exactly one of input_ids and inputs_embeds"),
    "mask shape": ({"frame_mask": torch.ones(1, 4)}, r"frame_mask must be \(1, 5\).*got \(1, 4\)"),
    "mask with a hole": ({"frame_mask": torch.tensor([[1, 0, 1, 1, 1]])}, MASK_PATTERN),
    "mask at the end": ({"frame_mask": torch.tensor([[1, 1, 1, 1, 0]])}, MASK_PATTERN),
    "mask of all": ({"frame_mask": torch.zeros(1, 5)}, MASK_PATTERN),
    "features too": ({"mm_encoder_outputs": {"video": 1}}, "one of pixel_values_videos, frame_features and mm_encod"),
    "frames too": ({"frame_features": torch.zeros(1, 5, 4, 32)}, "one of pixel_values_videos, frame_features and mm"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_input_that_does_not_fit_is_refused(misfit):
    change, message = MISFITS[misfit]
    with pytest.raises(ValueError, match=message):
        tiny_model()(**{**tiny_inputs(), "attention_mask": None, **change})


def test_forward_compiles_as_one_graph():
    inputs, model = tiny_inputs(), open_gate(tiny_model())
    with torch.no_grad():
        wanted = model(**inputs).logits
        # The graph is what the model is responsible for; generating code for it takes minutes on a small CPU.
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert_close(compiled(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["mamba", "none", "mean", "transformer"])
def test_frame_features_stand_for_pixels(adapter):
    model = tiny_model(adapter=adapter)
    if adapter == "mamba":
        open_gate(model)
    inputs = tiny_inputs(batch=2, labels=tiny_inputs(batch=2)["input_ids"])
    inputs["frame_mask"] = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], dtype=torch.bool)
    wanted = model(**inputs)
    features = model.get_frame_features(inputs.pop("pixel_values_videos"))
    found = model(**inputs, frame_features=features)
    assert torch.equal(found.logits, wanted.logits) and torch.equal(found.loss, wanted.loss)
    assert found.adapter_attentions is None
    told = model(**inputs, frame_features=features, output_attentions=True).adapter_attentions
    assert bool(told) == (adapter == "mamba")


def test_an_answer_is_generated_from_frame_features():
    model = open_gate(tiny_model())
    inputs = tiny_inputs(batch=2, frames=4, videos=2)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    wanted = model.generate(**inputs, **options)
    features = model.get_frame_features(inputs.pop("pixel_values_videos"))
    assert torch.equal(model.generate(**inputs, frame_features=features, **options), wanted)
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert torch.equal(model.generate(**inputs, frame_features=features, frame_mask=mask, **options), wanted)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 5, 3, 32), r"must be \(videos, frames, 4, 32\), got \(1, 5, 3, 32\)"),
        (torch.zeros(1, 5, 4, 16), r"must be \(videos, frames, 4, 32\), got \(1, 5, 4, 16\)"),
        (torch.zeros(1, 0, 4, 32), r"must be \(videos, frames, 4, 32\), got \(1, 0, 4, 32\)"),
        (torch.zeros(5, 4, 32), r"must be \(videos, frames, 4, 32\), got \(5, 4, 32\)"),
        (torch.full((1, 5, 4, 32), torch.nan), "frame_features must be finite"),
    ],
)
def test_features_that_cannot_be_the_towers_are_refused(features, message):
    inputs = tiny_inputs()
    del inputs["pixel_values_videos"]
    with pytest.raises(ValueError, match=message):
        tiny_model()(**inputs, frame_features=features)
    with pytest.raises(ValueError, match=message):
        tiny_model().generate(**inputs, frame_features=features)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_tangents_of_a_whole_model_are_its_finite_differences(implementation):
    torch.manual_seed(0)
    model = open_gate(tiny_model()).double()
    model.set_attn_implementation(implementation)
    inputs = tiny_inputs()
    pixels = inputs.pop("pixel_values_videos").double()
    direction = torch.randn_like(pixels)

    def logits(pixels):
        return model(**inputs, pixel_values_videos=pixels, use_cache=False).logits

    step = 1e-3  # some layers compute in float32
    wanted = (logits(pixels + step * direction) - logits(pixels - step * direction)) / (2 * step)
    _, tangent = torch.func.jvp(logits, (pixels,), (direction,))
    assert_close(tangent, wanted, rtol=1e-3, atol=1e-3)
    with forward_ad.dual_level():
        dual = logits(forward_ad.make_dual(pixels, direction))
        assert_close(forward_ad.unpack_dual(dual).tangent, wanted, rtol=1e-3, atol=1e-3)
