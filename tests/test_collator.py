from dataclasses import replace

import pytest
import torch
from PIL import Image

from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.data.samples import Sample
from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from hmba_hf.tasks.answering.collator import SampleCollator, to_conversation
from hmba_hf.tasks.answering.generation import encode_questions
from tiny_processors import clip, tiny_processor, tiny_tokenizer
from tiny_templates import MARKED_TURNS


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def answers(batch, processor):
    return [processor.decode(ids[ids != -100]) for ids in batch["labels"]]


def test_labels_are_the_answers_with_their_boxes_printed(processor):
    world = MicroWorld()
    clip, where, what = world[0], world.still_sample(1, "where"), world.still_sample(2, "what")
    both = replace(where, answer="The <box> and the <box>.", boxes=where.boxes * 2, labels=["a", "b"])
    samples = [clip, both, what]
    batch = SampleCollator(processor)(samples[:1])
    x1, y1, x2, y2 = samples[0].boxes[0]
    printed = samples[0].answer.replace("<box>", f"[{x1:.3f},{y1:.3f},{x2:.3f},{y2:.3f}]")
    assert answers(batch, processor) == [printed + "</s>"]
    stills = SampleCollator(processor)(samples[1:])
    assert answers(stills, processor)[0].count("[0.") == 2
    assert answers(stills, processor)[1] == samples[2].answer + "</s>"
    assert "What is at [0." in processor.decode(stills["input_ids"][1])


def test_the_batch_has_what_a_model_takes_and_is_padded_on_the_right(processor):
    world = MicroWorld()
    batch = SampleCollator(processor)([world[0], world.ego_sample(1)])
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values_videos", "labels"}
    assert batch["pixel_values_videos"].shape == (2, 5, 3, 28, 28)
    assert batch["labels"].shape == batch["input_ids"].shape
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == batch["input_ids"].shape[1] and lengths[0] != lengths[1]
    for mask, length in zip(batch["attention_mask"], lengths, strict=True):
        assert mask[:length].all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_a_tokenizer_that_pads_on_the_left_changes_no_batch(processor):
    world, other = MicroWorld(), tiny_processor()
    other.tokenizer.padding_side = "left"
    wanted, found = (SampleCollator(made)([world[0], world.ego_sample(1)]) for made in (processor, other))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_batch_gives_each_sample_what_it_gets_alone(processor):
    samples = [MicroWorld()[index] for index in range(3)]
    together = SampleCollator(processor)(samples)
    for row, sample in enumerate(samples):
        alone = SampleCollator(processor)([sample])
        length = alone["input_ids"].shape[1]
        assert torch.equal(together["labels"][row, :length], alone["labels"][0])
        assert torch.equal(together["pixel_values_videos"][row], alone["pixel_values_videos"][0])


def test_clips_of_unequal_length_come_with_a_frame_mask(processor):
    world = MicroWorld()
    batch = SampleCollator(processor)([world[0], world.still_sample(0)])
    assert batch["frame_mask"].tolist() == [[True] * 5, [False] * 4 + [True]]


def test_boxes_are_printed_on_the_padded_square(processor):
    sample = Sample("a", "Q?", "A<box>", [Image.new("RGB", (40, 20))], boxes=[(0.0, 0.0, 1.0, 1.0)], labels=["a"])
    assert to_conversation(sample, processor)[1]["content"][0]["text"] == "A[0.000,0.250,1.000,0.750]"
    assert len(to_conversation(sample, processor, with_answer=False)) == 1


def test_videos_are_read_up_to_their_timestamp(processor, tmp_path):
    write_video(tmp_path / "clip.mp4", MicroWorld()[0].frames)
    clips = [Sample("a", "Q?", "A", video=tmp_path / "clip.mp4", timestamp=time) for time in (1.0, None)]
    batch = SampleCollator(processor)(clips)
    first, last = batch["pixel_values_videos"]
    assert torch.equal(first[2:], last[:3])  # 1.0 s is the third frame of five


def test_the_time_of_the_current_frame_is_learned_with_the_question(tmp_path):
    write_video(tmp_path / "clip.mp4", MicroWorld()[0].frames)
    processor = tiny_processor(time_format=" at {seconds} s. ")
    clips = [Sample("a", "Q?", "A", video=tmp_path / "clip.mp4", timestamp=1.23), Sample("b", "Q?", "A", clip())]
    batch = SampleCollator(processor)(clips)
    assert answers(batch, processor) == ["A</s>"] * 2
    timed, untimed = (processor.decode(ids).replace("<pad>", "") for ids in batch["input_ids"])
    assert timed.endswith("<video> at 1.2 s. Q? ASSISTANT: A</s>")
    assert untimed.endswith("<video>Q? ASSISTANT: A</s>")
    questions = encode_questions(clips, processor)["input_ids"]
    assert processor.decode(questions[0]).endswith("<video> at 1.2 s. Q? ASSISTANT:")


def test_a_box_on_a_video_of_unknown_size_is_refused(processor):
    sample = Sample("clip-7", "Q?", "A<box>", video=b"x", boxes=[(0, 0, 1, 1)], labels=["a"])
    with pytest.raises(ValueError, match=r"sample clip-7 must have the size of its original frame .*, got size=None"):
        to_conversation(sample, processor)


def test_a_template_without_a_generation_block_is_learned_from_as_well():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = MARKED_TURNS
    processor = HMBAProcessor(HMBAVideoProcessor(size={"height": 28, "width": 28}), tokenizer)
    samples = [MicroWorld()[0], MicroWorld().ego_sample(1)]
    written = [to_conversation(sample, processor)[1]["content"][0]["text"] for sample in samples]
    assert answers(SampleCollator(processor)(samples), processor) == [f"{text}[end]\n" for text in written]


def test_a_sample_without_a_token_to_learn_from_is_named():
    unreached = "{% if false %}{% generation %}{% endgeneration %}{% endif %}{{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(ValueError, match="train-symmetric-0-000000: at least one token must be marked .*, got none"):
        SampleCollator(tiny_processor(chat_template="<video>" + unreached))([MicroWorld()[0]])
