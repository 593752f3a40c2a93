"""Generated captions against references, with the numbers of the COCO caption benchmark.

BLEU, METEOR and CIDEr are scores of a corpus: they are not means over captions, and no mean over parts of a corpus.
Each caption's statistics are kept, so that resampled and smaller corpora cost no second comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Interval
from .caption_tokens import MetricUnavailable, benchmark_folder, best_tokenizer, tokenize_captions
from .java_metrics import meteor_scores, meteor_statistics, spice_scores

# The benchmark's guards against a division by zero in BLEU.
_SMALL = 1e-9
_TINY = 1e-15
# Reasons why a score of a corpus is undefined: it would divide by zero.
_UNDEFINED = {
    "bleu_1": "no caption and no reference has 1 word",
    "bleu_2": "no caption and no reference has 2 words",
    "bleu_3": "no caption and no reference has 3 words",
    "bleu_4": "no caption and no reference has 4 words",
    "cider": "every n-gram of the references is in those of all captions, so that none has a weight",
}


@dataclass(frozen=True)
class CaptionScores:
    """Scores of `count` captions, all from 0 to 1, but CIDEr from 0 to 10.

    Args:
        bleu_1, bleu_2, bleu_3, bleu_4: of the corpus, against the reference length closest to each caption's; `None`
            where captions have words, but neither they nor their references so many.
        rouge_l: mean F of the longest common subsequence, with beta 1.2.
        cider: mean CIDEr-D. Weights of n-grams come from the number of captions whose references hold them; `None`
            where every n-gram of the references is in those of all captions, as in a corpus of one.
        meteor: METEOR 1.5 of the corpus; `None` with another tokenizer than `"ptb"`, or if its Java fails or takes too
            long.
        spice: mean SPICE; `None` with another tokenizer than `"ptb"`, without its parser, or where a caption has
            nothing to compare.
        count: number of captions.
        tokenizer: of the captions, see `tokenize_captions`.
        absent: for each score that is `None`, the reason in one sentence.
        intervals: the bootstrap interval of each score that is a number. Each draw takes whole captions and recomputes
            BLEU and METEOR from their statistics; the n-gram weights of CIDEr stay those of the corpus.
    """

    bleu_1: float | None
    bleu_2: float | None
    bleu_3: float | None
    bleu_4: float | None
    rouge_l: float
    cider: float | None
    meteor: float | None
    spice: float | None
    count: int
    tokenizer: str
    absent: dict[str, str]
    intervals: dict[str, Interval]


def score_captions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: str | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> CaptionScores:
    """Score generated captions; arguments as in `compare_captions`."""
    return compare_captions(predictions, references, tokenizer).scores(bootstrap=bootstrap)


@dataclass(frozen=True)
class ComparedCaptions:
    """The statistics of n captions, from which scores of corpora are computed.

    Args:
        bleu: matching n-grams, n-grams (n = 1 to 4 each), words of the caption, and of its reference, `(n, 10)`.
        rouge_l, cider: `(n,)`.
        meteor: `meteor_statistics`, `(n, 23)`, or `None`.
        spice: `(n,)`, or `None`.
        defined: whether BLEU-1 to BLEU-4 and CIDEr are defined, `(n, 5)`.
        tokenizer, absent: as in `CaptionScores`.
    """

    bleu: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray
    meteor: np.ndarray | None
    spice: np.ndarray | None
    defined: np.ndarray
    tokenizer: str
    absent: dict[str, str]

    def scores(self, rows: Sequence[int] | None = None, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> CaptionScores:
        """Score all captions, or some rows of them, for which CIDEr's n-gram weights remain those of all."""
        statistics = self._statistics()
        if rows is not None:
            statistics = statistics[list(rows)]
        count = len(statistics)
        if not count:
            raise ValueError("rows must be at least one, got none")
        drawn = self._defined_scores(bootstrap.sums(statistics), count)
        values: dict[str, Any] = {"meteor": None, "spice": None}
        intervals = {}
        absent = {**self.absent}
        for name, value in self._defined_scores(statistics.sum(0), count).items():
            if not np.isfinite(value):
                reason = _UNDEFINED.get(name, "some captions give it nothing to compare")
                absent[name] = f"{name} was left out: {reason}"
                values[name] = None
                continue
            values[name] = float(value)
            if np.isfinite(drawn[name]).any():
                intervals[name] = bootstrap.interval(drawn[name])
        return CaptionScores(
            **values,
            count=count,
            tokenizer=self.tokenizer,
            absent=absent,
            intervals=intervals,
        )

    def each(self) -> dict[str, np.ndarray]:
        """Return the scores of each caption, `(n,)` each; CIDEr's as in its corpus, NaN where it is undefined."""
        scores = self._scores(self._statistics(), 1)
        return {**scores, "cider": np.where(self.defined[:, 4], scores["cider"], np.nan)}

    def _statistics(self) -> np.ndarray:
        """Return all statistics side by side, `(n, k)`, in the order of `_scores`."""
        columns = [self.bleu, self.rouge_l[:, None], self.cider[:, None], self.defined]
        if self.meteor is not None:
            columns.append(self.meteor)
        if self.spice is not None:
            columns.append(self.spice[:, None])
        return np.concatenate(columns, axis=1)

    def _scores(self, sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
        """Return the scores of corpora of `count` captions from their summed statistics, `(..., k)`."""
        bleu = bleu_scores(sums[..., :10])
        scores = {
            "bleu_1": bleu[..., 0],
            "bleu_2": bleu[..., 1],
            "bleu_3": bleu[..., 2],
            "bleu_4": bleu[..., 3],
            "rouge_l": sums[..., 10] / count,
            "cider": sums[..., 11] / count,
        }
        if self.meteor is not None:
            scores["meteor"] = meteor_scores(sums[..., 17:40])
        if self.spice is not None:
            scores["spice"] = sums[..., -1] / count
        return scores

    def _defined_scores(self, sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
        """Return the same, NaN where a score is undefined for every caption."""
        scores = self._scores(sums, count)
        has_words = sums[..., 8] > 0  # without any words, BLEU is 0 by its brevity penalty
        for n in range(4):
            is_undefined = has_words & (sums[..., 12 + n] == 0)
            scores[f"bleu_{n + 1}"] = np.where(is_undefined, np.nan, scores[f"bleu_{n + 1}"])
        scores["cider"] = np.where(sums[..., 16] == 0, np.nan, scores["cider"])
        return scores


def compare_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str | None = None
) -> ComparedCaptions:
    """Compare each generated caption with its references.

    Args:
        predictions: any text; one without a word scores 0.
        references: at least one for each caption, each with at least one word.
        tokenizer: as in `tokenize_captions`; `"ptb"` where Java runs, else `"words"`, when absent.

    Raises:
        ValueError: if there are no captions, not as many as references, or if a reference is missing or has no word.
        ImportError: if the caption benchmark's package is not installed.

    Source: github.com/salaniz/pycocoevalcap 1.2, which computes all of them.
    """
    benchmark_folder()
    tokenizer = tokenizer or best_tokenizer()
    candidates, targets = _tokenize(predictions, references, tokenizer)
    return compare_tokens(candidates, targets, tokenizer)


def compare_tokens(candidates: Sequence[str], targets: Sequence[Sequence[str]], tokenizer: str) -> ComparedCaptions:
    """Compare tokenized captions; other errors and source as of `compare_captions`.

    Args:
        candidates: tokenized captions.
        targets: tokenized references of each, none of them empty.
        tokenizer: that of the words.
    """
    benchmark_folder()
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {}
    res = {}
    for index, (candidate, texts) in enumerate(zip(candidates, targets, strict=True)):
        gts[index] = list(texts)
        res[index] = [candidate]
    _, rouge_l = Rouge().compute_score(gts, res)
    _, cider = Cider().compute_score(gts, res)
    in_java = {}
    absent = {}
    for name, measure in (("meteor", meteor_statistics), ("spice", spice_scores)):
        try:
            if tokenizer != "ptb":
                raise MetricUnavailable("it compares words of the tokenizer 'ptb', which needs Java")
            in_java[name] = measure(candidates, targets)
        except MetricUnavailable as reason:
            absent[name] = f"{name} was left out: {reason}"
    return ComparedCaptions(
        bleu=bleu_counts(candidates, targets),
        rouge_l=np.asarray(rouge_l),
        cider=np.asarray(cider),
        meteor=in_java.get("meteor"),
        spice=in_java.get("spice"),
        defined=_defined(candidates, targets),
        tokenizer=tokenizer,
        absent=absent,
    )


def _tokenize(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> tuple[list[str], list[list[str]]]:
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"predictions must be as many as lists of references, at least one, "
            f"got {len(predictions)} and {len(references)}"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"references must be a list for each caption, got {texts!r} for number {index}")
    tokens = tokenize_captions([*predictions, *chain(*references)], tokenizer)
    targets = []
    end = len(predictions)
    for index, texts in enumerate(references):
        start = end
        end += len(texts)
        targets.append(tokens[start:end])
        if not all(targets[index]):
            raise ValueError(f"every reference must have a word, got {list(texts)} for caption {index}")
    return tokens[: len(predictions)], targets


def _defined(candidates: Sequence[str], targets: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for which captions BLEU-1 to BLEU-4 and CIDEr are defined, `(n, 5)`.

    BLEU-n needs a caption or a reference of n words. CIDEr needs a reference with an n-gram that has a weight: one
    that the references of some other caption lack.
    """
    grams = [set().union(*map(_n_grams, texts)) for texts in targets]
    everywhere = set.intersection(*grams)
    rows = []
    for candidate, texts, held in zip(candidates, targets, grams, strict=True):
        longest = max(len(text.split()) for text in (candidate, *texts))
        has_weight = bool(held - everywhere)
        rows.append([longest >= 1, longest >= 2, longest >= 3, longest >= 4, has_weight])
    return np.array(rows, dtype=float)


def _n_grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    grams: set[tuple[str, ...]] = set()
    for n in (1, 2, 3, 4):
        grams.update(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return grams


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Count n-grams of tokenized captions for `bleu_scores`, `(n, 10)`."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for prediction, texts in zip(predictions, references, strict=True):
        scorer += (prediction, texts)
    counts = []
    for caption in scorer.ctest:
        length = caption["testlen"]
        _, closest = min((abs(other - length), other) for other in caption["reflen"])
        counts.append([*caption["correct"], *caption["guess"], length, closest])
    return np.array(counts, dtype=float)


def bleu_scores(counts: np.ndarray) -> np.ndarray:
    """Return BLEU-1 to BLEU-4 of captions or, from summed counts, of corpora: `(..., 10)` to `(..., 4)`.

    Source: Papineni et al. 2002; pycocoevalcap 1.2, `BleuScorer`, with its guards against zero.
    """
    matching = counts[..., 0:4]
    grams = counts[..., 4:8]
    length = counts[..., 8:9]
    reference = counts[..., 9:10]
    precision = np.cumprod((matching + _TINY) / (grams + _SMALL), axis=-1)
    ratio = (length + _TINY) / (reference + _SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return precision ** (1 / np.arange(1, 5)) * brevity
