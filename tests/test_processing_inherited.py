"""Arguments that processor and video processor inherit: each one works, or is refused by its name."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, ByT5Tokenizer
from transformers.processing_utils import TextKwargs

from hmba_hf import HMBAProcessor, HMBAVideoProcessor
from tiny_models import tiny_model
from tiny_processors import clip, tiny_processor, user

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def processor():
    return tiny_processor()


def picture(colour=RED):
    image = Image.new("RGB", (40, 20), colour)
    image.paste((0, 255, 0), (3, 4, 9, 12))
    return image


def saved(tmp_path):
    picture().save(tmp_path / "red.png")
    return tmp_path / "red.png"


def png():
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file


FORMS = {
    "picture": lambda folder: picture(),
    "list": lambda folder: [picture()],
    "list for each prompt": lambda folder: [[picture()]],
    "array": lambda folder: np.asarray(picture()),
    "tensor": lambda folder: torch.from_numpy(np.asarray(picture()).transpose(2, 0, 1).copy()),
    "batch": lambda folder: np.asarray(picture())[None],
    "path": saved,
    "text of a path": lambda folder: str(saved(folder)),
    "bytes": lambda folder: png().getvalue(),
    "file": lambda folder: png(),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_are_clips_of_one_frame(processor, tmp_path, form):
    wanted = processor(videos=[[picture()]], text="<video>?", return_tensors="pt")
    found = processor(images=FORMS[form](tmp_path), text="<video>?", return_tensors="pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_images_of_several_prompts_keep_their_order(processor):
    texts, pictures = ["<video><video>a", "b", "<video>c"], [[picture(RED), picture(BLUE)], [], [picture(BLUE)]]
    found = processor(images=pictures, text=texts, padding=True, return_tensors="pt")["pixel_values_videos"]
    wanted = [
        processor(images=one, return_tensors="pt")["pixel_values_videos"] for one in (picture(RED), picture(BLUE))
    ]
    assert torch.equal(found, torch.cat([wanted[0], wanted[1], wanted[1]]))
    assert not torch.equal(*wanted)
    assert "pixel_values_videos" not in processor(images=[[], []], text=["a", "b"])
    with pytest.raises(ValueError, match="got 2 tokens and 1 videos"):
        processor(images=picture(), text="<video><video>")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"audio": np.zeros(16000)}, "audio must be absent, since H-MBA reads videos and pictures, got ndarray"),
        (
            {"images": picture(), "videos": [clip()]},
            "among the videos, in the order of the prompts, got images and videos",
        ),
        ({"images": 3}, "images must be pictures or lists of pictures, got int"),
        ({"images": [3.0]}, "images must be pictures or lists of pictures, got float"),
        ({"images": picture(), "images_kwargs": {"size": 3}}, r"got \['images_kwargs'\]"),
        ({"images": picture(), "audio_kwargs": {"sampling_rate": 3}}, r"got \['audio_kwargs'\]"),
        ({"videos": [clip()], "data_format": "channels_last"}, "data_format must be .*, got 'channels_last'"),
        ({"videos": [clip()], "do_pad": True}, "do_pad must be false, .* got True"),
        ({"videos": [clip()], "device": "meta"}, "device needs return_tensors='pt', got None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_read_is_refused_by_name(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor(**given)


@pytest.mark.parametrize("tokenize", [True, False])
def test_audio_in_a_chat_is_refused(processor, tokenize):
    block = {"type": "audio", "audio": "siren.wav"}
    with pytest.raises(Exception, match="of type video, image or text, got .*audio"):
        processor.apply_chat_template([user("Hear", block)], tokenize=tokenize, return_dict=tokenize)
    with pytest.raises(ValueError, match=r"of type video, image or text, got \['audio'\]"):
        processor.apply_chat_template([user("Hear", block)], "{{ 'it is passed over' }}", tokenize=True)
    with pytest.raises(ValueError, match="load_audio_from_video must be absent, .* got True"):
        processor.apply_chat_template([user("Hear")], tokenize=tokenize, load_audio_from_video=True)


def test_the_device_of_a_call_is_that_of_its_pixels(processor):
    found = processor(images=picture(), device="meta", return_tensors="pt")
    assert found["pixel_values_videos"].is_meta


@pytest.mark.parametrize("options", [{"num_frames": 2}, {"videos_kwargs": {"num_frames": 2}}], ids=str)
def test_frames_are_sampled_where_a_call_asks_for_their_number(processor, options):
    frames = clip(length=4)
    found = processor(videos=[frames], return_tensors="pt", **options)["pixel_values_videos"]
    assert torch.equal(found, processor(videos=[frames[2:]], return_tensors="pt")["pixel_values_videos"])
    whole = processor(videos=[frames], return_tensors="pt", do_sample_frames=False, **options)
    assert whole["pixel_values_videos"].shape[1] == 4


def test_a_rate_is_refused_for_frames_whose_times_are_unknown(processor):
    with pytest.raises(ValueError, match="sampling frames by `fps` or `timestamp` needs video_metadata"):
        processor(videos=[clip(length=4)], fps=1.0)


def test_options_of_the_text_reach_the_tokenizer(processor):
    texts = ["a", "bbb"]
    assert (
        processor(text=texts, text_kwargs={"padding": "max_length", "max_length": 6})["input_ids"][0][2:] == [102] * 4
    )
    assert processor(text=texts, padding=True, padding_side="left")["input_ids"][0][:2] == [102, 102]
    assert processor(text="abc", return_length=True)["length"] == [4]
    assert isinstance(processor(text="a", common_kwargs={"return_tensors": "pt"})["input_ids"], torch.Tensor)
    with pytest.raises(ValueError, match="Please disable truncation"):
        processor(images=picture(), text="<video>a", truncation=True, max_length=3)


def test_token_types_tell_where_the_videos_are(processor):
    found = processor(images=picture(), text="a<video>b", return_mm_token_type_ids=True)
    assert (
        found["mm_token_type_ids"] == [[0, 0, 2, 2, 2, 2, 0]] == processor.create_mm_token_type_ids(found["input_ids"])
    )


def test_answers_become_text_by_every_name(processor):
    tokens = processor.tokenizer("left", add_special_tokens=False)["input_ids"]
    assert processor.decode(tokens) == "left"
    for texts in (
        processor.batch_decode([[*tokens, 2]], skip_special_tokens=True),
        processor.post_process_image_text_to_text([[*tokens, 2]], skip_special_tokens=True),
        processor.post_process_multimodal_output([[*tokens, 2]], skip_special_tokens=True),
    ):
        assert texts == ["left"]
    with pytest.raises(ValueError, match="unexpected generation_mode=audio"):
        processor.post_process_multimodal_output([tokens], generation_mode="audio")


def test_a_template_sees_documents_and_a_chat_goes_on(processor):
    document = [{"title": "Rules of the road", "text": ""}]
    assert (
        processor.apply_chat_template([user("?")], "{{ documents[0].title }}", documents=document)
        == document[0]["title"]
    )
    chat = [user("Is it red?"), {"role": "assistant", "content": "It is"}]
    assert processor.apply_chat_template(chat, continue_final_message=True).endswith("ASSISTANT: It is")
    assert processor.apply_chat_template(chat[:1], add_generation_prompt=True).endswith("ASSISTANT:")


WITH_BOS = (
    "{{ bos_token }}{% for message in messages %}{% for block in message.content %}{{ block.text or '<video>' }}"
    "{% endfor %}{% endfor %}"
)


@pytest.mark.skipif(
    "sanitize_control_tokens" not in TextKwargs.__annotations__, reason="this transformers sanitizes no control tokens"
)
def test_what_a_user_writes_is_text_where_control_tokens_are_sanitized(processor):
    options = {"tokenize": True, "return_dict": True, "chat_template": WITH_BOS}
    chat = [user({"type": "video", "video": clip()}, "a<video></s>")]
    with pytest.raises(ValueError, match="got 2 tokens and 1 videos"):
        processor.apply_chat_template(chat, **options)
    found = processor.apply_chat_template(chat, **options, sanitize_control_tokens=True)
    written = [processor.tokenizer.get_vocab()[letter] for letter in "a<video></s>"]
    assert found["input_ids"] == [[1, 99, 99, 99, 99, *written]]
    assert len(found["pixel_values_videos"]) == 1
    with pytest.raises(NotImplementedError, match="sanitize_control_tokens=True.* needs a template that writes"):
        processor.apply_chat_template(chat, tokenize=True, return_dict=True, sanitize_control_tokens=True)
    with pytest.raises(ValueError, match="requires `tokenize=True`"):
        processor.apply_chat_template(chat, sanitize_control_tokens=True)


def test_a_processor_is_made_of_its_parts_and_of_what_a_file_holds(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    held, unused = HMBAProcessor.get_processor_dict(tmp_path, padding_side="left")
    assert held["patch_size"] == 14 and held["chat_template"] == processor.chat_template
    assert unused == {"padding_side": "left"}
    parts = [processor.video_processor, processor.tokenizer]
    made = HMBAProcessor.from_args_and_dict(parts, held, patch_size=7)
    assert made.patch_size == 7 and made.chat_template == processor.chat_template
    assert made.video_processor is parts[0] and made.tokenizer is parts[1] and held["patch_size"] == 14
    with pytest.raises(ValueError, match=r"got \['patch_szie'\]"):
        HMBAProcessor.from_args_and_dict(parts, held, patch_szie=7)
    _, unused = HMBAProcessor.from_args_and_dict(parts, held, patch_szie=7, return_unused_kwargs=True)
    assert unused == {"patch_szie": 7}
    with pytest.raises(TypeError, match="video_processor must be a video processor"):
        HMBAProcessor.from_args_and_dict(parts[::-1], held)
    config = {"patch_size": 7, "patch_szie": 8}
    assert HMBAProcessor.validate_init_kwargs(config, ["patch_size"]) == ({"patch_szie": 8}, {"patch_size": 7})


def test_a_class_of_a_part_is_found_by_its_name():
    assert HMBAProcessor.get_possibly_dynamic_module("HMBAVideoProcessor") is HMBAVideoProcessor
    assert HMBAProcessor.get_possibly_dynamic_module("ByT5Tokenizer") is ByT5Tokenizer
    with pytest.raises(ValueError, match="'NoTokenizer'|NoTokenizer in"):
        HMBAProcessor.get_possibly_dynamic_module("NoTokenizer")


def test_tokens_that_the_processor_has_not_are_refused(processor):
    for name in ("replace_image_token", "replace_audio_token"):
        with pytest.raises(NotImplementedError):
            getattr(processor, name)({}, 0)
    with pytest.raises(AttributeError, match="response_template"):
        processor.parse_response("It is red")


def test_a_processor_is_written_and_described(processor, tmp_path):
    assert processor.get_attributes() == ["video_processor", "tokenizer"]
    processor.to_json_file(tmp_path / "processor.json")
    assert (tmp_path / "processor.json").read_text() == processor.to_json_string()


def test_a_video_processor_crops_the_centre_where_that_is_asked_for(processor):
    options = {"do_expand_to_square": False, "do_resize": False, "do_rescale": False, "do_normalize": False}
    crop = {"do_center_crop": True, "crop_size": {"height": 10, "width": 12}}
    frame = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    found = processor.video_processor([[frame]], **options, **crop)["pixel_values_videos"][0, 0]
    assert np.array_equal(found, frame[5:15, 14:26].transpose(2, 0, 1))


def rows_of_prompts_and_completions(processor):
    """Join prompts with pictures and completions as TRL does: each tokenized, padded on its side, and side by side."""
    options = {"padding": True, "return_tensors": "pt", "add_special_tokens": False}
    pictures, texts = [[picture(RED)], [picture(BLUE)]], ["<video>Which colour? "] * 2
    prompts = processor(images=pictures, text=texts, padding_side="left", **options)
    completions = processor(text=["red", "blue"], padding_side="right", **options)
    joined = {name: torch.cat((prompts[name], completions[name]), dim=1) for name in ("input_ids", "attention_mask")}
    answers = completions["input_ids"].masked_fill(completions["attention_mask"] == 0, -100)
    labels = torch.cat((torch.full_like(prompts["input_ids"], -100), answers), dim=1)
    return {**prompts, **joined, "labels": labels}


def test_rows_of_prompts_and_completions_with_images_train(processor):
    torch.manual_seed(0)
    rows, model = rows_of_prompts_and_completions(processor), tiny_model(adapter="none").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = model(**rows).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    # Of seven letters the first of each word would be a guess, at 2 ln 2 / 7 = 0.2, if the pictures were not seen.
    assert loss < 0.15


BYTES = {"extra_ids": 0, "extra_special_tokens": ["<video>"]}


@pytest.fixture(params=["tokenizers", "python"])
def stored(request, tmp_path):
    """A folder with a processor, whose tokenizer is one of the package tokenizers or written in Python."""
    made = tiny_processor()
    if request.param == "python":
        made = HMBAProcessor(made.video_processor, ByT5Tokenizer(**BYTES))
    made.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("loads", [HMBAProcessor, AutoProcessor])
def test_an_option_of_loading_that_nothing_reads_is_refused(stored, loads):
    for unknown in ("num_frmaes", "padding_sdie", "videos_kwargs"):
        with pytest.raises(ValueError, match=rf"those of loading or among \['chat_template', .*got \['{unknown}'\]"):
            loads.from_pretrained(stored, num_frames=3, **{unknown: 9})
    with pytest.raises(ValueError, match="return_unused_kwargs must be absent"):
        loads.from_pretrained(stored, return_unused_kwargs=True)


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 9, "fps": 3.0, "default_to_square": True, "patch_size": 7, "time_format": "{seconds}"},
        {"padding_side": "left", "model_max_length": 9, "add_bos_token": False, "legacy": False, "pad_token": "</s>"},
        {"image_token": "<video>", "extra_special_tokens": ["<video>"], "clean_up_tokenization_spaces": True},
        {"chat_control_tokens": [], "response_template": None, "token_type_ids_pattern": "bert_style"},
        {"trust_remote_code": True, "code_revision": "main", "use_fast": True, "_commit_hash": None, "subfolder": ""},
        {"revision": "main", "local_files_only": True, "dtype": torch.float16, "device_map": "cpu", "backend": "pil"},
        {"config": None, "chat_template": "{{ documents }}", "proxies": None, "user_agent": {}, "verbose": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_of_loading_or_of_a_part_is_taken(stored, options):
    for loads in (HMBAProcessor, AutoProcessor):
        found = loads.from_pretrained(stored, **options)
    for name in options.keys() & {"num_frames", "fps"}:
        assert getattr(found.video_processor, name) == options[name]
    for name in options.keys() & {"padding_side", "model_max_length", "pad_token", "image_token"}:
        assert getattr(found.tokenizer, name) == options[name]
    for name in options.keys() & {"patch_size", "time_format", "chat_template"}:
        assert getattr(found, name) == options[name]


def test_an_option_of_the_tokenizers_own_class_is_taken(tmp_path):
    HMBAProcessor(tiny_processor().video_processor, ByT5Tokenizer(**BYTES)).save_pretrained(tmp_path)
    assert HMBAProcessor.from_pretrained(tmp_path, **BYTES)


def test_an_option_that_a_video_processor_has_not_is_refused(stored):
    with pytest.raises(ValueError, match=r"among \['crop_size', .*got \['num_frmaes'\]"):
        HMBAVideoProcessor.from_pretrained(stored, num_frmaes=9)
    assert (
        HMBAVideoProcessor.from_pretrained(stored, num_frames=9, token=False, trust_remote_code=True).num_frames == 9
    )
    _, unused = HMBAVideoProcessor.from_pretrained(stored, num_frmaes=9, return_unused_kwargs=True)
    assert unused["num_frmaes"] == 9
