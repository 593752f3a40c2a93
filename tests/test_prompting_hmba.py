import re

import pytest
import torch

from hmba_hf.models.decoding_video import ClipMetadata
from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.models.prompting_hmba import default_chat_templates, write_time
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from tiny_processors import clip, save_sources, tiny_processor, tiny_tokenizer, user, video
from tiny_templates import BLOCKS_ALONE, BRACKETED_QUESTIONS, FORCED_THOUGHT, MARKED_TURNS, THINKING

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.fixture(scope="module")
def text_golden(golden):
    return golden("hmba_text_golden")[1]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def test_prompts_equal_the_released_ones(text_golden):
    conversation = text_golden["conversation"]
    tokens = {"video_token": "<im_patch>", "video_start_token": "<im_start>", "video_end_token": "<im_end>"}
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<im_patch>"]})
    video_processor = HMBAVideoProcessor(size={"height": 14, "width": 42})
    processor = HMBAProcessor(video_processor, tokenizer, **tokens)  # 1 x 3 patches
    question = user("Hi ", video(clip()), "?")
    answer = {"role": "assistant", "content": "ok [0.100,0.200,0.300,0.400]."}
    for name, messages in (("eval_prompt", [question]), ("train_prompt", [question, answer])):
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=name == "eval_prompt",
            tokenize=True,
            return_dict=True,
            processor_kwargs={"size": {"height": 14, "width": 42}},
        )
        assert processor.decode(inputs["input_ids"][0]) == "<s>" + conversation[name]


def test_turns_follow_each_other_as_in_vicuna(processor):
    messages = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == f"{SYSTEM} USER: a ASSISTANT: b</s>USER: c ASSISTANT:"


def test_a_system_message_replaces_the_default(processor):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    assert processor.apply_chat_template(messages) == "Be brief. USER: a "
    messages[0]["content"] = [{"type": "text", "text": ""}]
    assert processor.apply_chat_template(messages) == "USER: a "


def test_braces_and_template_marks_in_a_message_stay_as_they_are(processor):
    words = "{0} {} {{ system }} {% if %} %s"
    messages = [user(words), {"role": "assistant", "content": words}]
    assert processor.apply_chat_template(messages) == f"{SYSTEM} USER: {words} ASSISTANT: {words}</s>"


@pytest.mark.parametrize("message", [{"role": "tool", "content": "a"}, user({"type": "audio", "url": "a.wav"})])
def test_unknown_roles_and_blocks_are_refused(processor, message):
    with pytest.raises(Exception, match="expected"):
        processor.apply_chat_template([message])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_answers_are_what_is_trained_on(processor, side):
    frames = clip()
    chats = [
        [user("Hi ", video(frames), "?"), {"role": "assistant", "content": "A car[0.100,0.200,0.300,0.400]."}],
        [
            user("c"),
            {"role": "assistant", "content": "d"},
            user("e", video(frames)),
            {"role": "assistant", "content": "f"},
        ],
    ]
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": side},
    )
    masks = torch.as_tensor(inputs["assistant_masks"]).bool()
    trained = [ids[mask] for ids, mask in zip(inputs["input_ids"], masks, strict=True)]
    assert [processor.decode(ids) for ids in trained] == ["A car[0.100,0.200,0.300,0.400].</s>", "d</s>f</s>"]


def test_a_tokenizer_with_a_template_of_its_own_keeps_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    processor = HMBAProcessor(HMBAVideoProcessor(), tokenizer)
    messages = [user(video(clip()), "a"), {"role": "assistant", "content": "b"}]
    assert processor.apply_chat_template(messages) == "<user><video>a\n<assistant>b\n"
    tokenizer.chat_template = processor.chat_template  # as a tokenizer read from the processor's folder has it
    assert HMBAProcessor(HMBAVideoProcessor(), tokenizer).chat_template == processor.chat_template


def marked_answers(template, chats, side="right", **options):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    processor = HMBAProcessor(HMBAVideoProcessor(size={"height": 28, "width": 28}), tokenizer)
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": side, **options},
    )
    assert "offset_mapping" not in inputs and "text_replacement_offsets" not in inputs
    masks = inputs["assistant_masks"].bool()
    return [processor.decode(ids[mask]) for ids, mask in zip(inputs["input_ids"], masks, strict=True)]


