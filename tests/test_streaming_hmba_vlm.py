"""A stream on a vision-language model answers as about the clip, and looks at each frame once."""

import gc
import inspect

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.testing import assert_close
from transformers import pipeline

from hmba_hf import (
    AdapterState,
    FrameError,
    HMBAVLMProcessor,
    TimeJump,
    VideoStream,
)
from hmba_hf.models.encoding_hmba_vlm import read_features
from hmba_hf.streaming import words_differ
from tiny_hmba_vlm import KINDS, model_on
from tiny_vlm_bases import noisy_picture, tiny_vlm

CONTAINERS = {"qwen3_vl": tuple, "internvl": torch.Tensor, "smolvlm": (list, torch.Tensor)}  # a tensor in 5.19
QUESTION = "Which object is the risk?"
SIZE = (40, 24)  # width, height


@pytest.fixture(scope="module", params=KINDS)
def vlm(request):
    return tiny_vlm(request.param)


@pytest.fixture(scope="module")
def model(vlm):
    return model_on(vlm)


@pytest.fixture
def processor(vlm):
    return HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")


@pytest.fixture
def make_stream(model, processor):
    return lambda mode="window", **options: VideoStream(model, processor, mode, **options)


def drive(count, size=SIZE, first=0):
    return [noisy_picture(size, first + number) for number in range(count)]


def watch(stream, frames, start=0.0):
    for number, frame in enumerate(frames):
        assert stream.push(frame, start + number / 2)


def answered(stream, question=QUESTION, **options):
    return stream.ask(question, max_new_tokens=8, **options)


@torch.no_grad()
def rows_of_clip(model, processor, frames):
    """Return what the language model reads of a whole clip."""
    inputs = processor(text=processor.video_token, videos=[frames], num_frames=len(frames), return_tensors="pt")
    of_clip = {name: value for name, value in inputs.items() if "input_ids" not in name and "mask" not in name}
    output = model.model.encode_clips(**of_clip)["mm_encoder_outputs"]["image"]
    found = read_features(output, model.config.hidden_size)
    return torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in found])


@pytest.fixture
def calls(model, monkeypatch):
    """Count the calls of the base's towers."""
    counted = []
    base = model.model.base.base_model
    encode = base.get_image_features

    def count(**pictures):
        counted.append(pictures)
        return encode(**pictures)

    count.__signature__ = inspect.signature(encode)  # from which the model takes the names of pictures
    monkeypatch.setattr(base, "get_image_features", count)
    return counted


def test_the_three_bases_differ_in_what_they_return_of_a_picture(vlm, make_stream):
    stream = make_stream()
    stream.push(vlm.picture(), 0.0)
    output = stream._current.output
    assert isinstance(output.pooler_output, CONTAINERS[vlm.name])
    assert ("deepstack_features" in output) == (vlm.name == "qwen3_vl")


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_window_reads_and_answers_as_the_pipeline_does_about_the_same_frames(model, processor, make_stream, count):
    stream = make_stream()
    frames = drive(count)
    watch(stream, frames)
    seen = [frames[0]] * (5 - count) + frames[-5:]
    wanted = rows_of_clip(model, processor, seen)
    assert_close(stream.features().pooler_output[0], wanted, atol=1e-6, rtol=1e-6)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    for question in (QUESTION, f"What now? {processor.video_token} Say."):
        (answer,) = pipe(videos=seen, text=question, max_new_tokens=8)
        assert answered(stream, question) == {**answer, "timestamp": (count - 1) / 2}


