import numpy as np
import pytest

from hmba_hf.metrics.grounding import bootstrap_interval, box_iou, mean_iou, pair_ious, picked_object

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
    low, high = scores.mean_iou_interval
    assert 0 <= low < scores.mean_iou < high <= 1


def test_an_iou_of_one_half_is_not_accurate_yet():
    assert mean_iou([(0, 0, 1, 0.5)], [UNIT]).accuracy == 0.0


def test_without_any_prediction_there_is_no_distance():
    scores = mean_iou([None, None], [UNIT, UNIT])
    assert (scores.mean_iou, scores.unparsed, scores.centre_distance) == (0.0, 1.0, None)


@pytest.mark.parametrize(("predictions", "targets"), [([], []), ([UNIT], []), ([None], [UNIT, UNIT])])
def test_unequal_or_empty_lists_are_refused(predictions, targets):
    with pytest.raises(ValueError, match="as many predictions as targets"):
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
    with pytest.raises(ValueError, match="got 0 values"):
        bootstrap_interval([])
