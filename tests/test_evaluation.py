import warnings

import pytest
import torch
from PIL import Image

from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Sample
from hmba_hf.evaluation.batches import split_batches
from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.tasks.answering.boxes import answer_box, score_grounding, share_picked
from hmba_hf.tasks.answering.generation import answer_batches, answer_samples, encode_questions
from tiny_models import lively_model
from tiny_processors import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "test", 8)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model():
    """A random model whose answers depend on the video and on the question."""
    return lively_model(12, seed=2)


def wide_sample(boxes=((0.25, 0.5, 0.5, 1.0),)):
    """A clip of one frame, twice as wide as high."""
    return Sample(
        "wide",
        "Where?",
        "Here" + "<box>" * len(boxes),
        [Image.new("RGB", (64, 32))],
        boxes=boxes,
        labels=["thing"] * len(boxes),
    )


def test_answers_of_a_batch_are_those_of_each_sample_alone(model, processor):
    samples = [WORLD[0], WORLD.still_sample(1, "where"), WORLD[2], WORLD.ego_sample(3), WORLD[4]]
    lengths = {encode_questions([sample], processor)["input_ids"].shape[1] for sample in samples}
    assert len(lengths) > 2, "questions of different lengths, so that there is padding"
    alone = [answer_samples(model, processor, [sample], max_new_tokens=12)[0] for sample in samples]
    assert len(set(alone)) > 2 and all(alone)
    assert answer_samples(model, processor, samples, batch_size=3, max_new_tokens=12) == alone
    assert answer_samples(model, processor, samples, batch_size=100, max_new_tokens=12) == alone


def test_answers_that_end_at_their_limit_are_warned_of(model, processor):
    with pytest.warns(UserWarning, match="end at their limit of max_new_tokens=3 and may lack their boxes"):
        answer_samples(model, processor, [WORLD[0], WORLD[1]], max_new_tokens=3)
    every_token = list(range(model.config.text_config.vocab_size))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for limit in (1, 3):
            answer_samples(model, processor, [WORLD[0]], max_new_tokens=limit, eos_token_id=every_token)


def test_the_true_answer_is_not_read(model, processor):
    world = MicroWorld(WORLD.config, "test", 1)
    other = Sample("other", world[0].question, "Nothing.", world[0].frames)
    assert answer_samples(model, processor, [other], max_new_tokens=8) == answer_samples(
        model, processor, [world[0]], max_new_tokens=8
    )


def test_a_video_is_asked_about_at_its_timestamp(model, processor, tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, WORLD[0].frames)
    early, late = (Sample(f"at {t}", "What is it?", "", video=path, timestamp=t) for t in (0.6, 2.4))
    pixels = encode_questions([early, late], processor)["pixel_values_videos"]
    assert not torch.equal(pixels[0], pixels[1])
    assert torch.equal(encode_questions([early], processor)["pixel_values_videos"][0], pixels[0])
    assert len(answer_samples(model, processor, [early, late], max_new_tokens=4)) == 2


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_stays_in_the_mode_it_was_in(model, processor, is_training):
    model.train(is_training)
    answers = answer_samples(model, processor, [WORLD[0]], max_new_tokens=2)
    assert model.training == is_training
    with pytest.raises(ValueError, match="max_new_tokens"):
        answer_samples(model, processor, [WORLD[0]], max_new_tokens=-1)
    assert model.training == is_training, "also after an error"
    model.eval()
    assert answers == answer_samples(model, processor, [WORLD[0]], max_new_tokens=2)


def test_a_batch_of_no_samples_is_an_error(model, processor):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        answer_samples(model, processor, [WORLD[0]], batch_size=0)


def test_no_samples_have_no_answers(model, processor):
    assert answer_samples(model, processor, []) == []


class Broken(MicroWorld):
    """A world whose clip 2 is a damaged video, and whose clip 5 cannot even be read as a sample."""

    def __getitem__(self, index):
        if index == 5:
            raise OSError("cannot identify image file")
        if index == 2:
            return Sample("damaged", "Where?", "", video=b"no video at all")
        return super().__getitem__(index)


