import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, CLIPVisionModel

from hmba_hf import (
    MambaVLFeaturesConfig,
    MambaVLForVideoClassification,
    MambaVLVisionConfig,
    MambaVLVisionModel,
)
from tiny_mambavl import tiny_batch, tiny_model, tiny_vision_config
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


def test_both_load_where_the_package_is_missing(tmp_path):
    model = tiny_model(vision_config=tiny_encoder_config())
    model.save_pretrained(tmp_path)
    model.mambavl.vision_model.save_pretrained(tmp_path / "tower")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", WITHOUT_PACKAGE + LOAD, str(tmp_path), json.dumps(clips().tolist())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    wanted = model.mambavl.vision_model(clips()).last_hidden_state.detach()
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
