"""This package's metrics for the `evaluate` library, without the Hub: `GroundingMetric()`, `CaptionMetric()`.

They take predictions in batches and from several processes, and compute over all of them at once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..installation import missing_extra

try:
    import datasets
    import evaluate
except ImportError as missing:
    raise missing_extra("metrics for the evaluate library need", "eval") from missing

from .bootstrap import Bootstrap
from .captioning import score_captions
from .grounding import mean_iou

_NUMBERS = datasets.Sequence(datasets.Value("float64"))
_BOOTSTRAP = """
    confidence, draws, seed: of the bootstrap intervals, see `hmba_hf.metrics.bootstrap.Bootstrap`."""


class GroundingMetric(evaluate.Metric):
    """`hmba_hf.metrics.grounding.mean_iou` for the `evaluate` library.

    A prediction is a box `(x1, y1, x2, y2)`, or `None` or `[]` for an answer without one; a reference is a box.
    `compute` returns the fields of `GroundingScores` and takes `confidence`, `draws` and `seed`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Overlap of predicted boxes with the true ones.",
            citation="",
            inputs_description=f"""
Args:
    predictions: boxes (x1, y1, x2, y2), None or [] where there is none.
    references: boxes (x1, y1, x2, y2).{_BOOTSTRAP}
Returns:
    mean_iou, accuracy (IoU above 0.5), missed, unparsed, centre_distance, count, intervals
""",
            features=datasets.Features({"predictions": _NUMBERS, "references": _NUMBERS}),
        )

    def _compute(
        self, predictions: Sequence[Sequence[float] | None], references: Sequence[Sequence[float]], **bootstrap: Any
    ) -> dict[str, Any]:
        boxes = [box or None for box in predictions]
        return asdict(mean_iou(boxes, references, Bootstrap(**bootstrap)))


class CaptionMetric(evaluate.Metric):
    """`hmba_hf.metrics.captioning.score_captions` for the `evaluate` library.

    A prediction is a caption, a reference a list of captions or one caption. `compute` returns the fields of
    `CaptionScores` and takes `tokenizer`, `confidence`, `draws` and `seed`.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="BLEU, ROUGE-L, CIDEr, METEOR and SPICE as the COCO caption benchmark computes them.",
            citation="",
            inputs_description=f"""
Args:
    predictions: captions.
    references: a list of captions for each, or one caption.
    tokenizer: "ptb", which needs Java, or "words"; the first of them that runs when absent.{_BOOTSTRAP}
Returns:
    bleu_1 to bleu_4, rouge_l, cider, meteor, spice, count, tokenizer, absent (why a score is None), intervals
""",
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str] | str],
        tokenizer: str | None = None,
        **bootstrap: Any,
    ) -> dict[str, Any]:
        texts: list[Sequence[str]] = []
        for reference in references:
            texts.append([reference] if isinstance(reference, str) else reference)
        return asdict(score_captions(predictions, texts, tokenizer, bootstrap=Bootstrap(**bootstrap)))
