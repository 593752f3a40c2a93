import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.processing_utils import TextKwargs

from hmba_hf import HMBAVideoProcessor, HMBAVLMProcessor, SourceLimits, VideoDecodeError
from hmba_hf.data.clips import write_video
from hmba_hf.models.batching_hmba_vlm import PAST
from tiny_processors import tiny_tokenizer, user, video
from tiny_vlm_bases import BASES, noisy_picture, pieces_of
from tiny_vlm_parts import without_optional_packages

SIZE = (40, 24)
FRAMES_AS_THEY_ARE = {"do_expand_to_square": False, "do_resize": False, "do_rescale": False, "do_normalize": False}
OPTIONS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
TEXTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}


def base_processor(name):
    return pieces_of(name)[1]


def vlm_processor(name="qwen3_vl", **options):
    return HMBAVLMProcessor(base_processor(name), **options)


def clip(length=3, size=SIZE, shade=0):
    """Draw a clip whose frames differ."""
    return [noisy_picture(size, shade + number) for number in range(length)]


def answer(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert torch.equal(found[name], values), name


@pytest.fixture(scope="module")
def processor():
    return vlm_processor()


@pytest.mark.parametrize("name", BASES)
def test_prompt_and_current_frame_are_those_of_the_base_alone_and_earlier_frames_are_pictures_of_it(name):
    base = base_processor(name)
    processor = HMBAVLMProcessor(base)
    frames = clip(3)
    found = processor(text=f"a{processor.video_token}b", videos=[frames], return_tensors="pt")
    current = base(text=[f"a{base.image_token}b"], images=[[frames[-1]]], return_tensors="pt")
    assert_same({key: found[key] for key in current}, current)
    past = base(text=[base.image_token] * 2, images=[[frame] for frame in frames[:2]], return_tensors="pt")
    wanted = {PAST + key: values for key, values in past.items() if key not in TEXTS}
    assert_same({key: found[key] for key in found if key.startswith(PAST) and key != "past_lengths"}, wanted)
    assert found["past_lengths"].tolist() == [2]
    assert found["picture_tokens"].tolist() == [(found["input_ids"] == processor.video_token_id).sum()]
    assert processor.video_token_id == pieces_of(name)[0].image_token_id


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "gemma3", "llava_onevision", "nemotron_h_omni"])
def test_pictures_and_clips_of_several_prompts_keep_their_order(name):
    base = base_processor(name)
    processor = HMBAVLMProcessor(base)
    token = processor.video_token
    clips = [clip(2, (64, 48), 10), clip(3, SIZE, 20), clip(1, SIZE, 30), clip(1, (32, 32), 40)]
    prompts = [f"{token}a{token}", "b", f"{token}c{token}"]
    found = processor(text=prompts, videos=clips, padding=True, return_tensors="pt")
    pictures = [[clips[0][-1], clips[1][-1]], [], [clips[2][-1], clips[3][-1]]]
    assert_same(
        {key: found[key] for key in found if key in TEXTS},
        {
            key: values
            for key, values in base(text=prompts, images=pictures, padding=True, return_tensors="pt").items()
            if key in TEXTS
        },
    )
    assert found["past_lengths"].tolist() == [1, 2, 0, 0]
    in_rows = (found["input_ids"] == processor.video_token_id).sum(1).tolist()
    tokens = found["picture_tokens"].tolist()
    assert [sum(tokens[:2]), 0, sum(tokens[2:])] == in_rows
    past = base(text=[base.image_token * 3], images=[[clips[0][0], *clips[1][:2]]], return_tensors="pt")
    for key, values in past.items():
        if key not in TEXTS:
            assert torch.equal(found[PAST + key], values)


def test_a_picture_has_no_earlier_frames(processor, tmp_path):
    picture = noisy_picture(SIZE, 0)
    picture.save(tmp_path / "picture.png")
    wanted = processor(text=processor.video_token, videos=[[picture]], return_tensors="pt")
    assert not [key for key in wanted if key.startswith(PAST) and key != "past_lengths"]
    assert wanted["past_lengths"].tolist() == [0]
    forms = (picture, [picture], str(tmp_path / "picture.png"), (tmp_path / "picture.png").read_bytes())
    for images in forms:
        assert_same(processor(text=processor.video_token, images=images, return_tensors="pt"), wanted)
    blocks = user({"type": "image", "path": str(tmp_path / "picture.png")}, video(clip(2)), "?")
    found = processor.apply_chat_template([blocks], **OPTIONS)
    assert found["past_lengths"].tolist() == [0, 1]


