"""Predictions of several heads: the best classes of each, the best combinations, and their scores, by hand."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hmba_hf.evaluation.results import format_table, run_metrics, to_eval_results
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.tasks.classification.heads import Heads, check_class_names, combination_name
from hmba_hf.tasks.classification.prediction import classify_clips
from hmba_hf.tasks.classification.records import NUM_KEPT, check_record
from hmba_hf.tasks.classification.trainer import ClassificationTrainer

CLASSES = {"verb": [f"verb {number}" for number in range(7)], "noun": [f"noun {number}" for number in range(9)]}
HEADS = Heads(CLASSES, asks=True)


def probabilities(seed, count=3):
    draw = torch.Generator().manual_seed(seed)
    return {head: torch.rand(count, len(names), generator=draw).softmax(1) for head, names in CLASSES.items()}


@pytest.mark.parametrize("seed", range(4))
def test_combinations_are_the_best_of_all_by_the_product_of_their_probabilities(seed):
    given = probabilities(seed)
    for row, found in enumerate(HEADS.best(given, NUM_KEPT)):
        every = []
        for verb, noun in product(range(7), range(9)):
            every.append((float(given["verb"][row, verb] * given["noun"][row, noun]), verb, noun))
        wanted = sorted(every, reverse=True)[:5]
        best = found["combinations"]
        assert [tuple(item["class"].values()) for item in best] == [(verb, noun) for _, verb, noun in wanted]
        assert [item["score"] for item in best] == pytest.approx([score for score, _, _ in wanted])
        assert best[0]["label"] == f"verb {wanted[0][1]} noun {wanted[0][2]}"


def test_all_heads_together_have_a_name_that_no_head_has():
    assert combination_name(["verb", "noun"]) == "action"
    assert combination_name(["action", "reason"]) == "combination"
    assert Heads({"action": ["a"]}).combination is None


def test_views_are_averaged_head_by_head_before_they_are_multiplied():
    config = SimpleNamespace(heads={"verb": ["a", "b"], "noun": ["c", "d"]})

    class Model:
        main_input_name = "pixel_values_videos"
        device = "cpu"
        dtype = torch.float32

        def __init__(self):
            self.config = config

        def __call__(self, pixel_values_videos, input_ids):
            assert input_ids.shape == (1, 2, 3)
            logits = pixel_values_videos.flatten(1)[:, :4].log()
            return SimpleNamespace(head_logits={"verb": logits[:, :2], "noun": logits[:, 2:]})

    views = torch.tensor([[[0.9, 0.1, 0.2, 0.8], [0.5, 0.5, 0.6, 0.4]]])[:, :, None, None, None]
    inputs = {"pixel_values_videos": views, "input_ids": torch.zeros(1, 2, 3, dtype=torch.long)}
    (found,) = classify_clips(Model(), None, inputs, {})
    assert [item["score"] for item in found["heads"]["verb"]] == pytest.approx([0.7, 0.3])
    assert [item["label"] for item in found["heads"]["noun"]] == ["d", "c"]
    assert found["combinations"][0] == {"class": {"verb": 0, "noun": 1}, "label": "a d", "score": pytest.approx(0.42)}


def test_a_dataset_must_have_the_classes_of_each_head_of_the_model():
    config = SimpleNamespace(heads=CLASSES)
    check_class_names({**CLASSES, "reason": ["why"]}, config)
    check_class_names(None, config)
    with pytest.raises(ValueError, match=r"heads of the model must be of \['verb'\], as in the dataset, got 'noun'"):
        check_class_names({"verb": CLASSES["verb"]}, config)
    with pytest.raises(ValueError, match="class 1 of noun of the model must be 'x', as in the dataset, got 'noun 1'"):
        check_class_names({**CLASSES, "noun": ["noun 0", "x", *CLASSES["noun"][2:]]}, config)
    with pytest.raises(ValueError, match="classes of verb of the model must be 2, as in the dataset, got 7"):
        check_class_names({**CLASSES, "verb": ["a", "b"]}, config)
    plain = SimpleNamespace(id2label={0: "run", 1: "sit"}, num_labels=2)
    with pytest.raises(ValueError, match="heads of the model must be of .*, as in the dataset, got 'action'"):
        check_class_names(CLASSES, plain)


def record(number, verb, noun, verbs, nouns, source="generic", hide_words=False, tags=()):
    """A record whose classes have ever smaller probabilities, in the given order."""
    values = {}
    for head, order in (("verb", verbs), ("noun", nouns)):
        scores = torch.zeros(1, len(CLASSES[head]))
        for place, label in enumerate(order):
            scores[0, label] = 0.5 ** (place + 1)
        values[head] = scores
    (answer,) = HEADS.best(values, NUM_KEPT)
    return {
        "id": f"clip {number}",
        "task": "classification",
        "split": "test",
        "index": number,
        "reference": {"verb": verb, "noun": noun},
        "reference_name": {"verb": None, "noun": None},
        "questions": {"source": source, "hide_words": hide_words, "texts": {"verb": "?", "noun": "?"}},
        "tags": list(tags),
        "answer": answer,
        "error": None,
    }


RECORDS = [
    record(0, 0, 0, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], tags=("unseen",)),  # both right
    record(1, 0, 4, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),  # noun fifth: pair fifth or later by its product
    record(2, 3, 4, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),  # each in its five, the pair far down
    record(3, 5, 1, [0, 1, 2, 3, 4], [1, 0, 2, 3, 4], tags=("unseen", "tail_verb")),  # verb lost
    record(4, None, 1, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),  # verb not known
]


def summary(records=RECORDS, **settings):
    return ScoredRecords(records, Bootstrap(draws=20), **settings).summary()


def test_heads_and_actions_are_scored_each_where_all_is_known():
    found = summary()
    scores = found["scores"]
    assert scores["verb_top_1"] == 2 / 4 and scores["verb_top_5"] == 3 / 4
    assert scores["noun_top_1"] == 2 / 5 and scores["noun_top_5"] == 1.0
    assert scores["action_top_1"] == 1 / 4
    assert scores["action_each_in_top_5"] == 3 / 4  # the looser count of the released code
    assert scores["action_top_5"] < scores["action_each_in_top_5"]
    assert scores["verb_mean_class_accuracy"] == pytest.approx((1 + 0 + 0) / 3)
    assert scores["verb_class_mean_top_5_recall"] == pytest.approx((1 + 1 + 0) / 3)
    assert scores["noun_class_mean_top_5_recall"] == 1.0
    assert found["samples"] == {"answered": 5, "skipped": 0, "with_label": 5, "with_verb": 4, "with_noun": 5}
    assert found["questions"] == "generic"
    for name, (low, high) in found["intervals"].items():
        assert 0 <= low <= scores[name] <= high <= 1, name


def test_groups_by_tag_have_scores_of_their_own():
    tags = summary()["tags"]
    assert tags["unseen"]["scores"]["action_top_1"] == 1 / 2 and tags["tail_verb"]["scores"]["verb_top_5"] == 0.0


def test_each_record_and_the_confusions_are_by_head():
    scored = ScoredRecords(RECORDS, Bootstrap(draws=1))
    first, *_, last = scored.each()
    assert first["rank"] == {"verb": 0, "noun": 0}
    assert last["rank"] == {"noun": 1} and last["reference"] == {"verb": None, "noun": 1}
    assert scored.summary()["confusion"]["noun"]["noun 1"] == {"noun 0": 1, "noun 1": 1}


def test_records_with_questions_of_different_sources_are_not_scored_together():
    other = record(9, 0, 0, [0, 1], [0, 1], source="annotation")
    with pytest.raises(ValueError, match=r"questions of one source, got \['annotation', 'generic'\]"):
        summary([*RECORDS, other])
    hidden = record(9, 0, 0, [0, 1], [0, 1], hide_words=True)
    with pytest.raises(ValueError, match="questions of one source, got .*'generic, words of labels hidden'"):
        summary([*RECORDS, hidden])
    with pytest.raises(ValueError, match="records must have questions 'annotation', got 'generic'"):
        summary(questions="annotation")


def test_table_and_card_state_the_source_and_tell_the_two_counts_of_actions_apart():
    scored = ScoredRecords([record(0, 0, 0, [0, 1], [0, 1], source="annotation")], Bootstrap(draws=2))
    metrics = run_metrics(scored, {"dataset_name": "org/epic"}, "evaluate")
    assert "questions: 'annotation'" in format_table(metrics) and "upper bounds" in format_table(metrics)
    shown = {result.metric_name: result for result in to_eval_results(metrics, "org/epic", "test")}
    assert {"verb top-1 accuracy", "noun class-mean top-5 recall", "action top-5 accuracy"} <= shown.keys()
    assert "action every head right among its own top 5 (looser than top-5)" in shown
    assert all(result.metric_args["questions"] == "annotation" for result in shown.values())


def _combined(*classes):
    combinations = [{"class": one, "label": "a b", "score": 0.5} for one in classes]
    return {**RECORDS[0]["answer"], "combinations": combinations}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": {"verb": 0}}, r"answer must be of the heads \['verb'\], got \['verb', 'noun'\]"),
        ({"questions": {"source": "gpt", "hide_words": False}}, "source of questions must be of .*, got 'gpt'"),
        ({"questions": {"source": "generic"}}, "hide_words of questions must be true or false"),
        ({"questions": None}, "record a: questions must be"),
        ({"reference": {"verb": "take", "noun": 0}}, "verb must be"),
        ({"answer": {"heads": {"verb": [], "noun": []}}}, "verb must hold at least one class"),
        ({"answer": {"heads": RECORDS[0]["answer"]["heads"]}}, "must be an object with 'combinations'"),
        ({"answer": _combined(*[{"verb": 0, "noun": 0}] * 2)}, "combinations must hold each class once"),
        ({"answer": _combined({"verb": 0, "noun": 0, "tool": 0})}, "a combination must be of the heads"),
        ({"reference_name": "run"}, "reference_name must be an object or null"),
        ({"reference_name": {"verb": ["run"]}}, "verb: reference_name must be a text or null"),
        ({"reference": {"verb": -1, "noun": 0}}, "verb: reference must be the number of a class, or null"),
    ],
)
def test_a_record_of_heads_that_cannot_be_scored_is_named(changes, message):
    check_record(RECORDS[0])
    with pytest.raises(ValueError, match=message):
        check_record({**RECORDS[0], "id": "a", **changes})


def test_a_model_that_has_diverged_is_never_right_in_training():
    logits = {head: np.full((2, len(names)), np.nan, dtype=np.float32) for head, names in CLASSES.items()}
    trainer = SimpleNamespace(heads=HEADS)
    evaluation = EvalPrediction(predictions=logits, label_ids=np.zeros((2, 2), dtype=int))
    scores = ClassificationTrainer._top_accuracies(trainer, evaluation)
    assert {"verb_top_1", "noun_top_5", "action_top_1"} <= scores.keys() and set(scores.values()) == {0.0}
