"""Scores of classes, by hand."""

import numpy as np
import pytest

from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.classification import class_accuracies, confusion, mean_class_accuracy, top_k

LOGITS = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.0, 0.0, 1.0]])
LABELS = np.array([1, 2, 1, 2])


def test_the_right_class_is_among_the_most_likely_ones():
    assert [top_k(LOGITS, LABELS, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_classes_count_alike_however_many_samples_they_have():
    labels = np.array([0, 0, 0, 5])
    assert mean_class_accuracy(np.array([True, True, False, False]), labels) == pytest.approx((2 / 3 + 0) / 2)


def test_a_class_that_a_resampled_corpus_lacks_is_left_out_of_its_mean():
    labels = np.array([0, 1])
    drawn = class_accuracies(np.array([True, False]), labels, Bootstrap(draws=200))
    assert sorted(set(drawn.tolist())) == [0.0, 0.5, 1.0]


def test_confusions_are_counted_by_right_and_predicted_class():
    found = confusion(["run", "sit", "run", "run"], ["sit", "sit", "run", "sit"])
    assert found == {"run": {"run": 1}, "sit": {"run": 2, "sit": 1}}


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="labels must be from 0 to 2, got 1 to 3"):
        top_k(LOGITS, np.array([1, 2, 1, 3]), 1)
    with pytest.raises(ValueError, match="probabilities must be"):
        top_k(LOGITS, LABELS[:2], 1)


def test_a_sample_without_numbers_is_no_success_whatever_its_class():
    for broken in (np.full((1, 3), np.nan), np.array([[np.nan, 0.9, 0.1]])):
        for label in range(3):
            assert top_k(broken, np.array([label]), 3) == 0.0


def test_scores_of_nothing_are_refused():
    nothing = np.zeros(0, dtype=int)
    with pytest.raises(ValueError, match="samples and k must be at least one, got 0 and 1"):
        top_k(np.zeros((0, 3)), nothing, 1)
    with pytest.raises(ValueError, match="samples and k must be at least one, got 4 and 0"):
        top_k(LOGITS, LABELS, 0)
    with pytest.raises(ValueError, match="samples must be at least one, got none"):
        mean_class_accuracy(nothing.astype(bool), nothing)