def test_text_alone_is_encoded_as_by_the_base(processor):
    wanted = processor.base_processor(text=["ab"], return_tensors="pt")
    assert_same(processor(text="ab", return_tensors="pt"), wanted)


def test_a_chat_is_written_in_the_template_of_the_base_with_each_clip_as_a_picture(processor):
    base = processor.base_processor
    frames = clip(2)
    asked = [user(video(frames), "What?")]
    in_base = [user({"type": "image", "image": frames[-1]}, "What?")]
    for options in ({}, {"add_generation_prompt": True}):
        assert processor.apply_chat_template(asked, **options) == base.apply_chat_template(in_base, **options)
    found = processor.apply_chat_template(asked, **OPTIONS)
    wanted = base.apply_chat_template(in_base, **OPTIONS)
    assert_same({key: found[key] for key in wanted}, wanted)
    assert asked == [user(video(frames), "What?")]
    with pytest.raises(ValueError, match="content blocks must be of type video, image or text, got .*audio"):
        processor.apply_chat_template([user({"type": "audio", "audio": "a.wav"})], **OPTIONS)
    with pytest.raises(ValueError, match="a block of type video must have one of the keys"):
        processor.apply_chat_template([user({"type": "video"})], **OPTIONS)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A file of 20 frames, 10 a second."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    frames = [Image.new("RGB", (64, 48), (12 * number, 0, 0)) for number in range(20)]
    write_video(path, frames, fps=10)
    return path


def test_files_are_sampled_causally_and_their_frames_come_in_their_own_size(processor, film):
    given = {"timestamp": 1.0, "num_frames": 3, "fps": 5.0}
    frames, _ = processor.video_processor.read_clips([str(film)], **given)
    assert frames[0].shape == (3, 3, 48, 64) and frames[0].dtype == np.uint8
    for source in (str(film), film, film.read_bytes()):
        for options in (given, {"videos_kwargs": given}):
            found = processor(
                text=processor.video_token, videos=[source], return_tensors="pt", return_metadata=True, **options
            )
            [metadata] = found["video_metadata"]
            assert (metadata.height, metadata.width) == (48, 64)
            assert np.allclose(metadata.frame_times, [0.6, 0.8, 1.0])
            wanted = processor(text=processor.video_token, videos=frames[0], return_tensors="pt")
            assert_same({key: found[key] for key in wanted}, wanted)


def test_frames_in_memory_are_sampled_by_the_same_rule(processor):
    frames = np.stack([np.full((24, 40, 3), 12 * number, dtype=np.uint8) for number in range(20)])
    facts = [{"fps": 10.0}]
    found = processor(
        text=processor.video_token,
        videos=frames,
        return_tensors="pt",
        timestamp=[1.0],
        num_frames=2,
        video_metadata=facts,
    )
    wanted = processor(text=processor.video_token, videos=frames[[5, 10]], return_tensors="pt")
    assert_same(found, wanted)
    as_fractions = processor(text=processor.video_token, videos=frames[[5, 10]] / np.float32(255), return_tensors="pt")
    assert_same(as_fractions, wanted)


def test_limits_hold_for_the_files_of_a_call(processor, tmp_path):
    noisy_picture(SIZE, 0).save(tmp_path / "picture.png")
    block = {"type": "image", "path": str(tmp_path / "picture.png")}
    with pytest.raises(VideoDecodeError, match="max_pixels=9"):
        processor.apply_chat_template(
            [user(block)], **OPTIONS, processor_kwargs={"limits": SourceLimits(max_pixels=9)}
        )