def test_samples_that_cannot_be_read_are_skipped_with_the_reason(model, processor):
    broken, batches = Broken(WORLD.config, "test", 8), split_batches(8, 3)
    outcomes = [
        outcome
        for batch in answer_batches(model, processor, broken, batches, on_error="skip", max_new_tokens=6)
        for outcome in batch
    ]
    assert [outcome.index for outcome in outcomes] == list(range(8))
    assert [outcome.index for outcome in outcomes if outcome.error] == [2, 5]
    assert outcomes[2].sample.id == "damaged" and outcomes[2].error.startswith("VideoDecodeError: ")
    assert outcomes[5].sample is None and outcomes[5].error == "OSError: cannot identify image file"
    answers = answer_samples(model, processor, [WORLD[index] for index in (0, 1, 3, 4, 6, 7)], max_new_tokens=6)
    assert [outcome.prediction for outcome in outcomes if not outcome.error] == answers


def test_a_batch_of_unreadable_samples_alone_is_survived(model, processor):
    (outcomes,) = answer_batches(model, processor, Broken(WORLD.config, "test", 8), [[2, 5]], on_error="skip")
    assert [outcome.prediction for outcome in outcomes] == [None, None]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], r"sample 2 \(damaged\) cannot be read, .*VideoDecodeError"),
        ([5], "sample 5 cannot .*OSError: cannot id"),
    ],
)
def test_a_sample_that_cannot_be_read_stops_by_default_and_is_named(model, processor, batch, message):
    model.train()
    with pytest.raises(ValueError, match=message):
        list(answer_batches(model, processor, Broken(WORLD.config, "test", 8), [[0], batch], max_new_tokens=2))
    assert model.training, "the model is in the mode that it was in"
    model.eval()


def test_an_error_that_no_sample_is_to_blame_for_stays_what_it_is(model, processor):
    with pytest.raises(ValueError, match="max_new_tokens"):
        list(answer_batches(model, processor, WORLD, [[0]], on_error="skip", max_new_tokens=-1))
    with pytest.raises(ValueError, match=r"on_error must be one of \('stop', 'skip'\), got 'ignore'"):
        list(answer_batches(model, processor, WORLD, [[0]], on_error="ignore"))


def test_a_box_is_read_as_fractions_of_a_frame_that_is_not_square(processor):
    size, box = (200, 100), (0.1, 0.25, 0.5, 0.75)  # height and width
    printed = processor.format_boxes([(10, 50, 50, 150)], size=size)
    assert printed == "[0.300,0.250,0.500,0.750]", "on the padded square"
    assert answer_box(f"The car{printed} stops.", processor, size) == pytest.approx(box, abs=1e-2)
    wide = processor.format_boxes([(50, 10, 150, 50)], size=(100, 200))
    assert answer_box(wide, processor, (100, 200)) == pytest.approx((0.25, 0.1, 0.75, 0.5), abs=1e-2)


def test_the_last_box_that_can_be_read_is_the_answer(processor):
    answer = "A car[0.000,0.000,0.500,0.500] and a van[0.500,0.500,1.000,1.000] and a dog[0.1,0.2]"
    assert answer_box(answer, processor, (32, 32)) == pytest.approx((0.5, 0.5, 1.0, 1.0))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The car.",
        "A car[0.1,0.2]",
        "A car[0.1,0.2,0.3,",
        "A car[a,b,c,4]",
        "A car[0.1,0.2,nan,0.4]",
        "A car[0.1,0.2,inf,0.4]",
    ],
)
def test_an_answer_with_no_box_or_one_of_other_than_four_numbers_gives_none(processor, answer):
    assert answer_box(answer, processor, (32, 32)) is answer_box(answer, HMBAProcessor, (32, 32)) is None


@pytest.mark.parametrize(
    "printed",
    [
        "0.1,0.9,0.9,0.1",
        "0.9,0.1,0.1,0.9",
        "0.1,0.2,1.3,0.4",
        "0.1,0.2,0.3,1.001",
        "-0.1,0.2,0.3,0.4",
        "+0.1,0.2,0.3,0.4",
        "1e-1,0.2,0.3,0.4",
        "0.1,0.2,1e308,0.4",
        "0.1,0.1,0.1,0.1;0.1,0.9,0.9,0.1",
    ],
)
def test_an_evaluation_reads_the_boxes_that_are_shown_and_no_others(processor, printed):
    answer = f"A car[{printed}]"
    shown = [parsed.box for parsed in processor.parse_boxes(answer) if parsed.box is not None]
    assert answer_box(answer, processor, (32, 32)) == (shown[-1] if shown else None)
    scores = score_grounding([answer], [wide_sample()], processor)
    assert scores.unparsed == (not shown) == (not processor.post_process_boxes(answer, size=(32, 64)))
    before = f"A van[0.2,0.2,0.4,0.4] and {answer}"
    assert answer_box(before, processor, (32, 32)) == (shown[-1] if shown else (0.2, 0.2, 0.4, 0.4))


