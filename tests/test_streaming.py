"""A stream answers what the pipeline answers, and looks at each frame once."""

import gc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.testing import assert_close
from transformers import GenerationConfig, MistralConfig, pipeline

from hmba_hf import AdapterState, VideoStream, decode_frames
from hmba_hf.models import layers_temporal_adapter
from tiny_models import lively_model
from tiny_processors import clip, tiny_processor

QUESTION = "Which object is the risk?"


@pytest.fixture
def model():
    return lively_model()


@pytest.fixture
def processor():
    return tiny_processor()


def frames_of_noise(count, seed=0):
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 255, (20, 40, 3), dtype=np.uint8)) for _ in range(count)]


def watch(stream, frames, rate=2.0, start=0.0):
    """Push frames at a rate; return which of them were taken."""
    return [stream.push(frame, start + i / rate) for i, frame in enumerate(frames)]


def answered(stream, question=QUESTION, **kwargs):
    return stream.ask(question, max_new_tokens=8, **kwargs)


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_a_window_answers_as_the_pipeline_does_about_the_same_frames(model, processor, count):
    stream, frames = VideoStream(model, processor), frames_of_noise(count)
    assert watch(stream, frames) == [True] * count
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    seen = [frames[0]] * (5 - count) + frames[-5:]
    for question in (QUESTION, "What now? <video> Say."):
        (wanted,) = pipe(videos=seen, text=question, max_new_tokens=8)
        assert answered(stream, question) == {**wanted, "timestamp": (count - 1) / 2}


@pytest.mark.parametrize("name", ["freeway_day_540p.mp4", "ego_walk_gopro_480p.mp4", "freeway_cars_audio_720p.mp4"])
def test_a_window_over_a_real_drive_answers_as_the_pipeline_does_about_the_file(model, processor, shared_data, name):
    frames, metadata = decode_frames(shared_data / "clips" / name, None, None, 2.0)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    stream = VideoStream(model, processor)
    taken, answers = [], set()
    for frame, time in zip(frames, metadata.timestamps, strict=True):
        if stream.push(frame, time):
            taken.append((frame, time))
            if len(taken) % 3 == 0:
                clip = [taken[max(i, 0)][0] for i in range(len(taken) - 5, len(taken))]
                (wanted,) = pipe(videos=clip, text=QUESTION, max_new_tokens=8)
                assert answered(stream) == {**wanted, "timestamp": time}
                answers.add(wanted["generated_text"])
    assert len(answers) > 1
    assert_close(np.diff([time for _, time in taken]), np.full(len(taken) - 1, 0.5), atol=0.05, rtol=0)


def test_a_window_answers_as_the_pipeline_does_about_the_file_itself(model, processor, shared_data):
    path = shared_data / "clips" / "freeway_day_540p.mp4"
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    frames, metadata = decode_frames(path, 3.0, None, 2.0)
    stream = VideoStream(model, processor, fps=5.0)  # of whose moments a file of 25 frames a second has each
    for i, (frame, time) in enumerate(zip(frames, metadata.timestamps, strict=True)):
        stream.push(frame, time)
        if i in (0, 10, 37, 75):
            (wanted,) = pipe(videos=str(path), text=QUESTION, timestamp=stream.timestamp, fps=5.0, max_new_tokens=8)
            assert answered(stream) == {**wanted, "timestamp": stream.timestamp}


