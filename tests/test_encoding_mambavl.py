import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, CLIPVisionModel
from transformers.utils.logging import warning_once

from hmba_hf import (
    MambaVLFeaturesConfig,
    MambaVLForVideoClassification,
    MambaVLMotionformerConfig,
    MambaVLMotionformerModel,
    MambaVLVisionConfig,
    MambaVLVisionModel,
)
from hmba_hf.conversion.mambavl_names import motionformer_rules
from hmba_hf.conversion.original_motionformer import original_motionformer
from hmba_hf.conversion.rename_keys import plan_originals
from tiny_mambavl import tiny_batch, tiny_model, tiny_vision_config
from tiny_motionformer import boxes_of, clips_of, tiny_motionformer, tiny_motionformer_config
from without_package import WITHOUT_PACKAGE

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LOAD = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForVideoClassification

folder, clips = sys.argv[1:]
clips = torch.tensor(json.loads(clips))
model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True).eval()
tower = AutoModel.from_pretrained(f"{folder}/tower", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.")
with torch.no_grad():
    for encoder in (model.mambavl.vision_model, tower):
        print(json.dumps(encoder(clips).last_hidden_state.tolist()))
"""


def tiny_encoder_config(**values):
    return MambaVLVisionConfig(**{**SIZES, "image_size": 16, "patch_size": 8, "num_frames": 3, **values})


def tiny_encoder(**values):
    """An encoder whose times are not zero, as those of a trained one."""
    torch.manual_seed(0)
    model = MambaVLVisionModel(tiny_encoder_config(initializer_factor=20.0, **values)).eval()
    if model.temporal_embeddings is not None:
        torch.nn.init.normal_(model.temporal_embeddings)
    return model


def clips(frames=3):
    return torch.rand(2, frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_one_frame_has_the_tokens_of_clip():
    torch.manual_seed(0)
    clip = CLIPVisionModel(tiny_vision_config(num_hidden_layers=2)).eval()
    same = {name: getattr(clip.config, name) for name in ("hidden_act", "layer_norm_eps")}
    model = tiny_encoder(num_frames=1, **same)
    model.load_state_dict(clip.state_dict())
    outputs = clip(clips()[:, 0])
    tokens = model(clips()[:, :1]).last_hidden_state
    assert_close(tokens, clip.post_layernorm(outputs.last_hidden_state))
    assert_close(tokens[:, 0], outputs.pooler_output)


def test_each_token_sees_every_frame():
    model = tiny_encoder()
    wanted = model(clips()).last_hidden_state
    other = clips()
    other[:, 2] = 0.0
    assert wanted.shape == (2, 1 + 3 * 4, 32)
    assert (model(other).last_hidden_state - wanted).abs().amin(dim=(0, 2)).max() > 0
    assert (model(other).last_hidden_state - wanted)[:, :9].abs().amax(dim=2).min() > 1e-3


def test_times_alone_set_frames_apart():
    model = tiny_encoder()
    patches = model(clips()).last_hidden_state[:, 1:].unflatten(1, (3, 4))
    flipped = model(clips().flip(1)).last_hidden_state[:, 1:].unflatten(1, (3, 4))
    assert (flipped.flip(1) - patches).abs().max() > 1e-2
    torch.nn.init.zeros_(model.temporal_embeddings)
    patches = model(clips()).last_hidden_state[:, 1:].unflatten(1, (3, 4))
    flipped = model(clips().flip(1)).last_hidden_state[:, 1:].unflatten(1, (3, 4))
    assert_close(flipped.flip(1), patches, atol=1e-5, rtol=0)


def test_new_times_are_zero():
    assert MambaVLVisionModel(tiny_encoder_config()).temporal_embeddings.abs().max() == 0


def test_a_saved_encoder_encodes_as_before_in_every_dtype(tmp_path):
    model = tiny_encoder()
    model.save_pretrained(tmp_path)
    assert {"encoding_mambavl.py", "configuration_mambavl.py"} <= {path.name for path in tmp_path.iterdir()}
    assert AutoConfig.from_pretrained(tmp_path).num_frames == 3
    loaded = AutoModel.from_pretrained(tmp_path)
    assert_close(loaded(clips()).last_hidden_state, model(clips()).last_hidden_state, atol=0, rtol=0)
    narrow = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert narrow(clips().bfloat16()).last_hidden_state.dtype == torch.bfloat16


def test_a_mambavl_on_it_loads_and_trains(tmp_path):
    model = tiny_model(vision_config=tiny_encoder_config())
    model.mambavl.vision_model.gradient_checkpointing_enable()
    outputs = model.train()(**tiny_batch(), labels=torch.zeros(2, 2, dtype=torch.long), output_hidden_states=True)
    outputs.loss.backward()
    assert len(outputs.hidden_states) == 3
    assert model.mambavl.vision_model.temporal_embeddings.grad.abs().max() > 0
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    assert isinstance(loaded.mambavl.vision_model, MambaVLVisionModel)
    assert_close(loaded(**tiny_batch()).logits, model.eval()(**tiny_batch()).logits, atol=0, rtol=0)


@pytest.mark.parametrize("of", ["clip", "motionformer"])
def test_both_load_where_the_package_is_missing(of, tmp_path):
    seen = clips() if of == "clip" else clips_of()
    config = tiny_encoder_config() if of == "clip" else tiny_motionformer_config()
    model = tiny_model(vision_config=config)
    model.save_pretrained(tmp_path)
    model.mambavl.vision_model.save_pretrained(tmp_path / "tower")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + LOAD, str(tmp_path), json.dumps(seen.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    wanted = model.mambavl.vision_model(seen).last_hidden_state.detach()
    for line in done.stdout.splitlines():
        assert_close(torch.tensor(json.loads(line)), wanted, atol=1e-5, rtol=0)
    assert len(done.stdout.splitlines()) == 2


def test_a_model_without_a_video_model_reads_features_alone(tmp_path):
    model = tiny_model(vision_config=MambaVLFeaturesConfig(hidden_size=32))
    assert not any("vision" in name for name, _ in model.named_parameters())
    batch = tiny_batch()
    pixels = batch.pop("pixel_values_videos")
    features = torch.rand(2, 7, 32, generator=torch.Generator().manual_seed(2))
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    wanted = model(video_features=features, **batch).logits
    assert_close(loaded(video_features=features, **batch).logits, wanted, atol=0, rtol=0)
    with pytest.raises(ValueError, match="pixel_values_videos must be absent for a model without a video model"):
        loaded(pixels, **batch)
    with pytest.raises(ValueError, match=r"video_features must be \(batch, tokens, 32\), got \(2, 7, 31\)"):
        loaded(video_features=features[..., :31], **batch)


@pytest.mark.parametrize(
    "shape", [(2, 2, 3, 16, 16), (2, 3, 3, 16, 8), (2, 3, 1, 16, 16), (2, 3, 16, 16), (0, 3, 3, 16, 16)]
)
def test_clips_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be .*\(batch, 3, 3, 16, 16\), got \("):
        tiny_encoder()(torch.zeros(shape))


def test_values_that_make_no_encoder_are_refused():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        tiny_encoder_config(num_frames=0)
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size=8, got 20"):
        tiny_encoder_config(image_size=20)


def motionformer_weights(model):
    """The weights of a Motionformer by the original's names."""
    rules = motionformer_rules(base="")
    ours = {f"vision_model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    return {name: origin.rule.take_back(ours[origin.name]) for name, origin in plan_originals(ours, rules).items()}


@pytest.mark.parametrize("seeing", [[1, 2], []])
def test_a_motionformer_has_the_originals_tokens(seeing):
    model = tiny_motionformer(object_layers=seeing).double()
    inputs = [clips_of().double(), boxes_of().double()]
    wanted = original_motionformer(motionformer_weights(model), *inputs, num_heads=2)
    assert wanted.shape == (2, 1 + 2 * 4, 32)
    assert_close(model(*inputs).last_hidden_state, wanted, atol=1e-9, rtol=0)


def test_a_motionformer_has_the_published_size():
    with torch.device("meta"):
        model = MambaVLMotionformerModel(MambaVLMotionformerConfig())
        tokens = model(torch.empty(1, 16, 3, 224, 224), torch.empty(1, 16, 4, 4)).last_hidden_state
    assert tokens.shape == (1, 1 + 8 * 14 * 14, 768)
    seeing = [number for number, layer in enumerate(model.layers) if hasattr(layer, "motion_stream")]
    assert seeing == [1, 6, 10]
    assert model.layers[6].object_embeddings.shape == (8, 4, 768)
    assert model.position_embeddings.shape == (197, 768)


def test_a_motionformer_depends_on_the_order_of_frames_and_of_boxes():
    model = tiny_motionformer()
    wanted = model(clips_of(), boxes_of()).last_hidden_state
    for clips, boxes in (
        (clips_of().flip(1), boxes_of()),
        (clips_of(), boxes_of().flip(1)),
        (clips_of(), boxes_of().flip(2)),
    ):
        assert (model(clips, boxes).last_hidden_state - wanted).abs().max() > 1e-2


def test_a_motionformer_reads_the_boxes_of_the_first_frame_of_each_patch():
    model = tiny_motionformer()
    wanted = model(clips_of(), boxes_of()).last_hidden_state
    other = boxes_of()
    other[:, 1::2] = 0.0
    assert torch.equal(model(clips_of(), other).last_hidden_state, wanted)


def test_absent_boxes_are_zeros_and_so_are_those_of_no_size(caplog):
    model = tiny_motionformer()
    zeros = torch.zeros_like(boxes_of())
    wanted = model(clips_of(), zeros).last_hidden_state
    assert (wanted - model(clips_of(), boxes_of()).last_hidden_state).abs().max() > 1e-2
    narrow = zeros.clone()
    narrow[:] = torch.tensor([0.5, 0.5, 0.04, 0.5])
    assert torch.equal(model(clips_of(), narrow).last_hidden_state, wanted)
    warning_once.cache_clear()
    assert torch.equal(model(clips_of()).last_hidden_state, wanted)
    assert "boxes are absent: the clips are read as if no objects were found in them" in caplog.text
    caplog.clear()
    tiny_motionformer(object_layers=[])(clips_of())
    assert not caplog.text


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            torch.zeros(2, 4, 2, 4),
            r"boxes must be \(batch, frames, objects, 4\), here \(2, 4, 3, 4\), got \(2, 4, 2, 4\)",
        ),
        (torch.full((2, 4, 3, 4), 1.5), "boxes must be centre, width and height from 0 to 1 of the frame"),
        (torch.full((2, 4, 3, 4), torch.nan), "boxes must be centre, width and height from 0 to 1 of the frame"),
        (torch.full((2, 4, 3, 4), 0.9), "boxes must not leave their frame"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        tiny_motionformer()(clips_of(), boxes)


def test_a_mambavl_on_a_motionformer_loads_and_trains(tmp_path):
    config = tiny_motionformer_config(drop_path_rate=0.1)
    model = tiny_model(vision_config=config)
    batch = {**tiny_batch(frames=4), "boxes": boxes_of()}
    model.mambavl.vision_model.gradient_checkpointing_enable()
    outputs = model.train()(**batch, labels=torch.zeros(2, 2, dtype=torch.long), output_hidden_states=True)
    outputs.loss.backward()
    assert len(outputs.hidden_states) == 4
    for name, parameter in model.mambavl.vision_model.named_parameters():
        assert parameter.grad is not None, name
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    assert isinstance(loaded.mambavl.vision_model, MambaVLMotionformerModel)
    assert_close(loaded(**batch).logits, model.eval()(**batch).logits, atol=0, rtol=0)
    narrow = MambaVLForVideoClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert narrow(**batch).logits.isfinite().all()


def test_boxes_without_a_model_or_clips_for_them_are_refused():
    batch = tiny_batch()
    with pytest.raises(ValueError, match="boxes must be absent for a CLIPVisionModel, which reads none, got them"):
        tiny_model()(**batch, boxes=boxes_of(3))
    model = tiny_model(vision_config=tiny_motionformer_config())
    batch.pop("pixel_values_videos")
    with pytest.raises(ValueError, match="boxes must come with pixel_values_videos, got them with video_features"):
        model(**batch, video_features=torch.zeros(2, 3, 32), boxes=boxes_of())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 3}, "num_frames must be a multiple of tubelet_size=2, got 3"),
        ({"image_size": 20}, "image_size must be a multiple of patch_size=8, got 20"),
        ({"num_attention_heads": 5}, "hidden_size must be a multiple of num_attention_heads=5, got 32"),
        ({"object_layers": [3]}, "object_layers must be numbers below num_hidden_layers=3, each once, got .3."),
        ({"object_layers": [1, 1]}, "object_layers must be numbers below num_hidden_layers=3, each once"),
        ({"num_objects": 0}, "num_objects must be at least 1, got 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be from 0 up to but without 1, got 1.0"),
    ],
)
def test_values_that_make_no_motionformer_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_motionformer_config(**values)