def test_a_box_in_the_padding_is_not_clipped_to_the_frame(processor):
    box = answer_box("A car[0.000,0.000,1.000,0.500]", processor, (32, 64))
    assert box == pytest.approx((0, -0.5, 1, 0.5))


def test_a_box_of_the_question_is_not_scored(processor):
    sample = WORLD.still_sample(0, "what")
    assert sample.boxes and sample.answer.count("<box>") == 0
    with pytest.raises(ValueError, match="samples with boxes, got none"):
        score_grounding(["A van."], [sample], processor)


def test_unreadable_boxes_score_nothing_and_are_counted(processor):
    sample = wide_sample()
    height, width = sample.size
    exact = processor.format_boxes([(0.25 * width, 0.5 * height, 0.5 * width, height)], size=sample.size)
    scores = score_grounding([f"Here{exact}", "Here[0.1,", "no idea"], [sample] * 3, processor)
    assert scores.mean_iou == pytest.approx(1 / 3) and scores.accuracy == pytest.approx(1 / 3)
    assert scores.unparsed == pytest.approx(2 / 3) and scores.missed == pytest.approx(2 / 3)
    assert scores.count == 3 and scores.centre_distance == pytest.approx(0, abs=1e-6)


def test_a_box_too_large_for_a_number_is_unreadable_and_stops_nothing(processor):
    scores = score_grounding(["Here[0.1,0.1,1e308,0.5]"], [wide_sample()], processor)
    assert (scores.mean_iou, scores.unparsed) == (0, 1)


def test_the_last_box_of_a_sample_is_the_true_one(processor):
    boxes = ((0.25, 0.5, 0.5, 1.0), (0.5, 0.0, 1.0, 0.5))
    sample = wide_sample(boxes)
    printed = processor.format_boxes([(32, 0, 64, 16)], size=sample.size)
    assert score_grounding([printed], [sample], processor).mean_iou == pytest.approx(1)


def test_samples_without_boxes_are_left_out_of_the_score(processor):
    samples = [wide_sample(), wide_sample(boxes=()), WORLD.ego_sample(0)]
    printed = processor.format_boxes([(16, 16, 32, 32)], size=(32, 64))
    scores = score_grounding([printed, printed, "The car stops"], samples, processor)
    assert scores.count == 1 and scores.mean_iou == pytest.approx(1)


def test_nothing_to_score_is_an_error(processor):
    with pytest.raises(ValueError, match="samples with boxes, got none"):
        score_grounding(["The car stops"], [WORLD.ego_sample(0)], processor)


def test_a_box_on_a_video_of_unknown_size_is_an_error(processor):
    sample = Sample("clip-7", "Where?", "Here<box>", video=b"x", boxes=[(0, 0, 1, 1)], labels=["thing"])
    with pytest.raises(ValueError, match="sample clip-7: scoring its box needs size"):
        score_grounding(["Here"], [sample], processor)


def test_the_right_road_user_is_picked_when_the_box_overlaps_it_most(processor):
    scene, size = WORLD.scene(0), WORLD[0].size
    right, wrong = (processor.format_boxes([[32 * x for x in scene.boxes[n]]], size) for n in (scene.risk, scene.twin))
    assert share_picked([right], WORLD, processor) == 1.0
    assert share_picked([wrong], WORLD, processor) == share_picked(["no idea"], WORLD, processor) == 0.0
    assert share_picked([right, "no idea"], WORLD, processor) == 0.5
    with pytest.raises(ValueError, match="answers must be at least one, got none"):
        share_picked([], WORLD, processor)


def test_answers_and_samples_must_be_as_many(processor):
    with pytest.raises(ValueError, match="shorter|longer"):
        score_grounding(["one"], [wide_sample(), wide_sample()], processor)