def test_frames_are_taken_at_the_models_rate_whatever_that_of_the_stream(model, processor):
    stream = VideoStream(model, processor, fps=2.0)
    frames = clip(1)[0]
    assert [i for i in range(31) if stream.push(frame=frames, timestamp=100 + i / 10)] == [0, 5, 10, 15, 20, 25, 30]
    stream.reset()
    taken = [i / 12 for i in range(49) if stream.push(frames, i / 12)]
    assert len(taken) == 9 and max(abs(time - i / 2) for i, time in enumerate(taken)) < 1 / 12
    stream.reset()
    shown = []
    for time in (0.0, 0.44, 0.51, 0.6, 0.9, 1.2, 1.44, 1.5):
        stream.push(frames, time)
        shown.append(stream.timestamp)
    assert shown == [0.0, 0.44, 0.51, 0.51, 0.9, 0.9, 1.44, 1.5]


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_camera_with_jitter_is_taken_as_a_regular_one(model, processor, mode):
    jittery, regular = VideoStream(model, processor, mode), VideoStream(model, processor, mode)
    frames, jitter = frames_of_noise(30), np.random.default_rng(3).uniform(-0.02, 0.02, 30)
    for i, frame in enumerate(frames):
        assert jittery.push(frame, i / 2 + jitter[i]) and regular.push(frame, i / 2)
        if i % 7 == 0:
            assert answered(jittery)["generated_text"] == answered(regular)["generated_text"]
    assert torch.equal(jittery.features().pooler_output, regular.features().pooler_output)
    assert jittery.held == regular.held == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_each_moment_has_the_nearest_frame_within_half_a_step_whatever_comes(model, processor, mode, seed):
    draw = np.random.default_rng(seed)
    times = np.cumsum(draw.choice([0.03, 0.1, 0.1, 0.24, 0.4, 0.7], 40) * draw.uniform(0.8, 1.2, 40))
    times = [0.0, *times.round(3).tolist()]
    last = np.floor(times[-1] * 2) / 2
    times = [time for time in times if time < last - 0.25] + [last]
    frames = frames_of_noise(len(times), seed)
    stream, wanted = VideoStream(model, processor, mode), VideoStream(model, processor, mode)
    buffer = np.empty((20, 40, 3), np.uint8)  # which a camera writes every frame into
    for frame, time in zip(frames, times, strict=True):
        buffer[:] = np.asarray(frame)
        stream.push(buffer, time)
    held, nearest = 0, 0
    for moment in np.arange(0, last + 0.1, 0.5).tolist():
        distances = [abs(time - moment) for time in times]
        if min(distances) <= 0.25 + 1e-9:
            nearest = int(np.argmin(distances))
        else:
            held += 1
        wanted.push(np.asarray(frames[nearest]), moment)
    assert_close(stream.features().pooler_output, wanted.features().pooler_output, atol=1e-5, rtol=1e-5)
    assert stream.held == held


def test_moments_that_an_older_frame_stands_for_are_counted(model, processor):
    stream, frame = VideoStream(model, processor), clip(1)[0]
    for time in (0.0, 0.5, 2.0, 2.6, 3.4):
        stream.push(frame, time)
    assert stream.held == 3  # at 1.0, 1.5 and 3.0 s
    stream.reset()
    for time in (0.0, 0.5, 1.5):
        stream.push(frame, time)
    assert stream.held == 4


@pytest.mark.parametrize("fps", [2.0, 3.0, 7.0, 24.0])
def test_frames_at_the_models_rate_are_all_taken_though_their_times_are_rounded(model, processor, fps):
    stream, frame = VideoStream(model, processor, fps=fps), clip(1)[0]
    assert all(stream.push(frame, round(10.007 + i / fps, 3)) for i in range(60))
    assert stream._moment == 59


def test_the_tower_sees_each_frame_once(model, processor):
    seen = []
    model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    for mode in ("window", "recurrent"):
        seen.clear()
        stream, frames = VideoStream(model, processor, mode), frames_of_noise(21)
        for i, frame in enumerate(frames):
            stream.push(frame, i / 4)
            if i % 3 == 0:
                answered(stream), answered(stream, "And now?")
        pixels = processor.video_processor([frames[::2]], return_tensors="pt")["pixel_values_videos"][0]
        assert torch.equal(torch.cat(seen), pixels)


def test_a_window_that_moves_projects_the_new_frame_alone(model, processor, monkeypatch):
    monkeypatch.setattr(layers_temporal_adapter, "FEWEST_KEPT", 0)
    rows = []
    mixers = model.model.temporal_adapter.context.mixers
    scans = [scan for scan in mixers if scan == "divided_time" or scan.startswith("joint")]
    for scan in scans:
        in_proj = mixers[scan].forward_mixer.in_proj
        in_proj.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:-1].numel()))
    stream, frames = VideoStream(model, processor), frames_of_noise(8)
    p = model.config.num_patches
    for i, frame in enumerate(frames):
        stream.push(frame, i / 2)
        rows.clear()
        read = stream.features().last_hidden_state
        positions = 5 * (len(scans) - 1)
        assert sum(rows) == 2 * p * len(scans) + positions  # of the new frame what is scanned, and the gate
        clip = model.get_frame_features(
            processor.video_processor([[frames[max(k, 0)] for k in range(i - 4, i + 1)]], return_tensors="pt")[
                "pixel_values_videos"
            ]
        )
        with torch.no_grad():
            assert_close(read, model.adapt_frame_features(clip).last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_recurrent_stream_reads_what_the_adapter_reads_of_the_whole_drive(preset, processor):
    model = lively_model()
    if preset == "released":
        choices = {
            "temporal_strides": (1,),
            "branches": ("divided_space_time", "joint_space_time"),
            "fusion": "cosine",
        }
        model = lively_model(share_mixers=True, bidirectional_time=False, latent_mamba=False, gated=False, **choices)
    stream, frames = VideoStream(model, processor, mode="recurrent"), frames_of_noise(12)
    for i, frame in enumerate(frames):
        stream.push(frame, i / 2)
        if i in (0, 3, 4, 11):  # read at some frames only
            pixels = processor.video_processor([frames[: i + 1]], return_tensors="pt")["pixel_values_videos"]
            with torch.no_grad():
                wanted = model.get_video_features(pixels).pooler_output
            assert_close(stream.features().pooler_output, wanted, atol=1e-5, rtol=1e-5)
    assert stream.features().adapter_state.tensors["frames_seen"].tolist() == [12]


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_moment_without_a_frame_is_held_by_the_frame_before(model, processor, mode):
    stream, same, frames = VideoStream(model, processor, mode), VideoStream(model, processor, mode), frames_of_noise(3)
    for frame, time in zip(frames, (0.0, 0.5, 2.0), strict=True):
        stream.push(frame, time)
    watch(same, [frames[0], frames[1], frames[1], frames[1], frames[2]])
    assert_close(stream.features().pooler_output, same.features().pooler_output, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_pictures_arrays_and_tensors_are_the_same_frames(model, processor, mode):
    read = []
    for convert in (lambda x: x, np.asarray, lambda x: torch.from_numpy(np.array(x)).movedim(-1, 0)):
        stream = VideoStream(model, processor, mode)
        watch(stream, [convert(frame) for frame in frames_of_noise(6)])
        read.append(stream.features().pooler_output)
    assert torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])


