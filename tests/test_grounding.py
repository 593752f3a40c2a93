import numpy as np
import pytest
from PIL import Image

from hmba_hf.data.samples import Sample
from hmba_hf.metrics.bootstrap import Bootstrap, bootstrap_interval
from hmba_hf.metrics.grounding import box_iou, mean_iou, pair_ious, picked_object
from hmba_hf.models.processing_hmba import HMBAProcessor, format_boxes
from hmba_hf.tasks.answering.boxes import score_grounding

UNIT = (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (UNIT, UNIT, 1.0),
        (UNIT, (0, 0, 1, 0.5), 0.5),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        (UNIT, (1, 0, 2, 1), 0.0),
        (UNIT, (3, 3, 4, 4), 0.0),
        (UNIT, (0.5, 0.5, 0.5, 0.5), 0.0),
        ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),
        (UNIT, (0.8, 0.8, 0.2, 0.2), 0.0),
    ],
)
def test_iou_is_the_shared_part_of_both_areas_and_zero_without_area(first, second, expected):
    assert box_iou(first, second) == pytest.approx(expected)
    assert box_iou(second, first) == pytest.approx(expected)


@pytest.mark.parametrize("box", [(0, 0, 1), (0, 0, 1, float("nan")), (0, 0, 1, float("inf"))])
def test_what_is_no_box_is_refused(box):
    with pytest.raises(ValueError, match="4 finite numbers"):
        box_iou(UNIT, box)


def test_scores_count_an_unparsed_answer_as_a_miss():
    scores = mean_iou([UNIT, (0, 0, 1, 0.5), (2, 2, 3, 3), None], [UNIT] * 4)
    assert scores.mean_iou == pytest.approx(1.5 / 4)
    assert (scores.accuracy, scores.missed, scores.unparsed, scores.count) == (0.25, 0.5, 0.25, 4)
    assert scores.centre_distance == pytest.approx((0 + 0.25 + 4) / 3)
    assert scores.intervals.keys() == {"mean_iou", "accuracy", "missed", "unparsed", "centre_distance"}
    for name, (low, high) in scores.intervals.items():
        assert 0 <= low < getattr(scores, name) < high, name


def test_an_iou_of_one_half_is_not_accurate_yet():
    assert mean_iou([(0, 0, 1, 0.5)], [UNIT]).accuracy == 0.0


def test_without_any_prediction_there_is_no_distance():
    scores = mean_iou([None, None], [UNIT, UNIT])
    assert (scores.mean_iou, scores.unparsed, scores.centre_distance) == (0.0, 1.0, None)
    assert "centre_distance" not in scores.intervals and scores.intervals["mean_iou"] == (0.0, 0.0)


def test_a_reversed_box_and_one_without_area_are_misses_but_not_unparsed():
    scores = mean_iou([(0.8, 0, 0.2, 1), (0.2, 0.8, 0.4, 0.2), (0.5, 0, 0.5, 1)], [UNIT] * 3)
    assert (scores.mean_iou, scores.missed, scores.unparsed) == (0.0, 1.0, 0.0)


def test_a_box_that_reaches_outside_of_the_frame_is_taken_as_it_is():
    scores = mean_iou([(-1, 0, 1, 1), (0, 0, 1, 3)], [UNIT, UNIT])
    assert scores.mean_iou == pytest.approx((1 / 2 + 1 / 3) / 2) and scores.unparsed == 0


def released_scores(answers, targets):
    """What the released script computes from printed boxes: it reads the last bracket and stops at any other text.

    Written anew from what github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`, does.
    """
    ious, distances = [], []
    for answer, target in zip(answers, targets, strict=True):
        x1, y1, x2, y2 = (float(number) for number in answer[answer.rindex("[") + 1 : answer.rindex("]")].split(","))
        a1, b1, a2, b2 = (float(number) for number in target[target.rindex("[") + 1 : target.rindex("]")].split(","))
        inner = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
        ious.append(inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner))
        distances.append(abs((x1 + x2) / 2 - (a1 + a2) / 2) + abs((y1 + y2) / 2 - (b1 + b2) / 2))
    count = len(ious)
    wrong, right = sum(iou == 0 for iou in ious), sum(iou > 0.5 for iou in ious)
    return {
        "mean_iou": sum(ious) / count,
        "accuracy": right / count,
        "missed": wrong / count,
        "centre_distance": sum(distances) / count,
    }


def last_box(text):
    return HMBAProcessor.parse_boxes(text)[-1].box