def test_a_window_has_the_logits_of_the_clip(model, processor, make_stream):
    stream = make_stream()
    frames = drive(6)
    watch(stream, frames)
    prompt = f"a{processor.video_token}b"
    inputs = dict(processor(text=[prompt], videos=[frames[1:]], return_tensors="pt"))
    read = []
    generate = model.model.base.generate

    def note(*args, **kwargs):
        read.append(kwargs["mm_encoder_outputs"])
        return generate(*args, **kwargs)

    model.model.base.generate = note
    try:
        answered(stream)
    finally:
        del model.model.base.generate
    texts = {name: value for name, value in inputs.items() if not name.startswith("past_")}
    del texts["pixel_values"]
    with torch.no_grad():
        wanted = model(**inputs).logits
        found = model(**texts, mm_encoder_outputs=read[0]).logits
        stale = model(**texts, mm_encoder_outputs={"image": stream._current.output}).logits
    assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert (stale - wanted).abs().max() > 1e-3, "the adapter acts"


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 2}, {"do_sample": True, "top_k": 5}, {"prefill_chunk_size": 7}],
    ids=lambda options: "-".join(options),
)
def test_other_ways_to_generate_answer_as_the_pipeline_does(model, processor, make_stream, options):
    stream = make_stream()
    frames = drive(5)
    watch(stream, frames)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    torch.manual_seed(3)
    (wanted,) = pipe(videos=frames, text=QUESTION, max_new_tokens=8, **options)
    torch.manual_seed(3)
    assert answered(stream, **options) == {**wanted, "timestamp": 2.0}


def test_the_time_of_the_current_frame_is_told_as_the_pipeline_tells_it(model, processor, make_stream):
    processor.time_format = " at {seconds} s. "
    stream = make_stream()
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu", max_new_tokens=8)
    frames = drive(6)
    watch(stream, frames[:5], start=10.0)
    times = [10.0, 10.5, 11.0, 11.5, 12.0]
    (wanted,) = pipe(videos=frames[:5], text=QUESTION, video_metadata=[{"timestamps": times}])
    assert answered(stream) == {**wanted, "timestamp": 12.0}
    stream.push(frames[5], 12.5)
    (later,) = pipe(videos=frames[1:], text=QUESTION, video_metadata=[{"timestamps": [*times[1:], 12.5]}])
    assert answered(stream) == {**later, "timestamp": 12.5}


def test_a_recurrent_stream_reads_what_the_adapter_reads_of_the_whole_drive(model, processor, make_stream):
    stream = make_stream("recurrent")
    frames = drive(9)
    for number, frame in enumerate(frames):
        stream.push(frame, number / 2)
        if number in (0, 3, 4, 8):  # read at some frames only
            wanted = rows_of_clip(model, processor, frames[: number + 1])
            assert_close(stream.features().pooler_output[0], wanted, atol=1e-5, rtol=1e-5)
    assert stream.features().adapter_state.tensors["frames_seen"].tolist() == [9]


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_moment_without_a_frame_is_held_and_a_nearer_frame_replaces_one(make_stream, mode):
    stream = make_stream(mode)
    same = make_stream(mode)
    frames = drive(4)
    for frame, time in zip(frames, (0.0, 0.45, 0.5, 2.0), strict=True):
        stream.push(frame, time)
    watch(same, [frames[0], frames[2], frames[2], frames[2], frames[3]])
    assert_close(stream.features().pooler_output, same.features().pooler_output, atol=1e-6, rtol=0)
    assert stream.held == 2
    assert answered(stream) == answered(same)


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_the_towers_see_each_frame_once_whatever_is_asked(vlm, make_stream, calls, mode):
    stream = make_stream(mode)
    for number, frame in enumerate(drive(8)):
        stream.push(frame, number / 4)
        answered(stream)
        answered(stream, "And now?")
    assert len(calls) == 4, "one for each moment"
    wanted = [vlm.pictures(shade)["pixel_values"] for shade in (0, 2, 4, 6)]
    for found, pixels in zip(calls, wanted, strict=True):
        assert torch.equal(found["pixel_values"], pixels)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("qwen3_vl", "window"), ("qwen3_vl", "recurrent"), ("internvl", "window"), ("smolvlm", "recurrent")],
)
def test_what_a_stream_holds_does_not_grow(name, mode):
    def living():
        gc.collect()
        return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]

    def held():
        tensors = [x for x in living() if id(x) not in known]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        return len(tensors), sum(storages.values())

    vlm = tiny_vlm(name)
    model = model_on(vlm)
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    others = living()  # of tests before this one; some go in the meantime
    known = {id(x) for x in others}
    stream = VideoStream(model, processor, mode)
    sizes = []
    frames = drive(10)
    length = 200 if name == "qwen3_vl" else 50  # of which most is kept
    for number in range(length):
        stream.push(frames[number % 10], number / 2)
        if number in (19, length - 1):
            answered(stream)
            sizes.append(held())
    assert sizes[0] == sizes[1] and sizes[0][1] > 0


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_what_cannot_be_a_next_frame_is_refused_and_the_stream_goes_on(make_stream, mode):
    stream = make_stream(mode)
    other = make_stream(mode)
    frames = drive(6)
    for each in (stream, other):
        watch(each, frames[:3])
    for size in ((48, 24), (24, 40)):
        with pytest.raises(FrameError, match=r"frames must have the shape and dtype \(\(24, 40, 3\), 'uint8'\)"):
            stream.push(noisy_picture(size, 0), 1.5)
    with pytest.raises(FrameError, match="a frame must be a picture"):
        stream.push("drive.mp4", 1.5)
    with pytest.raises(TimeJump, match="later than the last frame's"):
        stream.push(frames[3], 0.5)
    for each in (stream, other):
        watch(each, frames[3:], start=1.5)
    assert answered(stream) == answered(other)
    assert torch.equal(stream.features().pooler_output, other.features().pooler_output)