def answer(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (MARKED_TURNS, ["A car[0.1,0.2,0.3,0.4].[end]\n", "d[end]\nf[end]\n"]),
        (BRACKETED_QUESTIONS, [" A car[0.1,0.2,0.3,0.4]. </s>", " d </s> f </s>"]),
    ],
)
def test_a_template_without_a_generation_block_marks_what_it_writes_more_than_the_prompt(template, wanted, side):
    first = [user("Hi ", video(clip()), video(clip()), "?"), answer("A car[0.1,0.2,0.3,0.4].")]
    second = [user("c"), answer("d"), user("e", video(clip())), answer("f")]
    assert marked_answers(template, [first, second], side) == wanted


def test_a_template_that_reads_lists_of_blocks_alone_takes_videos_and_texts():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = BLOCKS_ALONE
    processor = tiny_processor(chat_template=default_chat_templates(tokenizer, "<video>"))
    chat = [user("a", video(clip()), "b"), {"role": "assistant", "content": "c"}, user("d"), answer("e")]
    assert processor.apply_chat_template(chat) == "<user>a<video>b|<assistant>c|<user>d|<assistant>e|"
    assert marked_answers(processor.chat_template, [chat]) == ["c|e|"]


def test_a_generation_block_says_more_exactly_than_the_difference_what_to_learn(processor):
    chat = [user(video(clip()), "a"), answer("b")]
    template = processor.chat_template
    assert marked_answers(template, [chat]) == ["b</s>"]
    assert marked_answers(re.sub(r"{%-? (end)?generation -?%}", "", template), [chat]) == [" b</s>"]


def test_a_template_that_does_not_write_answers_behind_their_prompts_is_refused_for_the_chat_that_shows_it():
    short, long = [user("a"), answer("b")], [user("a"), answer("b"), user("c"), answer("d")]
    assert marked_answers(THINKING, [short]) == ["(thought)b|"]
    with pytest.raises(
        ValueError, match=r"must write a whole chat so .* got .b\|<user>c.* in the place of .\(thought"
    ):
        marked_answers(THINKING, [short, long])
    with pytest.raises(ValueError, match=r"must write an answered chat so .* in the place of 'open'"):
        marked_answers(FORCED_THOUGHT, [short])
    with pytest.raises(ValueError, match="must begin with a question"):
        marked_answers(MARKED_TURNS, [[answer("b")]])


@pytest.mark.parametrize("option", ["continue_final_message", "sanitize_control_tokens"])
def test_options_that_move_the_text_under_the_marks_are_refused(processor, option):
    chat, options = [user("a"), answer("b")], {"tokenize": True, "return_dict": True, option: True}
    with pytest.raises(ValueError, match=option):
        processor.apply_chat_template(chat, MARKED_TURNS, return_assistant_tokens_mask=True, **options)


TURNS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
NAMED_TEMPLATES = {
    "default": TURNS,
    "rag": "{{ documents[0]['text'] }}" + TURNS,
    "tool_use": "{{ tools[0]['function']['name'] }}" + TURNS,
}
TOOL = {"type": "function", "function": {"name": "brake", "parameters": {"type": "object", "properties": {}}}}


