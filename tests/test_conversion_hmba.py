"""Shikra and H-MBA by the command line: equal to the original's numbers, there and back without loss."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM, pipeline

from hmba_hf.hub import CardDetails, save_checkpoint
from original_checkpoints import (
    SHIKRA_TOKENS,
    deltas,
    golden_weights,
    pretend_hub,
    run_conversion,
    save_original,
    save_shikra_delta,
    save_tokenizer,
    save_weights,
    without_adapter,
)

FORMS = ["safetensors", "bin", "pt", "fsdp", "before torch 1.6", "sharded safetensors", "sharded bin"]


@pytest.fixture
def whole(golden, tmp_path):
    """The folder of the original whole model without its weights, its state dict, and the recorded numbers."""
    tensors, facts = golden("hmba_e2e_small")
    return save_original(tmp_path, tensors, facts), golden_weights(tensors), tensors


@pytest.fixture
def with_adapter_of_its_own(whole, golden):
    """The same with the adapter of `hmba_released_small` under the authors' own names, and that one's numbers."""
    folder, weights, _ = whole
    recorded, _ = golden("hmba_released_small")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("model.hmba.")}
    weights |= {f"model.kbmamba.{k.removeprefix('w.')}": v for k, v in recorded.items() if k.startswith("w.")}
    return folder, weights, recorded


def pixels_of(tensors):
    return torch.cat([tensors["in.videos"], tensors["in.images"][:, None]], dim=1)


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_any_form_gives_the_originals_numbers(form, whole, tmp_path):
    folder, weights, tensors = whole
    save_weights(folder, weights, form)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    output = model(tensors["in.input_ids"], pixel_values_videos=pixels_of(tensors), labels=tensors["in.labels"])
    assert_close(output.logits, tensors["out.logits"], atol=2e-5, rtol=0)
    assert_close(output.loss, tensors["out.loss"][0], atol=2e-5, rtol=0)


def test_a_checkpoint_with_the_authors_own_names_gives_the_originals_features(with_adapter_of_its_own, tmp_path):
    folder, weights, recorded = with_adapter_of_its_own
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    model = AutoModel.from_pretrained(tmp_path / "ours")
    video = recorded["in.whole_video"]
    assert_close(model.adapt_frame_features(video).last_hidden_state, recorded["out.output"], atol=1e-5, rtol=0)
    features = model.double().adapt_frame_features(video.double()).last_hidden_state
    assert_close(features, recorded["out_f64.output"], atol=1e-12, rtol=0)


def test_back_to_the_original_names_and_forth_again_nothing_is_lost(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    run_conversion(
        "convert_hmba.py", "--checkpoint", tmp_path / "ours", "--to_original", "--output_dir", tmp_path / "back"
    )
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() < weights.keys()  # what the original never uses was dropped
    assert_close(back, {name: weights[name] for name in back}, atol=0, rtol=0)
    run_conversion("convert_hmba.py", "--checkpoint", tmp_path / "back", "--output_dir", tmp_path / "again")
    ours, again = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert_close(again, ours, atol=0, rtol=0)
    for file in ("config.json", "processor_config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / file).read_text() == (tmp_path / "ours" / file).read_text()


def test_unused_tensors_are_listed_and_on_request_kept(whole, tmp_path, capsys):
    folder, weights, _ = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours", "--keep_unused")
    told = capsys.readouterr().out
    assert "not used and kept: 56 tensors" in told
    assert "\n  model.hmba.latentMB.A_log\n" in told and "model.hmba.layer_2.0" not in told
    run_conversion(
        "convert_hmba.py", "--checkpoint", tmp_path / "ours", "--to_original", "--output_dir", tmp_path / "back"
    )
    written = {}
    for path in (tmp_path / "back").glob("*.safetensors"):
        written |= load_file(path)
    assert_close(written, weights, atol=0, rtol=0)


def test_verification_reads_recorded_numbers_and_runs_the_original_adapter(whole, golden, tmp_path, capsys):
    folder, weights, tensors = whole
    save_weights(folder, weights)
    recorded = tmp_path / "recorded.safetensors"
    save_file(tensors, recorded)
    words = ["--checkpoint", folder, "--output_dir", tmp_path / "ours"]
    run_conversion("convert_hmba.py", *words, "--verify", recorded)
    told = capsys.readouterr().out
    count = len(load_file(tmp_path / "ours" / "model.safetensors"))
    assert f"verified: {count} tensors equal their origins" in told
    assert "the adapter reproduces the original's features to" in told
    for name in ("out.adapted", "out.logits", "out.loss"):
        assert f"verified: {name} of the original to" in told


def test_a_model_whose_numbers_are_not_the_recorded_ones_is_not_left_behind(whole, tmp_path):
    folder, weights, tensors = whole
    save_weights(folder, {**weights, "model.norm.weight": weights["model.norm.weight"] * 1.01})
    save_file(tensors, tmp_path / "recorded.safetensors")
    words = ["--checkpoint", folder, "--output_dir", tmp_path / "ours", "--verify", tmp_path / "recorded.safetensors"]
    with pytest.raises(ValueError, match=r"out\.logits must match the original's to 2e-05, got a difference"):
        run_conversion("convert_hmba.py", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "original", "recorded.safetensors"]


def test_a_paper_preset_starts_from_the_trained_scans_and_as_the_identity(whole, tmp_path):
    folder, weights, tensors = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--preset", "paper", "--output_dir", tmp_path / "ours")
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    adapter = model.model.temporal_adapter
    for scan in ("divided_space", "joint_stride_1", "joint_stride_2"):
        mixers = adapter.context.mixers[scan]
        assert torch.equal(mixers.forward_mixer.A_log, weights["model.hmba.layer_2.0.A_log"])
        assert torch.equal(mixers.reverse_mixer.D, weights["model.hmba.reverse_layer_2.0.D"])
    over_time = adapter.context.mixers["divided_time"].forward_mixer
    assert torch.equal(over_time.in_proj.weight, weights["model.hmba.t_mamba.in_proj.weight"])
    assert torch.equal(adapter.context.temporal_position_embedding, weights["model.hmba.time_embed"][0])
    frames = torch.randn(1, 5, 16, 64)
    assert torch.equal(model.adapt_frame_features(frames).last_hidden_state, frames[:, -1])


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_shikra_gets_a_new_adapter(preset, whole, tmp_path):
    folder, weights, _ = whole
    weights = {f"{k}": v.half() for k, v in without_adapter(weights).items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_weights(folder, weights, "bin")
    words = ["--checkpoint", folder, "--preset", preset, "--num_frames", 4, "--output_dir", tmp_path / "ours"]
    run_conversion("convert_hmba.py", *words)
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    assert (model.dtype, model.config.num_frames, model.config.gated) == (torch.float16, 4, preset == "paper")
    state = model.state_dict()
    for name in ("layers.1.mlp.up_proj.weight", "embed_tokens.weight"):
        assert torch.equal(state[f"model.language_model.{name}"], weights[f"model.{name}"])
    adapter = model.float().model.temporal_adapter
    frames = torch.randn(1, 4, 16, 64)
    change = (adapter(frames)[0] - frames[:, -1]).abs().max()
    assert change == 0 if preset == "paper" else 0 < change < 0.5
    assert all(parameter.isfinite().all() for parameter in adapter.parameters())


def test_the_checkpoint_answers_with_the_originals_prompt_and_tokens(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    frames = [Image.new("RGB", (40, 20), (0, 40 * i, 80)) for i in range(5)]
    inputs = processor(text="<im_patch> word5", videos=[frames], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [68, *[67] * 16, 69, 5]
    assert inputs["pixel_values_videos"].shape == (1, 5, 3, 56, 56)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "Why?"}]}],
        add_generation_prompt=True,
    )
    assert prompt.endswith("the user's questions. USER: <im_patch>Why? ASSISTANT:")
    settings = model.generation_config
    assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)
    (answer,) = pipeline("video-text-to-text", model=model, processor=processor)(
        videos=frames, text="word5", generate_kwargs={"max_new_tokens": 2}
    )
    assert isinstance(answer["generated_text"], str)


def test_a_base_tokenizer_gets_shikras_tokens_in_their_order(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    save_tokenizer(folder, 67)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "ours").tokenizer
    assert tokenizer.convert_tokens_to_ids(SHIKRA_TOKENS) == [67, 68, 69]
    assert tokenizer.pad_token_id == 0


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    save_tokenizer(folder, 68)
    with pytest.raises(ValueError, match="embeddings must have rows for all 71 tokens of the tokenizer, got 70"):
        run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")


def test_the_checkpoint_carries_its_code_and_a_card(whole, tmp_path):
    folder, weights, tensors = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "Made of `original` by" in card and "The adapter is the checkpoint's own." in card
    assert "base_model" not in card and "How it was trained has not" not in card
    assert not [path.name for path in (tmp_path / "ours").glob("*.*") if str(tmp_path).encode() in path.read_bytes()]
    code = """if True:
        import sys
        sys.modules["hmba_hf"] = None
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForImageTextToText, AutoProcessor
        folder, recorded = sys.argv[1:]
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
        AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        tensors = load_file(recorded)
        pixels = torch.cat([tensors["in.videos"], tensors["in.images"][:, None]], dim=1)
        logits = model(tensors["in.input_ids"], pixel_values_videos=pixels).logits
        assert (logits - tensors["out.logits"]).abs().max() < 2e-5
    """
    save_file(tensors, tmp_path / "recorded.safetensors")
    words = [sys.executable, "-c", code, tmp_path / "ours", tmp_path / "recorded.safetensors"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_push_carries_the_card_of_the_conversion(whole, tmp_path, monkeypatch):
    folder, weights, _ = whole
    save_weights(folder, weights)
    pretend_hub(monkeypatch, org__shikra=folder, openai__clip=tmp_path / "clip")
    words = ["--checkpoint", "org/shikra@0123abc", "--vision", "openai/clip", "--output_dir", tmp_path / "ours"]
    run_conversion("convert_hmba.py", *words, "--license", "llama2")
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert card.data.base_model == ["openai/clip", "org/shikra"] and card.data["base_model_relation"] == "finetune"
    assert (card.data.license, card.data.pipeline_tag, card.data.model_name) == (
        "llama2",
        "video-text-to-text",
        "ours",
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    origin = next(line for line in card.text.splitlines() if line.startswith("Made of `org/shikra@0123abc` by "))
    save_checkpoint(tmp_path / "again" / "ours", model, processor, card=CardDetails(license="llama2", origin=origin))
    assert (tmp_path / "again" / "ours" / "README.md").read_text() == (tmp_path / "ours" / "README.md").read_text()


@pytest.mark.parametrize(
    "words",
    [["--dtype", "float16"], ["--base", "llama"], ["--seed", "1"], ["--keep_unused"], ["--verify", "file"]],
)
def test_the_way_back_takes_no_option_that_would_do_nothing(words, capsys):
    with pytest.raises(SystemExit):
        run_conversion("convert_hmba.py", "--checkpoint", "ours", "--to_original", "--output_dir", "back", *words)
    assert f"--to_original must be without {words[0]}" in capsys.readouterr().err


def test_a_clip_has_frames(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, without_adapter(weights))
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours", "--num_frames", 0)


@pytest.fixture
def shikra_delta(whole, tmp_path):
    """Shikra as a delta of a Llama of three rows less, tuned by a little; the Llama; and what comes out."""
    folder, weights, _ = whole
    base, tuned = save_shikra_delta(folder, weights, tmp_path / "llama")
    return folder, base, tuned


def test_deltas_are_recovered_exactly_in_the_originals_arithmetic(shikra_delta, tmp_path):
    folder, base, tuned = shikra_delta
    words = ["--checkpoint", folder, "--base", tmp_path / "llama", "--output_dir", tmp_path / "ours", "--verify"]
    run_conversion("convert_hmba.py", *words)
    state = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").state_dict()
    delta = deltas(tuned, base)
    for name in tuned:
        ours = name.replace("model.mm_projector", "model.multi_modal_projector")
        if ours == name and name.startswith("model."):
            ours = f"model.language_model.{name.removeprefix('model.')}"
        recovered = delta[name].clone()
        if name in base:
            recovered[: len(base[name])] += base[name]
        assert torch.equal(state[ours], recovered), name
    assert torch.equal(state["lm_head.weight"][67:], tuned["lm_head.weight"][67:])  # the three added rows


@pytest.mark.parametrize(
    "kind", ["another seed", "tuned itself", "far smaller", "rounded to bfloat16", "one more layer", "another width"]
)
def test_a_wrong_base_is_refused(kind, shikra_delta, tmp_path):
    folder, base, _ = shikra_delta
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes["num_hidden_layers"] += kind == "one more layer"
    sizes["hidden_size"] *= 2 if kind == "another width" else 1
    torch.manual_seed(1)
    wrong = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=67)).half()
    if kind in ("tuned itself", "far smaller", "rounded to bfloat16"):
        wrong.load_state_dict(base)
    with torch.no_grad():
        for parameter in wrong.parameters():
            if kind == "tuned itself":
                parameter.add_(0.001 * torch.randn(parameter.shape))
            elif kind == "far smaller":
                parameter.mul_(2**-6)
    if kind == "rounded to bfloat16":
        wrong.bfloat16()
    wrong.save_pretrained(tmp_path / "wrong")
    words = ["--checkpoint", folder, "--base", tmp_path / "wrong", "--output_dir", tmp_path / "ours"]
    message = {
        "one more layer": "the delta must hold each tensor of the base, got none for model.layers.2.",
        "another width": r"of the base must be \(70, 32\) or have fewer rows, got \(67, 64\)",
    }.get(kind, r"the base must be the one of the delta, got another one: in (model|lm_head)\.")
    with pytest.raises(ValueError, match=message):
        run_conversion("convert_hmba.py", *words)
    assert not (tmp_path / "ours").exists() and not list(tmp_path.glob("_*"))


def test_full_weights_in_the_place_of_a_delta_are_refused(shikra_delta, tmp_path):
    folder, _, tuned = shikra_delta
    save_weights(folder, tuned, "sharded bin")
    words = ["--checkpoint", folder, "--base", tmp_path / "llama", "--output_dir", tmp_path / "ours"]
    with pytest.raises(ValueError, match="the base must be the one of the delta"):
        run_conversion("convert_hmba.py", *words)


def test_a_model_that_the_original_code_cannot_hold_is_not_exported(whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--preset", "paper", "--output_dir", tmp_path / "ours")
    words = ["--checkpoint", tmp_path / "ours", "--to_original", "--output_dir", tmp_path / "back"]
    with pytest.raises(ValueError, match="a model for the original's names must be the released preset on a Llama"):
        run_conversion("convert_hmba.py", *words)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_dtype_may_be_asked_for(dtype, whole, tmp_path):
    folder, weights, _ = whole
    save_weights(folder, weights)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--dtype", dtype, "--output_dir", tmp_path / "ours")
    written = load_file(tmp_path / "ours" / "model.safetensors")
    dtypes = {tensor.dtype for name, tensor in written.items() if not name.endswith("A_log")}
    assert dtypes == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == dtype
    name = "model.temporal_adapter.context.mixers.space.forward_mixer.A_log"
    assert torch.equal(written[name], weights["model.hmba.layer_2.0.A_log"])
