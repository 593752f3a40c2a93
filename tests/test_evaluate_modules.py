import json
import subprocess
import sys

import evaluate
import pytest

from hmba_hf.installation import install_command
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.captioning import score_captions
from hmba_hf.metrics.evaluate_modules import CaptionMetric, GroundingMetric
from hmba_hf.metrics.grounding import mean_iou

UNIT = [0.0, 0.0, 1.0, 1.0]
BOXES, TARGETS = [UNIT, None, [0.0, 0.0, 1.0, 0.5], [0.2, 0.2, 0.4, 0.4]], [UNIT] * 4
CAPTIONS = ["The red van stops.", "A dog runs", "", "The car turns left"]
REFERENCES = [["The red van stops.", "A van halts"], ["The dog is running"], ["A cat"], ["A car turns left"]]
WITHOUT_JAVA = {"tokenizer": "words", "draws": 30}


def test_boxes_are_scored_in_batches_like_all_at_once():
    metric = GroundingMetric()
    metric.add_batch(predictions=BOXES[:3], references=TARGETS[:3])
    metric.add(prediction=BOXES[3], reference=TARGETS[3])
    expected = mean_iou([UNIT, None, (0, 0, 1, 0.5), (0.2, 0.2, 0.4, 0.4)], TARGETS, Bootstrap(draws=30, seed=2))
    found = metric.compute(draws=30, seed=2)
    assert found == {**vars(expected)}
    assert found["unparsed"] == 0.25 and found["mean_iou"] == pytest.approx((1 + 0.5 + 0.04) / 4)


def test_an_empty_list_is_a_missing_box_too():
    assert GroundingMetric().compute(predictions=[[], UNIT], references=[UNIT, UNIT])["unparsed"] == 0.5


def test_captions_are_scored_in_batches_like_all_at_once():
    metric = CaptionMetric()
    for start in (0, 2):
        metric.add_batch(predictions=CAPTIONS[start : start + 2], references=REFERENCES[start : start + 2])
    expected = score_captions(CAPTIONS, REFERENCES, "words", Bootstrap(draws=30))
    assert metric.compute(**WITHOUT_JAVA) == {**vars(expected)}


def test_one_reference_may_come_without_a_list():
    texts = [texts[0] for texts in REFERENCES]
    found = CaptionMetric().compute(predictions=CAPTIONS, references=texts, **WITHOUT_JAVA)
    assert found["cider"] == score_captions(CAPTIONS, [[text] for text in texts], "words").cider


def test_both_can_be_combined_with_other_metrics_and_described():
    both = evaluate.combine([CaptionMetric()])
    assert both.compute(predictions=CAPTIONS, references=REFERENCES, **WITHOUT_JAVA)["tokenizer"] == "words"
    assert "mean_iou" in GroundingMetric().inputs_description and "tokenizer" in CaptionMetric().inputs_description


@pytest.mark.parametrize(
    ("metric", "inputs", "message"),
    [
        (
            GroundingMetric,
            {"predictions": [UNIT], "references": [UNIT, UNIT]},
            "Mismatch in the number of predictions",
        ),
        (CaptionMetric, {"predictions": ["a"], "references": [[]]}, "references must be a list for each caption"),
    ],
)
def test_what_cannot_be_scored_is_refused(metric, inputs, message):
    with pytest.raises(ValueError, match=message):
        metric().compute(**inputs)


def test_several_processes_are_scored_as_one_corpus(tmp_path):
    """CIDEr of the parts, averaged, would be another number."""
    script = f"""
import json, sys
from hmba_hf.metrics.evaluate_modules import CaptionMetric
process = int(sys.argv[1])
metric = CaptionMetric(num_process=2, process_id=process, experiment_id="two", cache_dir={str(tmp_path)!r})
metric.add_batch(predictions={CAPTIONS!r}[process::2], references={REFERENCES!r}[process::2])
print(json.dumps(metric.compute(**{WITHOUT_JAVA!r})))
"""
    start = [sys.executable, "-c", script]
    running = [subprocess.Popen([*start, str(index)], stdout=subprocess.PIPE, text=True) for index in (0, 1)]
    first, second = (json.loads(process.communicate(timeout=120)[0]) for process in running)
    order = [0, 2, 1, 3]
    expected = score_captions(
        [CAPTIONS[i] for i in order], [REFERENCES[i] for i in order], "words", Bootstrap(draws=30)
    )
    assert second is None and first == json.loads(json.dumps(vars(expected)))
    parts = [score_captions(CAPTIONS[i::2], REFERENCES[i::2], "words").cider for i in (0, 1)]
    assert first["cider"] != pytest.approx(sum(parts) / 2)


def test_without_evaluate_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['evaluate'] = None; import hmba_hf.metrics.evaluate_modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ImportError: metrics for the evaluate library need `{install_command('eval')}`" in done.stderr