def test_the_time_of_a_clip_stands_behind_its_picture():
    processor = vlm_processor(time_format=" at {seconds} s. ")
    token = processor.video_token
    facts = [{"timestamps": [0.5, 1.0]}, None]
    found = processor(text=f"{token}a{token}b", videos=[clip(2), clip(1)], video_metadata=facts)
    assert processor.decode(found["input_ids"][0]) == "<s>" + token * 4 + " at 1.0 s. a" + token * 4 + "b"
    silent = processor(text=f"{token}a", videos=[clip(2)], video_metadata=facts[:1], time_format=None)
    assert processor.decode(silent["input_ids"][0]) == "<s>" + token * 4 + "a"


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "internvl", "nemotron_h_omni"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokens_of_answers_are_marked_whatever_the_base(name, side):
    processor = vlm_processor(name, time_format=" at {seconds} s. ")
    first = [user(video(clip(2)), "What", {"type": "image", "image": clip()[0]}, "?"), answer("A car.")]
    first += [user("And?"), answer("A dog.")]
    options = {**OPTIONS, "return_assistant_tokens_mask": True}
    facts = {"padding": True, "padding_side": side, "video_metadata": [{"timestamps": [1.0, 2.0]}, None]}
    chats = [first]
    if name != "nemotron_h_omni":  # by its tokens, each chat is read by itself
        chats.append([user("Why?"), answer("So.")])
    found = processor.apply_chat_template(chats, **options, processor_kwargs=facts)
    marked = [
        processor.decode(ids[marks.bool()])
        for ids, marks in zip(found["input_ids"], found["assistant_masks"], strict=True)
    ]
    assert marked == ["A car.<im_end>\nA dog.<im_end>\n", "So.<im_end>\n"][: len(chats)]
    assert " at 2.0 s. What" in processor.decode(found["input_ids"][0])


def test_a_base_that_adds_words_to_a_prompt_marks_no_answers():
    chat = [user(video(clip(1)), "What?"), answer("A car.")]
    with pytest.raises(
        ValueError, match="the base must add nothing but pictures to a prompt .*, got 4 characters more"
    ):
        vlm_processor("paligemma").apply_chat_template([chat], **OPTIONS, return_assistant_tokens_mask=True)


@pytest.mark.skipif(
    "sanitize_control_tokens" not in TextKwargs.__annotations__, reason="this transformers sanitizes no control tokens"
)
def test_what_a_user_writes_is_no_picture_where_control_tokens_are_sanitized(processor):
    template = (
        "{{ bos_token }}{% for message in messages %}{% for block in message.content %}"
        "{{ block.text or '<|image_pad|>' }}{% endfor %}{% endfor %}"
    )
    chat = [user(video(clip()), "a<|image_pad|></s>")]
    options = {**OPTIONS, "chat_template": template}
    with pytest.raises(ValueError, match="got 2 tokens and 1 videos"):
        processor.apply_chat_template(chat, **options)
    found = processor.apply_chat_template(chat, **options, sanitize_control_tokens=True)
    assert (found["input_ids"] == processor.video_token_id).sum() == 4
    assert processor.decode(found["input_ids"][0]).endswith("a<|image_pad|></s>")


TOKEN = "<|image_pad|>"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": "a", "videos": [clip()]}, "got 0 tokens and 1 videos"),
        ({"text": TOKEN * 2, "videos": [clip()]}, "got 2 tokens and 1 videos"),
        ({"text": TOKEN}, "got 1 tokens and 0 videos"),
        ({"videos": [clip()]}, "text must be given, with a token for each clip, got None"),
        ({"text": []}, "text must be a prompt or a list of prompts, got an empty list"),
        ({"text": [1]}, "text must be a string or a list of strings, got int"),
        ({"text": TOKEN, "videos": [[]]}, "none of them empty"),
        ({"text": TOKEN, "videos": [clip(), []]}, "none of them empty"),
        ({"text": TOKEN, "videos": [[*clip(1), *clip(1, (8, 8))]]}, "all frames of a clip must have the same size"),
        ({"text": TOKEN, "videos": [clip()], "images": clip()}, "images must be among the videos"),
        ({"text": "a", "audio": [0.0]}, "audio must be absent"),
        ({"text": TOKEN, "videos": [clip()], "num_frmaes": 3}, r"got \['num_frmaes'\]"),
        ({"text": TOKEN, "videos": [clip()], "images_kwargs": {"sise": 3}}, r"got \['sise'\]"),
        ({"text": TOKEN, "videos": [clip()], "videos_kwargs": {"size": 3}}, r"got \['size'\]"),
        ({"text": TOKEN, "videos": [clip()], "time_format": "now"}, "time_format must be a text with one"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (tiny_tokenizer(), "a processor of pictures and texts, got TokenizersBackend without image_processor"),
        (base_processor("llava").image_processor, "got LlavaImageProcessorPil without image_processor"),
        (None, "got NoneType without image_processor"),
    ],
)
def test_a_base_processor_that_is_none_for_pictures_and_texts_is_refused(base, message):
    with pytest.raises(ValueError, match=message):
        HMBAVLMProcessor(base)


