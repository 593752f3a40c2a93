import json
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, InternVLVisionConfig, Qwen2VLConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hmba_hf import SourceLimits, VideoDecodeError
from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from tiny_processors import clip, save_sources, tiny_processor, tiny_tokenizer, user, video


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def test_a_video_takes_the_tokens_of_one_frame_whatever_its_length(processor):
    for length in (1, 5):
        inputs = processor(text="a<video>b", videos=clip(length), return_tensors="pt")
        assert inputs["pixel_values_videos"].shape == (1, length, 3, 28, 28)
        assert processor.decode(inputs["input_ids"][0]) == "<s>a" + "<video>" * 4 + "b"
        assert (inputs["input_ids"] == processor.video_token_id).sum() == 4


def test_the_text_of_a_prompt_decides_which_video_is_which(processor):
    first, second, third = clip(shade=0), clip(shade=120), clip(shade=240)
    inputs = processor(
        text=["a<video><video>", "b", "c<video>"], videos=[first, second, third], padding=True, return_tensors="pt"
    )
    reds = inputs["pixel_values_videos"][:, 0, 0, 14, 14]
    assert len(inputs["input_ids"]) == 3 and len(reds) == 3
    assert reds.argsort().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "videos", "counts"),
    [("a", 1, "0 tokens and 1 videos"), ("<video><video>", 1, "2 tokens and 1"), ("<video>", 0, "1 tokens and 0")],
)
def test_each_video_must_be_named_once(processor, text, videos, counts):
    with pytest.raises(ValueError, match=counts):
        processor(text=text, videos=[clip()] * videos or None)


def test_text_alone_and_videos_alone_are_inputs(processor):
    assert set(processor(text="a", return_tensors="pt")) == {"input_ids", "attention_mask"}
    assert set(processor(videos=clip(), return_tensors="pt")) == {"pixel_values_videos"}
    with pytest.raises(ValueError, match="got neither"):
        processor()
    with pytest.raises(ValueError, match="a string or a list of strings, got int"):
        processor(text=[1])


def test_a_picture_is_a_clip_of_one_frame(processor):
    picture = Image.new("RGB", (30, 20), (200, 0, 0))
    wanted = processor(text="<video>", videos=[[picture]], return_tensors="pt")["pixel_values_videos"]
    assert wanted.shape == (1, 1, 3, 28, 28)
    for videos in (picture, [picture], np.asarray(picture)):
        found = processor(text="<video>", videos=videos, return_tensors="pt")["pixel_values_videos"]
        torch.testing.assert_close(found, wanted)


def test_blocks_of_images_and_videos_keep_their_order(processor, tmp_path):
    dark, bright = Image.new("RGB", (20, 20), (0, 0, 0)), Image.new("RGB", (20, 20), (255, 255, 255))
    bright.save(tmp_path / "bright.png")
    image_blocks = [{"type": "image", "path": tmp_path / "bright.png"}, {"type": "image", "image": dark}]
    video_blocks = [video([str(tmp_path / "bright.png")]), video(dark)]
    for blocks in (image_blocks, video_blocks):
        inputs = processor.apply_chat_template(
            [user(*blocks, video([dark]), "?")], tokenize=True, return_dict=True, return_tensors="pt"
        )
        shades = inputs["pixel_values_videos"].mean(dim=(1, 2, 3, 4))
        assert shades[0] > shades[1] == shades[2]
    for block in ({"type": "video"}, {"type": "video", "base64": "AAAA"}):
        with pytest.raises(ValueError, match="a block of type video must have one of the keys"):
            processor.apply_chat_template([user(block)], tokenize=True)


def test_an_image_may_come_as_base64(processor, tmp_path):
    Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_path / "red.png")
    written = b64encode((tmp_path / "red.png").read_bytes()).decode()
    blocks = {"type": "image", "path": str(tmp_path / "red.png")}, {"type": "image", "base64": written}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    wanted, found = (processor.apply_chat_template([user(block)], **options) for block in blocks)
    torch.testing.assert_close(found["pixel_values_videos"], wanted["pixel_values_videos"])