def test_named_chat_templates_take_videos_and_survive_joining_saving_and_loading(tmp_path):
    vision, text = save_sources(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = NAMED_TEMPLATES
    tokenizer.save_pretrained(text)
    HMBAProcessor.from_vision_text_pretrained(vision, text, do_normalize=False).save_pretrained(tmp_path / "once")
    HMBAProcessor.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    direct = HMBAProcessor(HMBAVideoProcessor(), tokenizer)
    for processor in (direct, HMBAProcessor.from_pretrained(tmp_path / "twice")):
        assert processor.chat_template == direct.chat_template
        messages = [user(video(clip()), "a")]
        documents = [{"title": "t", "text": "doc"}]
        assert processor.apply_chat_template(messages) == "<user><video>a"
        assert processor.apply_chat_template(messages, "rag", documents=documents) == "doc<user><video>a"
        assert processor.apply_chat_template(messages, tools=[TOOL]) == "brake<user><video>a"
        assert processor.apply_chat_template(messages, "default", tools=[TOOL]) == "<user><video>a"
    assert tokenizer.chat_template == NAMED_TEMPLATES


def test_templates_of_the_tokenizer_are_not_saved_beside_one_that_was_given(tmp_path):
    processor = tiny_processor(chat_template=TURNS)
    processor.tokenizer.chat_template = NAMED_TEMPLATES
    processor.save_pretrained(tmp_path)
    assert HMBAProcessor.from_pretrained(tmp_path).chat_template == TURNS


def test_a_message_without_content_stays_one_as_calls_of_tools_need_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] if 'content' in m else m['tool_calls'] }}{% endfor %}"
    )
    processor = HMBAProcessor(HMBAVideoProcessor(), tokenizer)
    assert processor.apply_chat_template([user("a"), {"role": "assistant", "tool_calls": ["b"]}]) == "a['b']"


# The time of a frame


def read_prompt(processor, text, videos, **options):
    inputs = processor(text=text, videos=videos, return_tensors="pt", **options)
    return processor.decode(inputs["input_ids"][0]).replace("<video>" * 4, "<video>").removeprefix("<s>")


TIMES = [{"fps": 10.0}, {"timestamps": [11.0, 11.5, 12.44]}]


def test_the_time_of_the_current_frame_is_told_behind_its_video_where_it_is_known(processor):
    timed = tiny_processor(time_format=" at {seconds} s. ")
    videos, text = [clip(), clip()], "<video>, <video>Why?"
    assert read_prompt(timed, text, videos, video_metadata=TIMES) == "<video> at 0.2 s. , <video> at 12.4 s. Why?"
    assert read_prompt(timed, text, videos) == text
    assert read_prompt(timed, text, videos, video_metadata=TIMES, time_format=None) == text
    assert read_prompt(processor, text, videos, video_metadata=TIMES) == text
    other = {"videos_kwargs": {"time_format": "[{seconds}]"}}
    assert read_prompt(processor, text, videos, video_metadata=TIMES, **other) == "<video>[0.2], <video>[12.4]Why?"
    assert write_time(ClipMetadata(1, frame_times=[-0.04]), "{seconds}") == "0.0"


def test_what_a_caller_gets_does_not_depend_on_whether_times_are_told(processor):
    timed = tiny_processor(time_format=" at {seconds} s. ", video_start_token="<im_start>", video_end_token="<im_end>")
    inputs = timed(text="<video>", videos=clip(), video_metadata=TIMES[:1])
    assert inputs.keys() == processor(text="<video>", videos=clip()).keys()
    assert timed.decode(inputs["input_ids"][0]).endswith("<video><im_end> at 0.2 s. ")
    assert timed._get_num_multimodal_tokens(video_sizes=[[3, 40, 20]]).num_video_tokens == [4]


def test_the_time_is_no_part_of_the_answer_to_learn():
    chat = [user(video(clip()), "a"), answer("at 0.2 s")]
    timed = {"time_format": " at {seconds} s. ", "video_metadata": TIMES[:1]}
    assert marked_answers(MARKED_TURNS, [chat], **timed) == ["at 0.2 s[end]\n"]
    assert marked_answers(tiny_processor().chat_template, [chat], **timed) == ["at 0.2 s</s>"]


@pytest.mark.parametrize("time_format", ["at 12.4 s", "{seconds} {seconds}", "{time}", 3])
def test_a_time_without_a_place_of_its_own_is_refused(processor, time_format):
    with pytest.raises(ValueError, match="time_format must be a text with one {seconds}, or None, got "):
        tiny_processor(time_format=time_format)
    if isinstance(time_format, str):
        with pytest.raises(ValueError, match="time_format must be a text with one {seconds}, or None, got "):
            processor(text="<video>", videos=clip(), time_format=time_format)


def test_a_processor_that_tells_no_time_has_the_files_that_it_had_before_there_were_times(processor):
    assert "time_format" not in processor.to_dict()
    assert tiny_processor(time_format="{seconds}").to_dict()["time_format"] == "{seconds}"
