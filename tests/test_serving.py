"""OpenAI's client gets the pipeline's answers, whole and in pieces, also where many ask at once."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import openai
import pytest
import torch
from PIL import Image

from hmba_hf import HMBAVLMProcessor
from hmba_hf.models.decoding_streams import OpenVideo
from hmba_hf.models.processing_hmba import HMBAProcessor
from tiny_hmba_vlm import model_on
from tiny_server import NAME, QUESTION, asking, client_of, data_url, drawn_video, jpeg, pipe_of, running
from tiny_vlm_bases import tiny_vlm

LENGTH = 8
VIDEOS = [drawn_video(seed) for seed in (0, 10, 20)]
CHATS = [
    asking(text="Hello?"),
    asking(*map(data_url, VIDEOS[:1])),
    asking(*map(data_url, VIDEOS[1:]), text="And in which of the two does it stop?"),
    asking(data_url(VIDEOS[2]), text="What?"),
]
# The same as the pipeline is asked.
OF_PIPELINE = [
    {"text": [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]},
    {"videos": VIDEOS[0], "text": QUESTION},
    {"videos": [VIDEOS[1:]], "text": ["And in which of the two does it stop?"]},
    {"videos": VIDEOS[2], "text": "What?"},
]


@pytest.fixture(scope="module")
def service():
    with running() as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    return client_of(service)


@pytest.fixture(scope="module")
def wanted(service):
    """The pipeline's answers to the chats."""
    pipe = pipe_of(service)
    answers = []
    for asked in OF_PIPELINE:
        answer = pipe(**asked, max_new_tokens=LENGTH)
        while isinstance(answer, list):
            (answer,) = answer
        answers.append(answer["generated_text"])
    assert len(set(answers)) == len(answers)
    return answers


def ask(client, messages, max_tokens=LENGTH, **options):
    return client.chat.completions.create(model=NAME, messages=messages, max_tokens=max_tokens, **options)


def text_of(completion):
    return completion.choices[0].message.content


def joined(chunks):
    """The text of a stream, and its last chunk with a choice."""
    chunks = [chunk for chunk in chunks if chunk.choices]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].choices[0]


@pytest.mark.parametrize("number", range(len(CHATS)))
def test_a_completion_is_the_pipelines_answer(client, wanted, number):
    completion = ask(client, CHATS[number])
    assert text_of(completion) == wanted[number]
    assert completion.choices[0].finish_reason in ("length", "stop")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert 1 <= completion.usage.completion_tokens <= LENGTH


def test_a_stream_has_the_same_text_in_pieces(client, wanted):
    chunks = list(ask(client, CHATS[1], stream=True, stream_options={"include_usage": True}))
    text, last = joined(chunks)
    assert text == wanted[1]
    assert len(chunks) > 4
    assert last.finish_reason in ("length", "stop")
    assert last.metadata["width"] == 40 and last.metadata["height"] == 20
    assert chunks[-1].usage.completion_tokens <= LENGTH


def test_fifty_who_ask_at_once_get_their_own_answers(service, client, wanted):
    alone = {}
    for number in range(len(CHATS)):
        for length in (1, 3, LENGTH):
            alone[number, length] = text_of(ask(client, CHATS[number], length))
    keys = [list(alone)[i % len(alone)] for i in range(50)]

    def ask_one(index):
        number, length = keys[index]
        if index % 2:
            return joined(ask(client, CHATS[number], length, stream=True))[0]
        return text_of(ask(client, CHATS[number], length))

    before = counts(service)
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(ask_one, range(50)))
    assert answers == [alone[key] for key in keys]
    after = counts(service)
    assert after["hmba_batches_total"] - before["hmba_batches_total"] < 50, "some were answered together"
    assert after["hmba_batched_requests_total"] - before["hmba_batched_requests_total"] == 50