@pytest.mark.parametrize("form", [Path.read_bytes, Path, str, lambda path: open(path, "rb")])
def test_a_picture_in_a_chat_may_come_in_every_form_that_images_take(processor, tmp_path, form):
    path = tmp_path / "red.png"
    Image.new("RGB", (20, 20), (200, 0, 0)).save(path)
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    wanted = processor(text="<video>", images=path, return_tensors="pt")["pixel_values_videos"]
    for block in ({"type": "image", "image": form(path)}, video([form(path)])):
        found = processor.apply_chat_template([user(block)], **options)
        torch.testing.assert_close(found["pixel_values_videos"], wanted)


@pytest.mark.parametrize(
    "form", [Path.read_bytes, str, Image.open, lambda path: b64encode(path.read_bytes()).decode()]
)
def test_limits_of_a_call_hold_for_every_picture(processor, tmp_path, form):
    path = tmp_path / "red.png"
    Image.new("RGB", (20, 20), (200, 0, 0)).save(path)
    limits = {"limits": SourceLimits(max_pixels=399)}
    refused = pytest.raises(VideoDecodeError, match="max_pixels=399, got 20 x 20")
    for block in ({"type": "image", "image": form(path)}, video([form(path)])):
        for options in (limits, {"videos_kwargs": limits}):
            with refused:
                processor.apply_chat_template([user(block)], tokenize=True, processor_kwargs=options)
    for call in ({"images": form(path)}, {"videos": [[[form(path)]]]}):
        if "images" in call or isinstance(form(path), (str, Image.Image)):
            with refused:
                processor(text="<video>", **call, **limits)


def test_sampling_options_reach_the_video_processor(processor):
    frames = torch.arange(20, dtype=torch.uint8).mul(12)[:, None, None, None].expand(20, 3, 28, 28)
    metadata = [{"total_num_frames": 20, "fps": 10.0}]
    options = {"timestamp": 1.0, "num_frames": 3, "fps": 5.0, "video_metadata": metadata, "do_sample_frames": True}
    inputs = processor(text="<video>", videos=frames.numpy(), return_metadata=True, **options)
    assert list(inputs["video_metadata"][0].frames_indices) == [6, 8, 10]
    assert "video_metadata" not in processor(text="<video>", videos=frames.numpy(), **options)


def test_a_tokenizer_without_the_video_token_is_refused():
    with pytest.raises(ValueError, match="'<clip>'"):
        tiny_processor(video_token="<clip>")
    with pytest.raises(TypeError, match="video_processor must be a video processor, got TokenizersBackend"):
        HMBAProcessor(tiny_tokenizer(), tiny_tokenizer())


