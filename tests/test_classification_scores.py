"""Records of predicted classes are checked and scored, by hand."""

import pytest

from hmba_hf.data.actions.samples import ActionSample
from hmba_hf.evaluation.results import format_table, run_metrics, to_eval_results
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.tasks.classification.records import check_record, sample_record

NAMES = ["run", "sit", "jump", "fall", "turn", "stay", "sit"]


def record(number, reference, *classes):
    answer = []
    for place, label in enumerate(classes):
        answer.append({"class": label, "label": NAMES[label], "score": 0.5 - place / 10})
    name = None if reference is None else NAMES[reference]
    sample = ActionSample(f"clip {number}", "clip.mp4", reference, name, split="test", tags=("indoors",))
    return {**sample_record(sample), "split": "test", "index": number, "answer": answer, "error": None}


RECORDS = [
    record(0, 0, 0, 1, 2, 3, 4),
    record(1, 0, 1, 0, 2, 3, 4),
    record(2, 0, 0, 1, 2, 3, 4),
    record(3, 1, 6, 0, 2, 3, 4),
    record(4, 2, 2, 0, 1, 3, 4),
    record(5, None, 2, 0, 1, 3, 4),
    {"id": "lost", "task": "classification", "split": "test", "index": 6, "answer": None, "error": "OSError: gone"},
]


@pytest.fixture
def summary():
    return ScoredRecords(RECORDS, Bootstrap(draws=50)).summary()


def test_top_1_top_5_and_mean_class_accuracy_are_those_of_the_labelled(summary):
    assert summary["scores"] == pytest.approx({"top_1": 3 / 5, "top_5": 4 / 5, "mean_class_accuracy": (2 / 3 + 1) / 3})
    assert summary["samples"] == {"answered": 6, "skipped": 1, "with_label": 5}
    assert summary["tags"]["indoors"]["scores"] == summary["scores"]
    for name, (low, high) in summary["intervals"].items():
        assert 0 <= low <= summary["scores"][name] <= high <= 1


def test_confusions_are_named_and_two_classes_of_one_name_are_told_apart(summary):
    wanted = {"jump": {"jump": 1}, "run": {"run": 2, "sit": 1}, "sit": {"sit (6)": 1}}
    assert summary["confusion"] == wanted


def test_each_record_says_what_was_predicted_and_where_the_right_class_stands():
    each = ScoredRecords(RECORDS, Bootstrap(draws=1)).each()
    assert each[1] == {"index": 1, "id": "clip 1", "predicted": 1, "reference": 0, "rank": 1}
    assert each[3]["rank"] is None
    assert each[5] == {"index": 5, "id": "clip 5", "predicted": 2, "reference": None}


def test_without_any_label_there_is_nothing_to_score():
    summary = ScoredRecords(RECORDS[5:], Bootstrap(draws=1)).summary()
    assert summary["scores"] == {} and summary["confusion"] == {}


def test_a_card_and_a_table_show_the_scores():
    scored = ScoredRecords(RECORDS, Bootstrap(draws=5))
    metrics = run_metrics(scored, {"dataset_name": "org/k400"}, "evaluate")
    shown = {result.metric_name: result.metric_value for result in to_eval_results(metrics, "org/k400", "test")}
    assert shown == pytest.approx({"top-1 accuracy": 0.6, "top-5 accuracy": 0.8, "mean class accuracy": 5 / 9})
    assert "top_1  0.600" in format_table(metrics) and "confusion" not in format_table(metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": []}, "record a: answer must hold at least one class, got none"),
        ({"answer": "run"}, "record a: answer must be"),
        ({"answer": ["run"]}, "record a: a class must be an object, got 'run'"),
        ({"answer": [{"class": 0, "label": "run"}]}, "must be an object with 'score'"),
        ({"answer": [{"class": 0, "label": "run", "score": float("nan")}]}, "a score must be finite"),
        ({"answer": [{"class": 0, "label": "run", "score": 10**400}]}, "a score must be finite"),
        ({"answer": RECORDS[0]["answer"][::-1]}, "classes must be in the order of their scores"),
        ({"answer": RECORDS[0]["answer"][:1] * 2}, "record a: answer must hold each class once, got . more than once"),
        ({"reference": "run"}, "record a: reference must be"),
        ({"reference": -1}, "record a: reference must be the number of a class, or null where it is unknown, got -1"),
        ({"reference_name": ["run"]}, "record a: reference_name must be a text or null"),
    ],
)
def test_a_record_that_cannot_be_scored_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_record({**RECORDS[0], "id": "a", **changes})
