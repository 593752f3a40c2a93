"""A stream is its clip: whatever way frames come, the current frame gets the features of the clip at once."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from hmba_hf.models.layers_adapter_state import AdapterState
from hmba_hf.models.layers_baseline_adapters import CurrentFrameAdapter, MeanFrameAdapter, TransformerAdapter
from hmba_hf.models.layers_conditions import CHECKS_COMPILE
from test_layers_temporal_adapter import (
    FRAMES,
    PATCHES,
    D,
    assert_gradients_close,
    build_adapter,
    frame_features,
    full_form,
    gradients,
    randomize,
)
from tiny_models import tiny_model

STRIDES = [(1,), (1, 2), (2, 3), (3,)]
SPLITS = [(1,) * 9, (4, 5), (1, 7, 1), (2, 2, 2, 3), (8, 1), (3, 1, 5)]


def stream(adapter, frames, split, mask=None, state=None):
    """Feed a clip in parts; return the last output."""
    output, state, start = None, state or AdapterState(), 0
    for length in split:
        part = slice(start, start + length)
        output = adapter(frames[:, part], state, None if mask is None else mask[:, part])
        state, start = output.state, start + length
    return output


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("strides", STRIDES, ids=str)
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_stream_in_parts_is_the_clip_with_its_gradients(preset, strides, split):
    adapter, frames = randomize(build_adapter(preset, strides)).double(), frame_features(9)
    got, wanted = stream(adapter, frames, split).features, full_form(adapter, frames)
    assert_close(got, wanted, atol=1e-12, rtol=1e-12)
    assert_gradients_close(gradients(got, adapter, frames), gradients(wanted, adapter, frames), 1e-12)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_stream_is_the_clip_in_single(preset):
    adapter, frames = randomize(build_adapter(preset)), frame_features(20, dtype=torch.float32)
    got = stream(adapter, frames, (1,) * 20).features
    assert_close(got, adapter(frames).features, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_every_frame_of_a_stream_is_the_current_one_of_its_clip(preset):
    adapter, frames, state = randomize(build_adapter(preset)).double(), frame_features(8), AdapterState()
    for t in range(8):
        features, state, _ = adapter(frames[:, t : t + 1], state)
        assert_close(features, adapter(frames[:, : t + 1]).features, atol=1e-12, rtol=1e-12)
        assert state.tensors["frames_seen"].tolist() == [t + 1] * 2


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_frames_without_read_out_leave_the_same_state(preset):
    adapter, frames = randomize(build_adapter(preset, (1, 3))).double(), frame_features(9)
    read, passed = AdapterState(), AdapterState()
    for start, length in ((0, 1), (1, 4), (5, 1), (6, 3)):
        part = frames[:, start : start + length]
        features, read, attentions = adapter(part, read)
        unread = adapter(part, passed, read_out=False)
        passed = unread.state
        assert features is not None and unread.features is None and unread.attentions == {}
    assert_close(passed.tensors, read.tensors, atol=1e-12, rtol=0)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_streams_in_a_batch_are_the_streams_alone_though_they_begin_at_different_times(preset):
    adapter, frames = randomize(build_adapter(preset)).double(), frame_features(9, b=4)
    begins = (0, 3, 8, 5)
    mask = torch.arange(9) >= torch.tensor(begins)[:, None]
    poisoned = frames.masked_fill(~mask[..., None, None], float("nan"))
    got = stream(adapter, poisoned, (2, 1, 4, 2), mask)
    wanted = torch.cat([full_form(adapter, frames[i : i + 1, begin:]) for i, begin in enumerate(begins)])
    assert_close(got.features, wanted, atol=1e-12, rtol=1e-12)
    assert got.state.tensors["frames_seen"].tolist() == [9, 6, 1, 4]


def test_streams_may_be_dropped_and_reordered():
    adapter, frames = randomize(build_adapter()).double(), frame_features(7, b=3)
    state = stream(adapter, frames[:, :4], (3, 1)).state.select([2, 0])
    got = stream(adapter, frames[[2, 0], 4:], (1, 2), state=state).features
    assert_close(got, adapter(frames[[2, 0]]).features, atol=1e-12, rtol=1e-12)
    with pytest.raises(IndexError):
        state.select([2])
    assert state.select([]).tensors["frames_seen"].shape == (0,)


@pytest.mark.parametrize("length", [1, 40])
def test_a_state_keeps_nothing_alive_but_itself(length):
    adapter = build_adapter()
    with torch.no_grad():
        state = adapter(frame_features(length, dtype=torch.float32), AdapterState()).state
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in state.tensors.values()}
    assert len(held) == len(state.tensors)
    assert sum(held.values()) == sum(x.nbytes for x in state.tensors.values())


def test_a_state_is_not_changed_by_going_on_from_it():
    adapter, frames = randomize(build_adapter()).double(), frame_features(6)
    state = stream(adapter, frames[:, :3], (3,)).state
    first, second = (adapter(frames[:, 3:], state).features for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_detached_state_has_the_numbers_and_no_gradient(preset):
    adapter, frames = randomize(build_adapter(preset)).double(), frame_features(6)
    state = stream(adapter, frames[:, :4], (4,)).state
    got = adapter(frames[:, 4:], state.detach()).features
    assert_close(got, adapter(frames[:, 4:], state).features, atol=0, rtol=0)
    (gradient,) = torch.autograd.grad(got.sum(), frames)
    assert gradient[:, 4:].any() and not gradient[:, :4].any()


def test_a_state_is_saved_and_loaded_bit_for_bit(tmp_path):
    state = stream(randomize(build_adapter()).bfloat16(), frame_features(5, dtype=torch.bfloat16), (2, 3)).state
    state.save(tmp_path / "state.safetensors")
    loaded = AdapterState.load(tmp_path / "state.safetensors")
    assert {x.dtype for x in loaded.tensors.values()} == {torch.bfloat16, torch.float32, torch.int64}
    assert_close(dict(loaded.tensors), dict(state.tensors), atol=0, rtol=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "state.safetensors"]
    (tmp_path / "another").touch()
    assert (tmp_path / "another").stat().st_mode == (tmp_path / "state.safetensors").stat().st_mode


def test_a_file_that_holds_no_state_is_refused(tmp_path):
    state = stream(build_adapter(), frame_features(5, dtype=torch.float32), (5,)).state
    state.save(tmp_path / "state")
    (tmp_path / "cut").write_bytes((tmp_path / "state").read_bytes()[:-100])
    save_file({"x": torch.ones(1)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="cut must be a safetensors file"):
        AdapterState.load(tmp_path / "cut")
    with pytest.raises(ValueError, match="weights must hold an adapter's state"):
        AdapterState.load(tmp_path / "weights")
    with pytest.raises(FileNotFoundError):
        AdapterState.load(tmp_path / "nothing")


def test_a_state_in_another_dtype_keeps_its_scans_wide():
    state = stream(build_adapter().double(), frame_features(5), (5,)).state.to(dtype=torch.bfloat16)
    for name, x in state.tensors.items():
        wanted = torch.float32 if name.endswith("/ssm") else torch.bfloat16
        assert x.dtype == (torch.int64 if name == "frames_seen" else wanted), name
    assert all(x.device.type == "meta" for x in state.to("meta").tensors.values())


def test_a_state_of_another_adapter_or_batch_is_refused_and_the_stream_goes_on():
    adapter, frames = build_adapter(), frame_features(5, dtype=torch.float32)
    state = adapter(frames, AdapterState()).state
    for other in (build_adapter("released"), build_adapter(strides=(1, 3)), build_adapter(state_size=5)):
        with pytest.raises(ValueError, match="state must be one of this very adapter"):
            other(frames, state)
    with pytest.raises(ValueError, match=r"frames_seen must be \(1,\), got \(2,\)"):
        adapter(frames[:1], state)
    with pytest.raises(ValueError, match=r"temporal/stride_1/ago_0/conv must be .*, got none"):
        adapter(frames, AdapterState({"frames_seen": torch.ones(2)}))
    with pytest.raises(ValueError, match="divided_space_time/.* must be"):
        adapter(torch.randn(2, 1, PATCHES + 1, D), state)
    assert adapter(frames, state).features.isfinite().all()


ADAPTERS = {
    "mamba": build_adapter,
    "none": CurrentFrameAdapter,
    "mean": MeanFrameAdapter,
    "transformer": lambda: TransformerAdapter(D, FRAMES, 2),
}
WRONG_MASKS = {"padding at the end": [1, 1, 0], "a hole": [1, 0, 1], "no frame": [0, 0, 0]}


@pytest.mark.parametrize("pattern", WRONG_MASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_mask_with_padding_behind_a_real_frame_is_refused_at_every_door(adapter, pattern):
    mask = torch.tensor([[0, 1, 1], WRONG_MASKS[pattern]])
    model = tiny_model(adapter=adapter)
    pixels = torch.zeros(2, 3, 3, 28, 28)
    features = model.get_frame_features(pixels)
    frames = frame_features(3, dtype=torch.float32)
    doors = {
        "an adapter": lambda: ADAPTERS[adapter]()(frames, frame_mask=mask),
        "adapt_frame_features": lambda: model.adapt_frame_features(features, frame_mask=mask),
        "get_video_features": lambda: model.get_video_features(pixels, mask.bool()),
        "generate": lambda: model.generate(frame_features=features, frame_mask=mask.float(), max_new_tokens=1),
    }
    if adapter == "mamba":
        doors["its contexts"] = lambda: build_adapter().context(frames, frame_mask=mask)
    for name, door in doors.items():
        with pytest.raises(ValueError, match="frame_mask must be false for padding in front"):
            pytest.fail(f"{name} returned {door()}")


@pytest.mark.parametrize("mask", [[[True, True]], ((1, 1),), np.ones((1, 2), bool)], ids=lambda x: type(x).__name__)
def test_a_mask_that_is_no_tensor_is_refused_by_name_at_every_door(mask):
    model = tiny_model(adapter="mamba")
    pixels = torch.zeros(1, 2, 3, 28, 28)
    features = model.get_frame_features(pixels)
    prompt = torch.full((1, model.config.num_patches), model.config.video_token_id)
    for door in (
        lambda: model(prompt, pixel_values_videos=pixels, frame_mask=mask),
        lambda: model.generate(prompt, pixel_values_videos=pixels, frame_mask=mask, max_new_tokens=1),
        lambda: model.generate(frame_features=features, frame_mask=mask, max_new_tokens=1),
        lambda: model.get_video_features(pixels, mask),
        lambda: model.adapt_frame_features(features, frame_mask=mask),
    ):
        with pytest.raises(ValueError, match=r"frame_mask must be a tensor of \(1, 2\), got"):
            door()


def test_a_compiled_adapter_refuses_a_hole_in_the_same_words():
    compiled = torch.compile(CurrentFrameAdapter(), backend="eager")
    frames = frame_features(3, dtype=torch.float32)
    compiled(frames, frame_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))
    refusal = ValueError if CHECKS_COMPILE else RuntimeError
    with pytest.raises(refusal, match="frame_mask must be false for padding in front"):
        compiled(frames, frame_mask=torch.tensor([[1, 0, 1], [1, 1, 1]]))


@pytest.mark.parametrize("build", [build_adapter, MeanFrameAdapter, CurrentFrameAdapter])
def test_a_hole_in_a_stream_that_has_not_begun_is_refused(build):
    with pytest.raises(ValueError, match="frame_mask must be false for padding in front"):
        build()(frame_features(3, dtype=torch.float32), AdapterState(), torch.tensor([[0, 0, 0], [0, 1, 0]]))


@pytest.mark.parametrize("build", [build_adapter, MeanFrameAdapter])
def test_padding_for_a_stream_that_has_begun_is_refused(build):
    adapter, frames = build(), frame_features(3, dtype=torch.float32)
    state = adapter(frames, AdapterState()).state
    with pytest.raises(ValueError, match="padding for one"):
        adapter(frames, state, torch.tensor([[False, True, True], [True, True, True]]))


@pytest.mark.parametrize("adapter", [CurrentFrameAdapter(), MeanFrameAdapter()])
@pytest.mark.parametrize("split", SPLITS[:3], ids=str)
def test_baselines_stream_too(adapter, split):
    frames = frame_features(9)
    got = stream(adapter, frames, split)
    assert_close(got.features, adapter(frames).features, atol=1e-12, rtol=0)
    assert adapter(frames, got.state, read_out=False).features is None
    with pytest.raises(ValueError, match="state must be one of this very adapter"):
        adapter(frames, build_adapter().double()(frames, AdapterState()).state)


def test_attention_over_time_cannot_stream():
    with pytest.raises(ValueError, match="attends to all its frames"):
        TransformerAdapter(D, FRAMES, 2)(frame_features(2, dtype=torch.float32), AdapterState())


def test_a_long_stream_in_bfloat16_stays_finite():
    adapter, state = randomize(build_adapter()).bfloat16(), AdapterState()
    with torch.no_grad():
        for _ in range(20):
            frames = 3 * frame_features(50, b=1, dtype=torch.bfloat16)
            features, state, _ = adapter(frames, state)
            assert features.isfinite().all()
    assert all(x.isfinite().all() for x in state.tensors.values())
    assert state.tensors["frames_seen"].tolist() == [1000]