@pytest.mark.parametrize(
    "vision_config",
    [CLIPVisionConfig(image_size=45, patch_size=7), InternVLVisionConfig(image_size=[42, 42], patch_size=[7, 7])],
)
def test_a_processor_is_built_from_a_vision_and_a_text_checkpoint(tmp_path, vision_config):
    vision_config.save_pretrained(tmp_path / "vision")
    CLIPImageProcessorPil(image_mean=[0.5] * 3).save_pretrained(tmp_path / "vision")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "text")
    folders = (str(tmp_path / "vision"), str(tmp_path / "text"))
    processor = HMBAProcessor.from_vision_text_pretrained(*folders, video_token="<clip>", num_frames=3)
    assert processor.video_token_id == len(tokenizer)
    assert (processor.patch_size, processor.video_processor.num_frames) == (7, 3)
    assert list(processor.video_processor.image_mean) == [0.5] * 3
    inputs = processor(text="<clip>", videos=clip(), return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[-2:] == (42, 42)
    assert (inputs["input_ids"] == processor.video_token_id).sum() == 36


@pytest.mark.parametrize("name", ["unk_token", "eos_token"])
def test_a_tokenizer_without_a_padding_token_pads_with_another(tmp_path, name):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    if name == "eos_token":
        tokenizer.unk_token = None
    tokenizer.save_pretrained(tmp_path)
    CLIPVisionConfig(image_size=42, patch_size=14).save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    processor = HMBAProcessor.from_vision_text_pretrained(str(tmp_path), str(tmp_path))
    assert processor.tokenizer.pad_token == getattr(tokenizer, name)
    assert processor(text=["a", "bcd"], padding=True, return_tensors="pt")["attention_mask"].sum() == 6


JOINED_OPTIONS = {
    "processor": {
        "chat_template": "{{ messages }}",
        "video_start_token": "<im_start>",
        "video_end_token": "<im_end>",
        "time_format": " at {seconds} s. ",
    },
    "video processor": {"num_frames": 3, "fps": 4.0, "do_expand_to_square": False, "image_mean": (0.1, 0.2, 0.3)},
}


def test_a_joined_processor_knows_its_options_from_those_of_its_video_processor(tmp_path):
    sources = save_sources(tmp_path)
    options = {**JOINED_OPTIONS["processor"], **JOINED_OPTIONS["video processor"], "image_std": [0.5, 0.5, 0.5]}
    processor = HMBAProcessor.from_vision_text_pretrained(*sources, **options)
    processor.save_pretrained(tmp_path / "joined")
    for made in (processor, HMBAProcessor.from_pretrained(tmp_path / "joined")):
        owners = {"processor": made, "video processor": made.video_processor}
        for owner, wanted in JOINED_OPTIONS.items():
            assert {name: getattr(owners[owner], name) for name in wanted} == wanted
        assert not hasattr(made.video_processor, "chat_template")


@pytest.mark.parametrize("option", ["num_frmaes", "timestamp", "patch_size", "temporal_strides"])
def test_an_option_that_nothing_has_is_refused_by_name(processor, tmp_path, option):
    save_sources(tmp_path)
    options = {option: 9, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    with pytest.raises(ValueError, match=rf"got \['{option}'\]"):
        HMBAProcessor.from_vision_text_pretrained(str(tmp_path / "vision"), str(tmp_path / "text"), **options)
    with pytest.raises(ValueError, match=rf"got \['{option}'\]"):
        HMBAVideoProcessor(**{option: 9})
    if option != "timestamp":
        for given in ({option: 9}, {"text_kwargs": {option: 9}}):
            with pytest.raises(ValueError, match=rf"got \['{option}'\]"):
                processor(text="<video>", videos=clip(), **given)


def test_what_a_file_of_another_video_processor_holds_beside_our_options_is_left_out():
    made = HMBAVideoProcessor.from_dict({"num_frames": 3, "temporal_patch_size": 2, "processor_class": "Other"})
    assert made.num_frames == 3 and not hasattr(made, "temporal_patch_size")


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("preprocessor_config.json", None),
        ("video_preprocessor_config.json", None),
        ("processor_config.json", "image_processor"),
        ("processor_config.json", "video_processor"),
    ],
)
def test_pixels_are_normalised_as_whichever_processor_of_the_vision_tower_says(tmp_path, file, part):
    vision, text = save_sources(tmp_path)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 0.5, "size": 99}
    written = settings if part is None else {part: settings, "patch_size": 3}
    (tmp_path / "vision" / file).write_text(json.dumps(written))
    made = HMBAProcessor.from_vision_text_pretrained(vision, text).video_processor
    assert [list(made.image_mean), list(made.image_std), made.rescale_factor] == [*list(settings.values())[:3]]
    assert made.size == {"height": 42, "width": 42}


def test_a_vision_tower_that_does_not_say_how_it_normalises_asks_for_it(tmp_path):
    sources = save_sources(tmp_path)
    with pytest.raises(ValueError, match="image_mean"):
        HMBAProcessor.from_vision_text_pretrained(*sources)
    for options in ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, {"do_normalize": False}):
        assert HMBAProcessor.from_vision_text_pretrained(*sources, **options)
    (tmp_path / "vision" / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match="preprocessor_config.json of .* must be a JSON object, got list"):
        HMBAProcessor.from_vision_text_pretrained(*sources)