def counts(service):
    """The counters without labels."""
    lines = [line.split() for line in service.metrics.text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_an_answer_ends_before_its_stop(client, wanted):
    stop = wanted[1][3:5]
    place = wanted[1].index(stop)
    completion = ask(client, CHATS[1], stop=[stop, "never"])
    assert text_of(completion) == wanted[1][:place].strip()
    assert completion.choices[0].finish_reason == "stop"
    text, last = joined(ask(client, CHATS[1], stop=stop, stream=True))
    assert (text, last.finish_reason) == (text_of(completion), "stop")


def test_a_timestamp_chooses_the_moment(service, client):
    pipe = pipe_of(service)
    answers = set()
    for timestamp in (0.0, 1.0, 2.5):
        (wanted,) = pipe(videos=VIDEOS[0], text=QUESTION, timestamp=timestamp, max_new_tokens=LENGTH)
        answer = text_of(ask(client, CHATS[1], extra_body={"timestamp": timestamp}))
        assert answer == wanted["generated_text"]
        answers.add(answer)
    assert len(answers) > 1


def test_boxes_are_in_the_metadata_in_pixels_and_as_parts(client, monkeypatch):
    answer = "A van[0.500,0.500,1.000,0.625] waits"
    monkeypatch.setattr(HMBAProcessor, "batch_decode", lambda self, tokens, **options: [answer] * len(tokens))
    choice = ask(client, CHATS[1]).choices[0]
    assert choice.message.content == answer
    assert choice.metadata == {
        "objects": [
            {
                "label": "A van",
                "box": {"xmin": 0.5, "ymin": 0.5, "xmax": 1.0, "ymax": 0.75},
                "pixels": {"xmin": 20.0, "ymin": 10.0, "xmax": 40.0, "ymax": 15.0},
            }
        ],
        "width": 40,
        "height": 20,
    }
    assert ask(client, CHATS[0]).choices[0].metadata == {"objects": [], "width": 0, "height": 0}


def test_a_picture_is_a_clip_of_one_frame(service, client):
    picture = jpeg(5)
    part = {"type": "image_url", "image_url": {"url": data_url(picture, "image/jpeg")}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    (wanted,) = pipe_of(service)(videos=[Image.open(io.BytesIO(picture))], text=QUESTION, max_new_tokens=LENGTH)
    assert text_of(ask(client, messages)) == wanted["generated_text"]


def test_an_uploaded_video_is_asked_about_by_its_id_until_it_is_deleted(client, wanted):
    uploaded = client.files.create(file=("drive.mp4", VIDEOS[0]), purpose="user_data")
    assert (uploaded.bytes, uploaded.filename) == (len(VIDEOS[0]), "drive.mp4")
    part = {"type": "file", "file": {"file_id": uploaded.id}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    assert text_of(ask(client, messages)) == wanted[1]
    assert client.files.retrieve(uploaded.id) == client.files.wait_for_processing(uploaded.id) == uploaded
    assert client.files.delete(uploaded.id).deleted
    calls = [client.files.retrieve, client.files.delete]
    for call in (lambda: ask(client, messages), *[partial(call, uploaded.id) for call in calls]):
        with pytest.raises(openai.NotFoundError) as refused:
            call()
        assert refused.value.code == "file_not_found"


def test_a_video_of_a_request_is_opened_once(client, monkeypatch):
    opening = OpenVideo.__init__
    opened = []

    def note(video, *arguments, **options):
        opened.append(arguments[1])
        opening(video, *arguments, **options)

    monkeypatch.setattr(OpenVideo, "__init__", note)
    ask(client, CHATS[2])
    assert len(opened) == 2, "of two videos"


def test_a_temperature_draws_tokens_and_zero_does_not(client, wanted):
    assert text_of(ask(client, CHATS[1], temperature=0)) == wanted[1]
    drawn = {text_of(ask(client, CHATS[1], temperature=2.0)) for _ in range(8)}
    assert len(drawn) > 1


def test_the_coldest_temperature_is_greedy(client, wanted):
    assert text_of(ask(client, CHATS[0], temperature=1e-45)) == wanted[0]


def test_the_model_is_listed_by_its_name(client):
    (model,) = client.models.list().data
    assert model.id == NAME
    with pytest.raises(openai.NotFoundError, match="model must be 'tiny', got 'other'"):
        client.chat.completions.create(model="other", messages=CHATS[0])


@pytest.mark.parametrize("name", ["org/tiny", "a model"])
def test_a_model_is_described_by_its_id_and_another_one_is_not_found(name):
    with running(name=name) as service:
        client = client_of(service)
        (listed,) = client.models.list().data
        assert client.models.retrieve(name) == listed
        assert listed.id == name
        for other in ("tiny", "org/other", f"{name}/"):
            with pytest.raises(openai.NotFoundError) as refused:
                client.models.retrieve(other)
            assert refused.value.code == "model_not_found"
            assert refused.value.body["message"] == f"model must be {name!r}, got {other!r}"


def test_an_error_of_a_batch_reaches_only_the_one_that_causes_it(service, client, wanted, monkeypatch):
    pipeline = service.answerer._pipeline
    forward = pipeline.forward
    busy = threading.Event()
    steps = []

    def fail_at_the_third_token(input_ids, scores, **_):
        steps.append(1)
        if len(steps) % 3 == 0:
            raise RuntimeError("of the model")
        return torch.zeros(len(input_ids), dtype=torch.bool)

    def fail_for_two_clips(inputs, **options):
        assert busy.wait(60)  # until all of them wait
        fails = any(len(one["pixel_values_videos"]) == 2 for one in inputs["inputs"] if "pixel_values_videos" in one)
        if fails:
            options["generate_kwargs"]["stopping_criteria"].append(fail_at_the_third_token)
        return forward(inputs, **options)

    monkeypatch.setattr(pipeline, "forward", fail_for_two_clips)
    outcomes = {}

    def ask_one(number):
        try:
            outcomes[number] = text_of(ask(client, CHATS[number]))
        except openai.InternalServerError as error:
            outcomes[number] = error.code

    threads = [threading.Thread(target=ask_one, args=(number,)) for number in range(len(CHATS))]
    for thread in threads:
        thread.start()
    while service._open < len(CHATS) or len(service.worker) < len(CHATS) - 1:
        time.sleep(0.01)
    busy.set()
    for thread in threads:
        thread.join()
    assert outcomes == {0: wanted[0], 1: wanted[1], 2: "internal_error", 3: wanted[3]}


def test_a_model_on_a_vision_language_model_is_served_as_its_pipeline_answers():
    vlm = tiny_vlm("qwen3_vl")
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="unit_square")
    with running(model_on(vlm, num_frames=3), processor) as service:
        client = client_of(service)
        pipe = pipe_of(service)
        answers = []
        for video in VIDEOS[:2]:
            (wanted,) = pipe(videos=video, text=QUESTION, max_new_tokens=LENGTH)
            chat = asking(data_url(video))
            assert text_of(ask(client, chat)) == wanted["generated_text"]
            assert joined(ask(client, chat, stream=True))[0] == wanted["generated_text"]
            answers.append(wanted["generated_text"])
    assert all(answers)