@pytest.mark.parametrize("option", [*FRAMES_AS_THEY_ARE, "do_center_crop"])
def test_a_video_processor_must_leave_frames_as_they_are(option):
    options = {**FRAMES_AS_THEY_ARE, option: True, "crop_size": {"height": 8, "width": 8}}
    with pytest.raises(ValueError, match=rf"must leave frames as they are, got one with \['{option}'\]"):
        vlm_processor(video_processor=HMBAVideoProcessor(**options))


def test_a_tokenizer_without_a_padding_token_takes_clips_too():
    base = base_processor("internvl")
    wanted = HMBAVLMProcessor(base)(text=base.image_token, videos=[clip()], return_tensors="pt")
    base.tokenizer.pad_token = None
    assert_same(HMBAVLMProcessor(base)(text=base.image_token, videos=[clip()], return_tensors="pt"), wanted)


def test_a_chat_without_a_message_is_refused(processor):
    with pytest.raises(ValueError, match="a chat must hold a message, .* got an empty list"):
        processor.apply_chat_template([], **OPTIONS)


def test_a_name_of_no_template_is_no_prompt(processor):
    with pytest.raises(ValueError, match=r"one of the names \[\], got 'nope'"):
        processor.apply_chat_template([user("a")], chat_template="nope")
    several = vlm_processor()
    several.chat_template = {"default": "{{ messages[0].role }}", "short": "{% if true %}s{% endif %}"}
    assert several.apply_chat_template([user("a")], chat_template="short") == "s"
    with pytest.raises(ValueError, match=r"one of the names \['default', 'short'\], got 'shorter'"):
        several.apply_chat_template([user("a")], chat_template="shorter")


def test_several_templates_are_saved_and_loaded(tmp_path):
    several = vlm_processor()
    several.chat_template = {"default": several.chat_template, "tool_use": "{{ tools[0].function.name }}"}
    several.save_pretrained(tmp_path / "first")
    HMBAVLMProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    loaded = AutoProcessor.from_pretrained(tmp_path / "second")
    assert loaded.chat_template == several.chat_template
    chat = [user(video(clip()), "What?")]
    assert loaded.apply_chat_template(chat) == several.apply_chat_template(chat)
    tools = [{"type": "function", "function": {"name": "brake", "parameters": {}}}]
    assert loaded.apply_chat_template(chat, tools=tools) == "brake"


def test_a_chat_without_a_template_is_refused():
    processor = vlm_processor()
    processor.chat_template = None
    with pytest.raises(ValueError, match="a chat must have a chat_template, of the base or of the call, got neither"):
        processor.apply_chat_template([user("a")])
    assert processor.apply_chat_template([user("a")], chat_template="{{ messages[0].role }}") == "user"


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "gemma3", "gemma4", "paligemma"])
def test_a_saved_processor_comes_back_with_the_base_within_it(name, tmp_path):
    videos = HMBAVideoProcessor(**FRAMES_AS_THEY_ARE, num_frames=3, fps=4.0)
    processor = vlm_processor(name, video_processor=videos, boxes_dialect="loc", time_format="{seconds}")
    with without_optional_packages():
        processor.save_pretrained(tmp_path)
        again = [HMBAVLMProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)]
    wanted = processor(text=processor.video_token, videos=[clip()], return_tensors="pt")
    for loaded in again:
        assert type(loaded) is HMBAVLMProcessor and type(loaded.base_processor) is type(processor.base_processor)
        assert loaded.to_dict() == processor.to_dict() and loaded.chat_template == processor.chat_template
        assert loaded.video_processor.num_frames == 3
        assert_same(loaded(text=processor.video_token, videos=[clip()], return_tensors="pt"), wanted)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == processor.tokenizer.get_vocab()
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == processor.image_processor.to_dict()
    held = json.loads((tmp_path / "processor_config.json").read_text())
    assert held["base_processor"]["processor_class"] == type(processor.base_processor).__name__
    assert not list(tmp_path.glob("*preprocessor_config.json"))