@pytest.mark.parametrize("size", [(64, 64), (720, 1280), (1280, 1928)])
def test_boxes_score_as_in_the_released_script_where_it_does_not_crash(size):
    rng, (height, width) = np.random.default_rng(1), size
    answers, targets, pixels = [], [], []
    for index in range(200):
        corners = np.sort(rng.random((4, 2)), axis=0) * (width, height)
        true, moved = corners[[0, 2]].ravel(), corners[[0, 3] if index % 2 else [1, 3]].ravel()
        answers.append(f"A van[0.100,0.100,0.200,0.200] and a car{format_boxes([moved], size)} stops.")
        targets.append(f"A car{format_boxes([true], size)}")
        pixels.append(true)
    expected = released_scores(answers, targets)
    printed = mean_iou([last_box(text) for text in answers], [last_box(text) for text in targets])
    assert {name: getattr(printed, name) for name in expected} == pytest.approx(expected, abs=1e-12)
    # In pixels of the frame, and with the true box before it was printed, all is the same up to the three decimals.
    found = [HMBAProcessor.post_process_boxes(text, size)[-1]["box"].values() for text in answers]
    assert mean_iou([[*box] for box in found], pixels).mean_iou == pytest.approx(expected["mean_iou"], abs=2e-3)


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (720, 1280)])
def test_answers_score_as_in_the_released_script_wherever_on_the_square_their_boxes_reach(size):
    """Also into the padding around the frame."""
    rng, (height, width) = np.random.default_rng(2), size
    side, frame = max(size), Image.new("RGB", size[::-1])
    samples, answers, targets = [], [], []
    for index in range(100):
        x1, y1 = rng.uniform(0, 0.4, 2).tolist()
        x2, y2 = rng.uniform(0.6, 1, 2).tolist()
        samples.append(Sample(str(index), "Where?", "Here<box>", [frame], boxes=[(x1, y1, x2, y2)], labels=["it"]))
        xs = [(x * width + (side - width) // 2) / side for x in (x1, x2)]
        ys = [(y * height + (side - height) // 2) / side for y in (y1, y2)]
        targets.append(f"Here[{xs[0]},{ys[0]},{xs[1]},{ys[1]}]")
        corners = np.sort(rng.uniform(0, 1, (2, 2)), axis=0)  # (start and end, x and y)
        printed = ",".join(f"{number:.3f}" for number in corners.ravel())
        answers.append(f"A van[0.1,0.1,0.2,0.2] and a car[{printed}]")
    scores = score_grounding(answers, samples, HMBAProcessor)
    expected = released_scores(answers, targets)
    assert scores.unparsed == 0 and scores.mean_iou > 0.01
    found = {name: getattr(scores, name) for name in ("mean_iou", "accuracy", "missed")}
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-9)


@pytest.mark.parametrize("answer", ["A car.", "A car[0.1,0.2]", "[0.1,0.2,0.3", "a[0.5,0.5,0.5,0.5]"])
def test_what_stops_the_released_script_is_a_miss(answer):
    with pytest.raises((ValueError, ZeroDivisionError)):
        released_scores([answer], ["a[0.500,0.500,0.500,0.500]"])
    found = [parsed.box for parsed in HMBAProcessor.parse_boxes(answer)]
    assert mean_iou([found[-1] if found else None], [(0.5, 0.5, 0.5, 0.5)]).missed == 1


def test_a_resampled_corpus_without_any_prediction_has_no_distance_but_its_other_scores():
    for seed in range(20):  # one draw of two pairs often draws the one without a box twice
        scores = mean_iou([None, UNIT], [UNIT, UNIT], Bootstrap(draws=1, seed=seed))
        assert scores.centre_distance == 0 and set(scores.intervals) >= {"mean_iou", "unparsed"}
        assert ("centre_distance" in scores.intervals) == (scores.intervals["unparsed"][0] < 1)


@pytest.mark.parametrize(("predictions", "targets"), [([], []), ([UNIT], []), ([None], [UNIT, UNIT])])
def test_unequal_or_empty_lists_are_refused(predictions, targets):
    with pytest.raises(ValueError, match="predictions must be as many as targets"):
        mean_iou(predictions, targets)


def test_ious_come_one_for_each_pair():
    assert pair_ious([UNIT, None], [UNIT, UNIT]).tolist() == [1.0, 0.0]


def test_the_picked_object_is_the_one_that_overlaps_most():
    objects = [(0, 0, 1, 1), (1, 0, 2, 1)]
    assert picked_object((0.8, 0, 1.8, 1), objects) == 1
    assert picked_object((5, 5, 6, 6), objects) is None
    assert picked_object(None, objects) is None


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_values():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 2000):
        values = rng.random(count)
        low, high = bootstrap_interval(values)
        assert low < values.mean() < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5
    assert bootstrap_interval(values) == bootstrap_interval(values)
    with pytest.raises(ValueError, match="values must be at least one, got none"):
        bootstrap_interval([])


def test_the_same_corpora_are_drawn_for_every_metric():
    bootstrap, values = Bootstrap(draws=50, seed=4), np.random.default_rng(0).random((30, 2))
    together = bootstrap.sums(values)
    assert together[:, 1] == pytest.approx(bootstrap.sums(values[:, 1:])[:, 0])
    assert bootstrap.sums(np.ones((30, 1))) == pytest.approx(30)
    assert bootstrap.interval(together[:, 0] / 30) == pytest.approx(bootstrap_interval(values[:, 0], 0.95, 50, 4))