def test_text_before_the_video_is_read_once(model, processor):
    lengths = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    stream, frames = VideoStream(model, processor), frames_of_noise(4)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
    )
    before, after = (len(processor.tokenizer.encode(part)) for part in prompt.split(processor.video_token))
    for i, frame in enumerate(frames):
        stream.push(frame, i / 2)
        lengths.clear()
        stream.ask(QUESTION, max_new_tokens=1)
        assert lengths == [*([before] if i == 0 else []), 4 + after - 1]


@pytest.mark.parametrize("start", [10.0, -12.0])
def test_the_time_of_the_current_frame_is_told_as_the_pipeline_tells_it(model, processor, start):
    processor.time_format = " at {seconds} s. "
    stream, frames = VideoStream(model, processor), frames_of_noise(5)
    watch(stream, frames, start=start)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu", max_new_tokens=8)
    times = [{"timestamps": [start + step / 2 for step in range(5)]}]
    (wanted,) = pipe(videos=frames, text=QUESTION, video_metadata=times)
    assert answered(stream) == {**wanted, "timestamp": start + 2}
    assert pipe(videos=frames, text=QUESTION)[0] != wanted


@pytest.mark.parametrize(
    "options",
    [
        *({"num_beams": 2}, {"cache_implementation": "static"}, {"use_cache": False}, {"do_sample": True, "top_k": 5}),
        {"generation_config": GenerationConfig(max_new_tokens=8, num_beams=3, pad_token_id=102)},
    ],
    ids=lambda options: "-".join(options),
)
def test_other_ways_to_generate_answer_as_the_pipeline_does(model, processor, options):
    stream, frames = VideoStream(model, processor), frames_of_noise(5)
    watch(stream, frames)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    options = options if "generation_config" in options else {"max_new_tokens": 8, **options}
    torch.manual_seed(3)
    (wanted,) = pipe(videos=frames, text=QUESTION, **options)
    torch.manual_seed(3)
    assert stream.ask(QUESTION, **options) == {**wanted, "timestamp": 2.0}


def test_a_language_model_with_a_sliding_window_answers_as_in_the_pipeline(processor):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 104, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 102}
    text_config = MistralConfig(**sizes, **tokens, num_key_value_heads=4, sliding_window=16)
    model, frames = lively_model(text_config=text_config), frames_of_noise(5)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu")
    stream = VideoStream(model, processor)
    watch(stream, frames)
    for question in (QUESTION, QUESTION, "And now?"):
        (wanted,) = pipe(videos=frames, text=question, max_new_tokens=8)
        assert answered(stream, question) == {**wanted, "timestamp": 2.0}


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_model_in_bfloat16_streams(processor, mode):
    model = lively_model().to(torch.bfloat16)
    stream = VideoStream(model, processor, mode)
    watch(stream, frames_of_noise(9))
    assert stream.features().pooler_output.dtype == torch.bfloat16
    assert stream.features().pooler_output.isfinite().all() and answered(stream)["generated_text"]


def test_a_model_with_low_rank_updates_streams(model, processor):
    config = LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)", init_lora_weights=False)
    plain, stream = VideoStream(model, processor), VideoStream(get_peft_model(lively_model(), config), processor)
    for each in (plain, stream):
        watch(each, frames_of_noise(5))
    assert_close(stream.features().pooler_output, plain.features().pooler_output, atol=1e-5, rtol=1e-5)
    assert answered(stream)["timestamp"] == 2.0