def test_pictures_arrays_and_tensors_are_the_same_frames(make_stream):
    read = []
    for convert in (lambda x: x, np.asarray, lambda x: torch.from_numpy(np.array(x)).movedim(-1, 0)):
        stream = make_stream()
        watch(stream, [convert(frame) for frame in drive(3)])
        read.append(stream.features().pooler_output)
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0], read[2])


def test_a_question_before_any_frame_and_one_about_two_are_refused(processor, make_stream):
    stream = make_stream()
    with pytest.raises(ValueError, match="a frame must be pushed before the first question, got none"):
        stream.ask(QUESTION)
    stream.push(drive(1)[0], 0.0)
    token = processor.video_token
    with pytest.raises(ValueError, match="token for each video"):
        stream.ask(f"{token} and {token}?")


def test_a_watch_gives_answers_that_change_and_compares_words_in_the_dialect_of_the_base(make_stream):
    stream = make_stream()
    given = []
    answers = stream.watch(QUESTION, every=1.0, max_new_tokens=8)
    for number, frame in enumerate(drive(6)):
        stream.push(frame, number / 2)
        given += [answer["timestamp"] for answer in answers]
    assert given[0] == 0.0 and set(given) <= {0.0, 1.0, 2.0}
    texts = [f'a van {{"bbox_2d": [{left}, 20, 400, 500], "label": "van"}} stops' for left in (1, 9)]
    before, after = ({"generated_text": text} for text in texts)
    assert not words_differ(before, after)
    assert words_differ(before, {"generated_text": texts[1].replace("stops", "comes")})


def test_a_stream_goes_on_from_the_state_of_another_on_disk(make_stream, tmp_path):
    whole = make_stream("recurrent")
    first = make_stream("recurrent")
    second = make_stream("recurrent")
    frames = drive(6)
    watch(whole, frames)
    watch(first, frames[:4])
    first.features().adapter_state.save(tmp_path / "state.safetensors")
    state = AdapterState.load(tmp_path / "state.safetensors")
    assert state.weights != ""
    second.reset(state)
    watch(second, frames[4:])
    assert_close(second.features().pooler_output, whole.features().pooler_output, atol=1e-6, rtol=1e-6)


def test_a_state_of_frames_with_another_number_of_tokens_is_refused_at_the_first_frame():
    vlm = tiny_vlm("qwen3_vl")
    model = model_on(vlm)
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    small = VideoStream(model, processor, "recurrent")
    watch(small, drive(2, (32, 32)))
    large = VideoStream(model, processor, "recurrent")
    large.reset(small.features().adapter_state)
    frames = drive(2, (64, 48))
    with pytest.raises(FrameError, match=r"frames must have \d+ tokens each, as those before, got one with \d+"):
        large.push(frames[0], 0.0)
    large.reset()
    watch(large, frames)
    assert answered(large)["timestamp"] == 0.5


