"""Answers of vLLM's engine are those of the pipeline, token for token."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from open_engines import GREEDY, answers, open_engine
from PIL import Image
from tiny_engines import FAMILIES, Request, pipeline_answers, save_model, save_videos, sixteen_requests
from transformers import AutoProcessor
from vllm.exceptions import VLLMValidationError

from hmba_hf import iter_frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Paths of four drives."""
    return save_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def requests(videos):
    """Sixteen questions."""
    return sixteen_requests(videos)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, requests):
    """For each family of language models, the folder of a model and what the pipeline answers."""
    models = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        save_model(family, folder)
        models[family] = folder, pipeline_answers(folder, requests)
    return models


@pytest.fixture(scope="module", params=[("llama", True), ("qwen3", True), ("llama", False)], ids=str)
def served(request, saved, videos):
    """An engine with or without prefix caching, what the pipeline answers, and whether there is caching."""
    family, caches = request.param
    folder, wanted = saved[family]
    videos_at = str(Path(videos[0]).parent)
    with open_engine(folder, enable_prefix_caching=caches, allowed_local_media_path=videos_at) as llm:
        yield llm, wanted, caches


def test_prompts_with_no_clip_one_and_two_are_answered_as_by_the_pipeline(served, requests):
    llm, wanted, _ = served
    for request, answer in list(zip(requests, wanted, strict=True))[:4]:
        assert answers(llm, [request.for_engine()]) == [answer], request


def test_a_mixed_batch_of_sixteen_is_answered_as_by_the_pipeline(served, requests):
    llm, wanted, caches = served
    asked = [request.for_engine() for request in requests]
    assert answers(llm, asked) == wanted
    again = llm.generate(asked, GREEDY, use_tqdm=False)
    assert [list(got.outputs[0].token_ids) for got in again] == wanted
    assert all(bool(got.num_cached_tokens) == caches for got in again)
    assert len({tuple(answer) for answer in wanted}) > 12, "the answers hardly depend on what is asked"


def test_one_video_may_come_as_a_path_bytes_or_frames(served, requests):
    llm, wanted, _ = served
    asked = requests[1].for_engine()
    (path,) = requests[1].videos
    with av.open(path) as container:
        stream = container.streams.video[0]
        decoded = [
            (float(frame.pts * stream.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(stream)
        ]
    frames = np.stack([frame for _, frame in decoded])
    metadata = {"timestamps": [seconds for seconds, _ in decoded]}
    forms = [path, Path(path), Path(path).read_bytes(), (frames, metadata), (torch.from_numpy(frames), metadata)]
    for video in forms:
        for one in (video, [video]):
            asked["multi_modal_data"] = {"video": one}
            assert answers(llm, [asked]) == [wanted[1]], type(video)


def test_a_chat_fetches_its_videos_through_vllm(served, requests):
    llm, wanted, _ = served
    request = requests[1]
    content = [
        {"type": "video_url", "video_url": {"url": Path(request.videos[0]).as_uri()}},
        {"type": "text", "text": request.text},
    ]
    (got,) = llm.chat(
        [{"role": "user", "content": content}],
        GREEDY,
        use_tqdm=False,
        mm_processor_kwargs={"timestamp": request.timestamp},
    )
    assert list(got.outputs[0].token_ids) == wanted[1]


def test_a_request_may_have_the_times_of_its_videos_written(served, requests):
    llm, wanted, _ = served
    timed = [request._replace(time_format=" at {seconds} s. ") for request in requests[1:4]]
    with_times = pipeline_answers(Path(llm.llm_engine.model_config.model), timed)
    assert all(a != b for a, b in zip(with_times, wanted[1:4], strict=True)), "times change nothing"
    assert answers(llm, [request.for_engine() for request in timed]) == with_times
    asked = timed[0].for_engine()
    asked["mm_processor_kwargs"]["time_format"] = "now"
    with pytest.raises(ValueError, match="time_format must be a text with one"):
        llm.generate(asked, GREEDY, use_tqdm=False)


def test_options_of_an_engine_are_those_of_requests_that_name_none(saved, requests):
    folder, wanted = saved["llama"]
    video_processor = AutoProcessor.from_pretrained(folder).video_processor
    own = {"num_frames": video_processor.num_frames, "fps": video_processor.fps}
    of_engine = {"num_frames": own["num_frames"] + 3, "fps": 2 * own["fps"]}
    asked = requests[1].for_engine()
    given = asked["mm_processor_kwargs"]
    with open_engine(folder, mm_processor_kwargs=of_engine) as llm:
        (plain,) = answers(llm, [asked])
        (named,) = answers(llm, [{**asked, "mm_processor_kwargs": given | of_engine}])
        (others,) = answers(llm, [{**asked, "mm_processor_kwargs": given | own}])
    assert plain == named != others == wanted[1]


def test_a_picture_is_asked_about_as_a_video_of_one_frame(served, videos):
    llm, _, _ = served
    picture = Image.fromarray(next(iter_frames(videos[0]))[1])
    encoded = BytesIO()
    picture.save(encoded, "JPEG")
    picture = Image.open(encoded)
    model = llm.llm_engine.model_config.model
    (wanted,) = pipeline_answers(Path(model), [Request("what is this?", (picture,))])
    frame = np.asarray(picture)[None]
    asked = {"prompt": "USER: <video>what is this? ASSISTANT:", "multi_modal_data": {"video": frame}}
    assert answers(llm, [asked]) == [wanted]
    url = f"data:video/jpeg;base64,{b64encode(encoded.getvalue()).decode()}"
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "what is this?"}]
    (got,) = llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
    assert list(got.outputs[0].token_ids) == wanted

    for type_of_part, part in (("image_url", {"url": url.replace("video", "image")}), ("image_pil", picture)):
        content[0] = {"type": type_of_part, type_of_part: part}
        with pytest.raises(VLLMValidationError, match="must hold videos alone, got image: send a picture as"):
            llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
    with pytest.raises(VLLMValidationError, match="must hold videos alone, got image: send a picture as"):
        llm.generate({**asked, "multi_modal_data": {"image": picture}}, GREEDY, use_tqdm=False)


