import numpy as np
import pytest

from hmba_hf.metrics.retrieval import recall_at, retrieval_ranks


def test_a_rank_is_the_place_of_the_best_right_item():
    scores = [[0.9, 0.8, 0.1], [0.2, 0.3, 0.4], [0.5, 0.4, 0.3]]
    assert retrieval_ranks(scores, np.eye(3)).tolist() == [1, 2, 3]
    assert recall_at([1, 2, 3], 1) == pytest.approx(1 / 3)
    assert recall_at([1, 2, 3], 2) == pytest.approx(2 / 3)


def test_the_best_of_several_right_items_counts():
    assert retrieval_ranks([[0.1, 0.9, 0.5]], [[1, 0, 1]]).tolist() == [2]


def test_equal_scores_are_no_success():
    assert retrieval_ranks(np.ones((2, 5)), np.eye(5)[:2]).tolist() == [5, 5]


def test_right_items_do_not_push_one_another_back():
    assert retrieval_ranks([[0.7, 0.7, 0.1]], [[1, 1, 0]]).tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "is_match", "message"),
    [
        ([[1.0, np.nan]], [[1, 0]], "got 1 NaN"),
        ([[1.0, 2.0]], [[0, 0]], "got none for query 0"),
        ([[1.0, 2.0]], [[1, 0, 0]], "must be \\(queries, items\\)"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, is_match, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(scores, is_match)


def test_scores_of_nothing_are_refused():
    with pytest.raises(ValueError, match="queries and k must be at least one, got 0 and 1"):
        recall_at([], 1)
    with pytest.raises(ValueError, match="queries and k must be at least one, got 2 and 0"):
        recall_at([1, 2], 0)
    with pytest.raises(ValueError, match=r"queries and items must be at least one, got \(0, 0\)"):
        retrieval_ranks(np.zeros((0, 0)), np.zeros((0, 0), dtype=bool))