def save_base(name, folder):
    """Save the files of a base beside its weights."""
    config, processor = pieces_of(name)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_a_processor_is_built_from_the_checkpoint_of_a_base(tmp_path):
    folder = save_base("qwen3_vl", tmp_path)
    right = HMBAVLMProcessor.from_base_pretrained(folder, padding_side="right")
    assert right.tokenizer.padding_side == "right"
    processor = HMBAVLMProcessor.from_base_pretrained(folder, num_frames=3, fps=4.0)
    assert (processor.video_processor.num_frames, processor.video_processor.fps) == (3, 4.0)
    assert processor.tokenizer.padding_side == "left" and processor.boxes_dialect == "thousand"
    given = vlm_processor()
    wanted = given(text=given.video_token, videos=[clip()], return_tensors="pt")
    assert_same(processor(text=processor.video_token, videos=[clip()], return_tensors="pt"), wanted)
    for option in ("num_frmaes", "temporal_strides", "timestamp"):
        with pytest.raises(ValueError, match=rf"got \['{option}'\]"):
            HMBAVLMProcessor.from_base_pretrained(folder, **{option: 3})


def test_a_checkpoint_without_a_processor_of_pictures_is_refused(tmp_path):
    config, processor = BASES["qwen3_vl"]()
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have a processor of pictures and texts, got none"):
        HMBAVLMProcessor.from_base_pretrained(tmp_path)
    processor.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "processor_config.json", tmp_path)
    with pytest.raises(ValueError, match="the tokenizer of base_processor must have its image_token"):
        HMBAVLMProcessor.from_base_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have the settings of a base_processor, got none"):
        HMBAVLMProcessor.from_pretrained(tmp_path / "saved")


def test_a_single_earlier_frame_among_several_pictures_is_refused_where_a_base_crops_it():
    prompt = "<image><image>What?"
    clips = [clip(2), clip(1, shade=9)]
    with pytest.raises(
        ValueError, match="no earlier frames or more than one in all, .* got one of 44 tokens in place"
    ):
        vlm_processor("llava_onevision")(text=prompt, videos=clips, padding=True, return_tensors="pt")
    for name in ("llava", "llava_onevision"):
        earlier = [clip(2), clip(2, shade=9)] if name == "llava_onevision" else clips
        found = vlm_processor(name)(text=prompt, videos=earlier, padding=True, return_tensors="pt")
        assert len(found["past_pixel_values"]) == found["past_lengths"].sum()


def test_single_frames_are_encoded_as_the_earlier_ones_of_a_clip(processor):
    frames = clip(3)
    found = processor.frame_inputs(frames[:2])
    wanted = processor(text=processor.video_token, videos=[frames], return_tensors="pt")
    assert_same(
        {PAST + key: values for key, values in found.items()},
        {key: values for key, values in wanted.items() if key.startswith(PAST) and key != "past_lengths"},
    )
    with pytest.raises(ValueError, match="frames must be one picture or more, got none"):
        processor.frame_inputs([])
    with pytest.raises(ValueError, match=r"options of single frames must be about pictures, got \['timestamp'\]"):
        processor.frame_inputs(frames, timestamp=1.0)
    with pytest.raises(VideoDecodeError, match="max_pixels=9"):
        processor.frame_inputs(frames, limits=SourceLimits(max_pixels=9))


def test_options_of_the_base_hold_for_all_frames(processor):
    size = {"shortest_edge": 48 * 48, "longest_edge": 48 * 48}
    for options in ({"size": size}, {"images_kwargs": {"size": size}}):
        found = processor(text=processor.video_token, videos=[clip(2)], return_tensors="pt", **options)
        assert found["image_grid_thw"].tolist() == found["past_image_grid_thw"].tolist() != [[1, 4, 4]]


def test_names_of_inputs_begin_with_those_of_texts(processor):
    names = processor.model_input_names
    assert names[0] == "input_ids"
    found = processor(text=processor.video_token, videos=[clip(2)], return_tensors="pt")
    assert {*found} <= {*names}


def test_lists_are_returned_unless_tensors_are_wanted(processor):
    found = processor(text=processor.video_token, videos=[clip(2)])
    assert found["past_lengths"] == [1] and found["picture_tokens"] == [4]
    assert isinstance(found["input_ids"], list)


def test_frames_keep_their_pixels_on_the_way_to_the_base(processor, monkeypatch):
    seen = []
    image_processor = type(processor.image_processor)
    call = image_processor.__call__

    def watched(self, images, *args, **kwargs):
        seen.extend(picture for of_prompt in images for picture in of_prompt)
        return call(self, images, *args, **kwargs)

    monkeypatch.setattr(image_processor, "__call__", watched)
    frames = clip(3)
    processor(text=processor.video_token, videos=[frames])
    assert [np.asarray(picture).tolist() for picture in seen] == [
        np.asarray(frame).tolist() for frame in (frames[2], frames[0], frames[1])
    ]
    assert all(isinstance(picture, Image.Image) for picture in seen)