def test_a_mistake_of_one_request_is_one_clear_error_and_the_engine_lives_on(served, requests, videos):
    llm, wanted, _ = served
    first = videos[0]
    count = "one video token for each video, got {} tokens and {} videos"
    wrong = [
        ({"prompt": "<video> what?"}, count.format(1, 0)),
        ({"prompt": "what?", "multi_modal_data": {"video": first}}, count.format(0, 1)),
        ({"prompt": "<video> what?", "multi_modal_data": {"video": [first, first]}}, count.format(1, 2)),
        (Request("what?", (first,), 99.0).for_engine(), "timestamp"),
        (Request("what?", (first,), (0.5, 1.0)).for_engine(), "one for each of 1 videos"),
        ({**Request("what?", (first,)).for_engine(), "mm_processor_kwargs": {"speed": 3}}, "speed"),
        ({**Request("what?", (first,)).for_engine(), "mm_processor_kwargs": {"do_sample_frames": False}}, "do_sample"),
        ({"prompt": "<video>", "multi_modal_data": {"video": b"no video"}}, "video"),
        ({"prompt": "<video>", "multi_modal_data": {"video": "https://host/a.mp4"}}, "`chat` fetches it"),
    ]
    for options, message in (
        ({"num_frames": "x"}, "num_frames must be a whole number, one or more, got 'x'"),
        ({"num_frames": True}, "num_frames must be a whole number, one or more, got True"),
        ({"num_frames": 257}, "a clip must have at most 256 frames, got 257"),
        ({"fps": float("nan")}, "fps must be a number greater than zero, got nan"),
        ({"source_fps": [5]}, "source_fps must be a number of frames per second"),
        ({"only_whole": "x"}, "only_whole must be true or false, got 'x'"),
        ({"timestamp": "x"}, "timestamp must be a number of seconds, zero or more, got 'x'"),
        ({"timestamp": [True]}, "timestamp must be a number of seconds, zero or more, got True"),
        ({"videos_kwargs": 3}, "videos_kwargs must be options by name, got 3"),
        ([("num_frames", 3)], "mm_processor_kwargs must be options by name, got"),
    ):
        wrong.append(({**requests[1].for_engine(), "mm_processor_kwargs": options}, message))
    form = "a video must be a file, bytes, frames, or a pair of frames and their metadata, got {}"
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    for video, kind in ((3, "int"), ([3.0], "float"), ({"path": first}, "dict"), ((frames, 3), "int")):
        wrong.append(({"prompt": "<video>", "multi_modal_data": {"video": video}}, form.format(kind)))
    for asked, message in wrong:
        with pytest.raises(ValueError, match=message):
            llm.generate(asked, GREEDY, use_tqdm=False)
        assert not llm.llm_engine.has_unfinished_requests()
    assert answers(llm, [requests[1].for_engine(), requests[2].for_engine()]) == wanted[1:3]