def test_a_stream_goes_on_from_the_state_of_another(model, processor):
    whole, first = (VideoStream(model, processor, mode="recurrent") for _ in range(2))
    frames = frames_of_noise(9)
    watch(whole, frames)
    watch(first, frames[:5])
    second = VideoStream(model, processor, mode="recurrent")
    second.reset(first.features().adapter_state)
    watch(second, frames[5:])
    assert_close(second.features().pooler_output, whole.features().pooler_output, atol=1e-6, rtol=1e-6)


def test_the_state_of_a_stream_is_on_disk_what_it_was(model, processor, tmp_path):
    stream, second = (VideoStream(model, processor, mode="recurrent") for _ in range(2))
    watch(stream, frames_of_noise(3))
    state = stream.features().adapter_state
    state.save(tmp_path / "state.safetensors")
    loaded = AdapterState.load(tmp_path / "state.safetensors")
    assert loaded.weights == state.weights != ""
    second.reset(loaded)
    unknown = AdapterState(loaded.tensors)  # as `get_video_features` leaves it
    second.reset(unknown)
    for each, seconds in ((stream, 1.5), (second, 0.0)):
        each.push(frames_of_noise(4)[3], seconds)
    assert_close(second.features().pooler_output, stream.features().pooler_output, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["window", "recurrent"])
@pytest.mark.parametrize("part", ["vision_tower", "temporal_adapter", "multi_modal_projector", "language_model"])
def test_a_model_with_a_part_on_disk_streams_as_before(model, processor, mode, part, tmp_path):
    model.save_pretrained(tmp_path / "model")
    parts = ["vision_tower", "temporal_adapter", "multi_modal_projector", "language_model"]
    places = {f"model.{name}": "disk" if name == part else "cpu" for name in parts}
    places["lm_head"] = places["model.language_model"]  # their weights are tied
    parted = type(model).from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk")
    whole, stream = VideoStream(model, processor, mode), VideoStream(parted, processor, mode)
    for each in (whole, stream):
        watch(each, frames_of_noise(4))
    assert answered(stream) == answered(whole)
    if mode == "recurrent":
        stream.reset(whole.features().adapter_state)


def test_reset_forgets_everything(model, processor):
    for mode in ("window", "recurrent"):
        stream, fresh = VideoStream(model, processor, mode), VideoStream(model, processor, mode)
        watch(stream, clip(4))
        stream.reset()
        with pytest.raises(ValueError, match="a frame must be pushed before the first question"):
            stream.ask(QUESTION)
        frames = frames_of_noise(3)
        watch(stream, frames, start=-7.0)
        watch(fresh, frames)
        assert torch.equal(stream.features().pooler_output, fresh.features().pooler_output)


@pytest.mark.parametrize("adapter", ["none", "mean"])
@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_baselines_stream_too(processor, adapter, mode):
    model, frames = lively_model(adapter=adapter), frames_of_noise(7)
    stream = VideoStream(model, processor, mode)
    watch(stream, frames)
    pixels = processor.video_processor([frames if mode == "recurrent" else frames[-5:]], return_tensors="pt")
    with torch.no_grad():
        wanted = model.get_video_features(pixels["pixel_values_videos"]).pooler_output
    assert_close(stream.features().pooler_output, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_what_a_stream_holds_does_not_grow(model, processor, mode, monkeypatch):
    monkeypatch.setattr(layers_temporal_adapter, "FEWEST_KEPT", 0)

    def living():
        gc.collect()
        # By its type: a weak proxy of what is gone refuses to be asked.
        return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]

    def held():
        tensors = [x for x in living() if id(x) not in known]
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())

    others = living()  # of tests before this one; some go in the meantime
    known = {id(x) for x in others}
    stream, sizes = VideoStream(model, processor, mode), []
    for i, frame in enumerate(frames_of_noise(41)):
        stream.push(frame, i / 2)
        if i % 10 == 0:
            answered(stream)
            sizes.append(held())
    assert sizes[1:] == sizes[1:2] * 4


def test_times_of_every_kind_of_number_are_the_same(model, processor):
    stream, other = VideoStream(model, processor), VideoStream(model, processor)
    times = [Decimal("0.0"), Fraction(1, 2), np.float32(1.0), torch.tensor(1.5), np.array(2.0), np.int64(3)]
    for frame, time in zip(frames_of_noise(6), times, strict=True):
        assert stream.push(frame, time) == other.push(frame, float(time))
    assert answered(stream) == answered(other)