def test_patches_may_be_wider_than_high(tmp_path):
    sources = save_sources(tmp_path, image_size=[42, 44], patch_size=[14, 21])
    processor = HMBAProcessor.from_vision_text_pretrained(*sources, do_normalize=False)
    inputs = processor(text="<video>", videos=clip(), return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[-2:] == (42, 42)
    assert (inputs["input_ids"] == processor.video_token_id).sum() == 6


def test_a_vision_tower_without_a_frame_size_is_refused_as_by_the_model(tmp_path):
    _, text = save_sources(tmp_path)
    Qwen2VLConfig().save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="the vision tower must have a image_size, got"):
        HMBAProcessor.from_vision_text_pretrained(str(tmp_path / "vision"), text)


def test_the_files_of_either_part_are_loaded_as_the_model_loads_them(tmp_path):
    (tmp_path / "vision" / "tower").mkdir(parents=True)
    vision, text = save_sources(tmp_path)
    CLIPVisionConfig(image_size=84, patch_size=14).save_pretrained(tmp_path / "vision" / "tower")
    CLIPImageProcessorPil(image_mean=[0.1] * 3).save_pretrained(tmp_path / "vision" / "tower")
    made = HMBAProcessor.from_vision_text_pretrained(vision, text, vision_subfolder="tower", text_revision="main")
    assert made.video_processor.size == {"height": 84, "width": 84}
    assert list(made.video_processor.image_mean) == [0.1] * 3


def test_a_joined_processor_pads_on_the_left_also_when_it_is_loaded_again(tmp_path):
    sources = save_sources(tmp_path)
    HMBAProcessor.from_vision_text_pretrained(*sources, do_normalize=False).save_pretrained(tmp_path / "joined")
    for folder in ("joined", "again"):
        processor = HMBAProcessor.from_pretrained(tmp_path / folder)
        masks = processor(text=["a", "bcd"], padding=True)["attention_mask"]
        assert masks == [[0, 0, 1, 1], [1, 1, 1, 1]]
        processor.save_pretrained(tmp_path / "again")


def test_frames_that_patches_do_not_fill_are_refused(processor):
    for size in ({"height": 30, "width": 28}, {"height": 28, "width": 30}):
        with pytest.raises(ValueError, match="multiples of patch_size=14, got"):
            processor(text="<video>", videos=clip(), size=size)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, [4, 4]),
        ({"size": 42}, [9, 9]),
        ({"size": {"shortest_edge": 42}}, [9, 9]),
        ({"size": {"shortest_edge": 28}, "do_expand_to_square": False}, [8, 4]),
        ({"do_center_crop": True, "crop_size": {"height": 14, "width": 28}}, [2, 2]),
    ],
)
def test_the_number_of_tokens_is_known_without_the_videos(processor, options, counts):
    sizes = [[3, 40, 20], [5, 30, 30]]
    assert processor._get_num_multimodal_tokens(video_sizes=sizes, **options).num_video_tokens == counts
    for (length, height, width), count in zip(sizes, counts, strict=True):
        inputs = processor(text="<video>", videos=clip(length, width, height), **options)
        assert inputs["input_ids"][0].count(processor.video_token_id) == count
    assert "num_video_tokens" not in processor._get_num_multimodal_tokens()


def test_saving_and_loading_keep_every_setting(tmp_path):
    processor = tiny_processor(
        patch_size=7, video_start_token="<im_start>", video_end_token="<im_end>", chat_template="{{ messages }}"
    )
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}"
    # The parts are given, as this test loads nothing through the Auto classes.
    arguments = [processor.video_processor, processor.tokenizer]
    settings, _ = HMBAProcessor.get_processor_dict(tmp_path)
    loaded = HMBAProcessor.from_args_and_dict(arguments, settings)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == processor.chat_template
    inputs = loaded(text="<video>", videos=clip())
    assert loaded.decode(inputs["input_ids"][0]) == "<s><im_start>" + "<video>" * 16 + "<im_end>"