def test_a_state_made_by_another_adapter_or_other_weights_is_refused(vlm, model, processor):
    stream = VideoStream(model, processor, "recurrent")
    strided = VideoStream(model_on(vlm, temporal_strides=(1, 3)), processor, "recurrent")
    strided.push(drive(1)[0], 0.0)
    with pytest.raises(ValueError, match="state must be one of this very adapter"):
        stream.reset(strided.features().adapter_state)
    changed = model_on(vlm)
    for name, weight in changed.model.base.named_parameters():
        if "language_model" not in name and "text_model" not in name and "lm_head" not in name:
            torch.nn.init.constant_(weight, 0.1)
            break
    other = VideoStream(changed, processor, "recurrent")
    other.push(drive(1)[0], 0.0)
    with pytest.raises(ValueError, match="state must be one of this very model, with weights .*, got one of other"):
        stream.reset(other.features().adapter_state)


@pytest.mark.parametrize("name", [*KINDS, "gemma4", "lfm2_vl", "mistral3"])
def test_a_state_depends_on_the_weights_that_encode_frames_and_on_no_others(name):
    vlm = tiny_vlm(name)
    model = model_on(vlm)
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    output = model.get_image_features(**vlm.pictures(0))
    sum(piece.sum() for piece in read_features(output, model.config.hidden_size)).backward()
    read = {name for name, weight in model.named_parameters() if weight.grad is not None}
    parts = VideoStream(model, processor, "recurrent")._encoder.parts_of_a_state
    named = {name for name, _ in model.named_parameters() if parts.search(name)}
    assert read <= named
    assert {name for name in named if "temporal_adapter" in name}
    language_model = {name for name, _ in model.named_parameters() if ".layers." in name and "base" in name} - read
    assert language_model and not any("lm_head" in name for name in named)
    assert not any("language_model" in name or "text_model" in name for name in named)


def test_a_model_without_a_stream_is_refused(model, processor):
    class Other:
        config = type("Config", (), {"model_type": "videomamba"})

    with pytest.raises(ValueError, match=r"model of a stream must be one of \['hmba', 'hmba_vlm'\], got 'videomamba'"):
        VideoStream(Other(), processor)


def test_a_base_in_bfloat16_streams_with_an_adapter_in_float32(vlm, processor):
    model = model_on(vlm)
    model.model.base.to(torch.bfloat16)
    stream = VideoStream(model, processor, "recurrent")
    watch(stream, drive(4))
    features = stream.features().pooler_output
    assert features.dtype == torch.float32 and features.isfinite().all()
    assert answered(stream)["timestamp"] == 1.5


@pytest.mark.parametrize(
    "part", ["model.base.model.visual", "model.temporal_adapter", "model.base.model.language_model"]
)
def test_a_model_with_a_part_on_disk_streams_as_before(tmp_path, part):
    vlm = tiny_vlm("qwen3_vl")
    model = model_on(vlm)
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    model.save_pretrained(tmp_path / "model")
    parts = ["model.base.model.visual", "model.temporal_adapter", "model.base.model.language_model"]
    places = {name: "disk" if name == part else "cpu" for name in parts}
    places["model.base.lm_head"] = places["model.base.model.language_model"]
    parted = type(model).from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk")
    whole = VideoStream(model, processor, "recurrent")
    stream = VideoStream(parted, processor, "recurrent")
    for each in (whole, stream):
        watch(each, drive(3))
    assert answered(stream) == answered(whole)
    stream.reset(whole.features().adapter_state)


def test_a_model_with_low_rank_updates_of_its_language_model_streams_and_keeps_its_states():
    vlm = tiny_vlm("smolvlm")
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    config = LoraConfig(r=2, target_modules=r".*text_model.*(q_proj|v_proj)", init_lora_weights=False)
    plain = VideoStream(model_on(vlm), processor, "recurrent")
    stream = VideoStream(get_peft_model(model_on(vlm), config), processor, "recurrent")
    for each in (plain, stream):
        watch(each, drive(3))
    assert torch.equal(stream.features().pooler_output, plain.features().pooler_output)
    assert answered(stream)["timestamp"] == 1.0
    stream.reset(plain.features().adapter_state)


def test_grey_frames_are_frames(make_stream):
    stream = make_stream()
    watch(stream, [Image.new("L", SIZE, shade) for shade in (10, 200)])
    assert answered(stream)["timestamp"] == 0.5
