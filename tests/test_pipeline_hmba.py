from types import MethodType

import av
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import pipeline

from hmba_hf import decode_frames
from tiny_models import lively_model
from tiny_processors import clip, tiny_processor, user, video

ANSWER = "A white van[0.500,0.500,1.000,1.000] is near a dog[0.1,0.2]"


def texts(outputs):
    return [output["generated_text"] for output in outputs]


@pytest.fixture
def pipe():
    """A pipeline with a random model whose greedy answers depend on the video and on the question."""
    return pipeline(
        "video-text-to-text", model=lively_model(), processor=tiny_processor(), device="cpu", max_new_tokens=8
    )


@pytest.fixture
def asked(pipe):
    """The inputs of every call of `generate`, which then answers `ANSWER` to everything."""
    calls = []
    tokenizer = pipe.processor.tokenizer
    answer = torch.tensor([[*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]])

    def generate(model, input_ids, **kwargs):
        calls.append({"input_ids": input_ids, **kwargs})
        input_ids = input_ids.repeat_interleave(kwargs.get("num_return_sequences") or 1, dim=0)
        return torch.cat([input_ids, answer.expand(len(input_ids), -1)], dim=1)

    pipe.model.generate = MethodType(generate, pipe.model)
    return calls


@pytest.fixture(scope="module")
def dashcam(tmp_path_factory):
    """A file of 20 frames, 10 a second, 64 x 48 pixels, from dark to bright."""
    path = tmp_path_factory.mktemp("video") / "dashcam.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in np.linspace(20, 230, 20):
            picture = np.full((48, 64, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def prompts(pipe, call):
    decoded = pipe.processor.batch_decode(call["input_ids"])
    return [text.replace("<pad>", "").replace("<video>" * 4, "<video>").split("USER: ")[1] for text in decoded]


def test_an_answer_comes_without_its_prompt_and_with_boxes_in_pixels(pipe, asked):
    [output] = pipe(videos=clip(width=100, height=60), text="Which object is the risk?")
    assert output == {
        "generated_text": ANSWER,
        "objects": [{"label": "A white van", "box": {"xmin": 50, "ymin": 30, "xmax": 100, "ymax": 60}}],
    }
    assert prompts(pipe, asked[0]) == ["<video>Which object is the risk? ASSISTANT:"]


def test_boxes_are_on_the_last_video_of_the_prompt(pipe, asked):
    [[output]] = pipe(videos=[[clip(width=100, height=60), clip(width=10, height=10)]], text="What?")
    assert output["objects"][0]["box"] == {"xmin": 5, "ymin": 5, "xmax": 10, "ymax": 10}
    assert prompts(pipe, asked[0]) == ["<video><video>What? ASSISTANT:"]


def test_text_alone_has_no_objects(pipe, asked):
    assert pipe(text="What?") == [{"generated_text": ANSWER, "objects": []}]
    assert pipe(text=["What?", "Why?"]) == [[{"generated_text": ANSWER, "objects": []}]] * 2
    assert "pixel_values_videos" not in asked[0]


def test_a_question_may_say_where_its_videos_belong(pipe, asked):
    pipe(videos=[[clip(), clip()]], text="In <video> and <video>?")
    assert prompts(pipe, asked[0]) == ["In <video> and <video>? ASSISTANT:"]
    with pytest.raises(ValueError, match="1 tokens and 2 videos"):
        pipe(videos=[[clip(), clip()]], text="In <video>?")


def test_the_timestamp_chooses_the_current_frame(pipe, asked, dashcam):
    outputs = pipe(videos=dashcam, text="What?", timestamp=0.5, num_frames=3, fps=5)
    assert outputs[0]["objects"][0]["box"] == {"xmin": 32, "ymin": 24, "xmax": 64, "ymax": 48}
    pipe(videos=dashcam, text="What?", timestamp=[0.5, 1.5], num_frames=3, fps=5)
    pipe(videos=dashcam, text="What?")
    early, also_early, late, default = (call["pixel_values_videos"] for call in asked)
    torch.testing.assert_close(also_early, early)
    assert early.shape == late.shape == (1, 3, 3, 28, 28)
    assert early[0, -1].mean() < late[0, -1].mean() < default[0, -1].mean()
    assert default.shape[1] == pipe.processor.video_processor.num_frames


def test_the_time_of_the_current_frame_is_told_to_the_model(pipe, asked, dashcam):
    pipe(videos=dashcam, text="What?", timestamp=1.26, time_format=" at {seconds} s. ")
    pipe(videos=dashcam, text="What?", timestamp=1.26)
    pipe.processor.time_format = "({seconds})"
    pipe(videos=dashcam, text="What?", timestamp=[0.5, 1.5])
    wanted = ["<video> at 1.2 s. What?", "<video>What?", "<video>(0.5)What?", "<video>(1.5)What?"]
    assert [prompts(pipe, call)[0].removesuffix(" ASSISTANT:") for call in asked] == wanted


def test_one_question_goes_with_every_video_and_one_video_with_every_question(pipe, asked, dashcam):
    assert len(pipe(videos=[clip(), dashcam, clip()], text="What?")) == 3
    assert len(pipe(videos=clip(), text=["What?", "Why?"])) == 2
    assert len(pipe(videos=[dashcam, clip()], text=["What?", "Why?"], timestamp=[0.5, None])) == 2
    assert [prompts(pipe, call)[0][7:-11] for call in asked] == ["What?"] * 3 + ["What?", "Why?"] * 2
    with pytest.raises(ValueError, match="'videos': 2, 'text': 3"):
        pipe(videos=[dashcam, clip()], text=["a", "b", "c"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_the_answers_of_its_inputs_alone(pipe, dashcam, side):
    pipe.processor.tokenizer.padding_side = side
    chat = [user("Here: ", video(clip(5, shade=200)), video(clip(2)), "which?")]
    inputs = [
        {"videos": clip(), "text": "What?"},
        {"videos": dashcam, "text": "A longer question about it?", "timestamp": 0.5},
        {"text": "Hello"},
        {"text": chat},
    ]
    alone = [pipe(one) for one in inputs]
    assert len({output[0]["generated_text"] for output in alone}) == 4
    assert pipe(inputs, batch_size=4) == alone
    assert pipe(inputs, batch_size=3) == alone
    assert pipe.processor.tokenizer.padding_side == side


def test_chats_are_continued(pipe, asked):
    chat = [user(video(clip()), "What?"), {"role": "assistant", "content": "A van."}, user("Why?")]
    for arguments in ({"text": chat}, {"videos": chat}):
        assert pipe(**arguments)[0]["generated_text"] == ANSWER
    assert [len(outputs) for outputs in pipe([chat, chat[:1]])] == [1, 1]
    assert prompts(pipe, asked[0])[0] == "<video>What? ASSISTANT: A van.</s>"
    assert pipe.processor.decode(asked[0]["input_ids"][0]).endswith("USER: Why? ASSISTANT:")
    pipe(text=chat[:2])
    assert prompts(pipe, asked[-1])[0] == "<video>What? ASSISTANT: A van."


def test_chats_take_a_timestamp_each(pipe, asked, dashcam):
    chat = [user({"type": "video", "path": dashcam}, "What?")]
    pipe([chat, chat], timestamp=[0.2, 1.9])
    pipe(text=chat, timestamp=0.2)
    first, second, third = (call["pixel_values_videos"][0, -1].mean() for call in asked)
    assert first == third < second


def test_datasets_and_generators_stream(pipe, asked):
    class Questions(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"videos": clip(index + 1), "text": f"{index}?"}

    assert [texts(output) for output in pipe(Questions(), batch_size=2)] == [[ANSWER]] * 3
    assert [call["pixel_values_videos"].shape[:2] for call in asked] == [(2, 2), (1, 3)]
    assert asked[0]["frame_mask"].tolist() == [[False, True], [True, True]]
    assert len(list(pipe([user("What?")] for _ in range(2)))) == 2


def test_generation_options_reach_the_model(pipe):
    question = {"videos": clip(), "text": "What?"}
    full = pipe(**question)[0]["generated_text"]
    assert pipe(**question, max_new_tokens=2)[0]["generated_text"] == full[:2].strip()
    assert pipe(**question, generate_kwargs={"max_new_tokens": 2})[0]["generated_text"] == full[:2].strip()
    assert pipe(**question, stop_strings=full[1])[0]["generated_text"] == full[:2].strip()
    assert len(pipe(**question, num_beams=2, num_return_sequences=2)) == 2
    assert len(pipe([question] * 2, batch_size=2, num_beams=2, num_return_sequences=2)[1]) == 2
    with pytest.raises(ValueError, match="generation parameters must be given once, got .*max_new_tokens"):
        pipe(**question, max_new_tokens=2, generate_kwargs={"max_new_tokens": 2})
    with pytest.raises(ValueError, match="timestmap"):
        pipe(**question, timestmap=2)


def test_options_of_the_processor_may_be_given(pipe, asked):
    pipe(videos=clip(), text="What?", processor_kwargs={"size": {"height": 14, "width": 14}})
    assert asked[0]["pixel_values_videos"].shape == (1, 3, 3, 14, 14)


def test_a_video_that_lacks_among_others_is_refused_and_not_answered_without(pipe, dashcam):
    with pytest.raises(ValueError, match="videos must be a video for each input, got None among them"):
        pipe(videos=[dashcam, None], text="What?")


def test_a_video_without_a_question_is_refused(pipe, dashcam):
    for videos in (dashcam, [dashcam], clip(), None):
        with pytest.raises(ValueError, match="videos must have a text"):
            pipe(videos)
    with pytest.raises(ValueError, match="videos of a chat must be in its content blocks"):
        pipe(videos=dashcam, text=[user("What?")])


@pytest.mark.parametrize(
    "inputs",
    [
        {"videos": []},
        {"videos": [[]]},
        {"videos": [clip(), []]},
        {"videos": [[clip(), []]]},
        {"videos": np.zeros((0, 8, 8, 3), np.uint8)},
        {"videos": np.zeros((0, 2, 8, 8, 3), np.uint8)},
        {"videos": clip(), "text": []},
        {"videos": clip(), "timestamp": []},
        {"text": []},
        {"text": {"videos": [], "text": "What?"}},
        {"text": [{"videos": [], "text": "What?"}]},
        {"text": [user(video([]), "What?")]},
    ],
)
def test_nothing_where_something_is_needed_is_refused(pipe, inputs):
    with pytest.raises(ValueError, match="expected|videos must be|at least one"):
        pipe(**{"text": "What?", **inputs})


def test_pictures_are_one_frame_clips(pipe, asked):
    picture = clip(1)[0]
    pipe(videos=picture, text="What?")
    pipe(videos=[[picture, picture]], text="What?")
    pipe(text=[user({"type": "image", "image": picture}, "What?")])
    assert [tuple(call["pixel_values_videos"].shape[:2]) for call in asked] == [(1, 1), (1, 2), (1, 1)]


def test_a_clip_that_was_decoded_before_gives_the_inputs_of_its_file(pipe, asked, dashcam):
    every, _ = decode_frames(dashcam, num_frames=None)
    frames, _ = decode_frames(dashcam, 1.5, 3, 5.0)
    sampling = {"timestamp": 1.5, "num_frames": 3, "fps": 5.0}
    wanted = pipe(videos=dashcam, text="What?", **sampling)
    assert pipe(videos=frames, text="What?") == wanted
    assert pipe(videos=every, text="What?", video_metadata={"fps": 10.0}, **sampling) == wanted
    first, *others = (call["pixel_values_videos"] for call in asked)
    assert all(torch.equal(other, first) for other in others)


def test_a_saved_pipeline_loads_again(pipe, tmp_path):
    question = {"videos": clip(), "text": "What?"}
    pipe.save_pretrained(tmp_path)
    loaded = pipeline("video-text-to-text", model=str(tmp_path), device="cpu", max_new_tokens=8)
    assert loaded(**question) == pipe(**question)
    again = pipeline("video-text-to-text", model=pipe.model, processor=pipe.processor, device="cpu", max_new_tokens=8)
    assert again(**question) == pipe(**question)


def test_the_pipelines_of_transformers_take_the_model(pipe):
    chat = [user(video(clip()), "What?")]
    stock = pipeline("image-text-to-text", model=pipe.model, processor=pipe.processor, device="cpu", max_new_tokens=8)
    assert stock(text=chat, return_full_text=False)[0]["generated_text"].strip() == texts(pipe(text=chat))[0]


def test_no_time_format_takes_the_place_of_that_of_the_processor(pipe, asked, dashcam):
    pipe.processor.time_format = "({seconds})"
    pipe(videos=dashcam, text="What?", timestamp=1.5, time_format=None)
    assert prompts(pipe, asked[0])[0].removesuffix(" ASSISTANT:") == "<video>What?"
