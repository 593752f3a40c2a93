"""Generated captions against references, with the numbers of the COCO caption benchmark.

BLEU, METEOR and CIDEr are scores of a corpus: they are not means over captions, and never to be averaged over parts of
a corpus. What each caption adds to them is kept, so that resampled and smaller corpora cost no second comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Interval
from .caption_tokens import MetricUnavailable, benchmark_folder, best_tokenizer, tokenize_captions
from .java_metrics import meteor_scores, meteor_statistics, spice_scores

_SMALL, _TINY = 1e-9, 1e-15  # keep the benchmark's BLEU from dividing by zero


@dataclass(frozen=True)
class CaptionScores:
    """Scores of `count` captions, all from 0 to 1 but CIDEr, which goes to 10.

    Args:
        bleu_1, bleu_2, bleu_3, bleu_4: of the corpus, against the reference length closest to each caption's.
        rouge_l: mean F of the longest common subsequence, with beta 1.2.
        cider: mean CIDEr-D, with n-grams weighed by how many captions of the corpus have them in a reference; 0 for
            a corpus of one caption.
        meteor: METEOR 1.5 of the corpus; `None` with another tokenizer than `"ptb"`.
        spice: mean SPICE; `None` with another tokenizer than `"ptb"`, without its parser, or where a caption gives it
            nothing to compare.
        count: number of captions.
        tokenizer: what made words of the captions, see `tokenize_captions`.
        absent: for each score that is `None`, one sentence that says why.
        intervals: the bootstrap interval of each score that is a number. Whole captions are drawn, and BLEU and METEOR
            computed anew from what they hold; the n-gram weights of CIDEr stay those of the corpus.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float
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
    """What each of n captions adds to the scores of a corpus.

    Args:
        bleu: matching n-grams, n-grams (n = 1 to 4 each), words of the caption, and of its reference, `(n, 10)`.
        rouge_l, cider: `(n,)`.
        meteor: `meteor_statistics`, `(n, 23)`, or `None`.
        spice: `(n,)`, or `None`.
        tokenizer, absent: as in `CaptionScores`.
    """

    bleu: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray
    meteor: np.ndarray | None
    spice: np.ndarray | None
    tokenizer: str
    absent: dict[str, str]

    def scores(self, rows: Sequence[int] | None = None, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> CaptionScores:
        """Score all captions, or a slice of them, of which CIDEr's n-gram weights remain those of all."""
        statistics = self._statistics() if rows is None else self._statistics()[list(rows)]
        count = len(statistics)
        if not count:
            raise ValueError("captions are scored on at least one row, got none")
        values = {name: float(value) for name, value in self._scores(statistics.sum(0), count).items()}
        drawn = self._scores(bootstrap.sums(statistics), count)
        intervals = {
            name: bootstrap.interval(drawn[name])
            for name, value in values.items()
            if np.isfinite(value) and np.isfinite(drawn[name]).any()
        }
        absent = {**self.absent}
        for name, value in values.items():
            if not np.isfinite(value):
                absent[name] = f"{name} was left out: some captions give it nothing to compare"
        finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
        return CaptionScores(
            **{"meteor": None, "spice": None, **finite},  # type: ignore[arg-type]
            count=count,
            tokenizer=self.tokenizer,
            absent=absent,
            intervals=intervals,
        )

    def each(self) -> dict[str, np.ndarray]:
        """The scores of every caption by itself, `(n,)` each; CIDEr's as in its corpus."""
        return {name: np.asarray(values) for name, values in self._scores(self._statistics(), 1).items()}

    def _statistics(self) -> np.ndarray:
        """All of it side by side, `(n, k)`, in the order in which `_scores` takes it apart."""
        columns = [self.bleu, self.rouge_l[:, None], self.cider[:, None]]
        columns += [] if self.meteor is None else [self.meteor]
        columns += [] if self.spice is None else [self.spice[:, None]]
        return np.concatenate(columns, axis=1)

    def _scores(self, sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
        """The scores of corpora of `count` captions from their summed statistics, `(..., k)`."""
        bleu = bleu_scores(sums[..., :10])
        scores = {f"bleu_{n + 1}": bleu[..., n] for n in range(4)}
        scores |= {"rouge_l": sums[..., 10] / count, "cider": sums[..., 11] / count}
        if self.meteor is not None:
            scores["meteor"] = meteor_scores(sums[..., 12:35])
        if self.spice is not None:
            scores["spice"] = sums[..., -1] / count
        return scores


def compare_captions(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str | None = None
) -> ComparedCaptions:
    """Compare each generated caption with its references.

    Args:
        predictions: any text; one without a word scores nothing.
        references: at least one for each caption, each with at least one word.
        tokenizer: as in `tokenize_captions`; `"ptb"` where Java runs, else `"words"`, when absent.

    Raises:
        ValueError: if there are no captions, not as many as references, or if a reference is missing or has no word.
        ImportError: if the caption benchmark's package is not installed.

    Source: github.com/salaniz/pycocoevalcap 1.2, which counts and compares all of it.
    """
    benchmark_folder()
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokenizer = tokenizer or best_tokenizer()
    candidates, targets = _tokenize(predictions, references, tokenizer)
    gts = dict(enumerate(targets))
    res = {index: [candidate] for index, candidate in enumerate(candidates)}
    in_java, absent = {}, {}
    for name, measure in (("meteor", meteor_statistics), ("spice", spice_scores)):
        try:
            if tokenizer != "ptb":
                raise MetricUnavailable("it compares words of the tokenizer 'ptb', which needs Java")
            in_java[name] = measure(candidates, targets)
        except MetricUnavailable as reason:
            absent[name] = f"{name} was left out: {reason}"
    return ComparedCaptions(
        bleu=bleu_counts(candidates, targets),
        rouge_l=np.asarray(Rouge().compute_score(gts, res)[1]),
        cider=np.asarray(Cider().compute_score(gts, res)[1]),
        meteor=in_java.get("meteor"),
        spice=in_java.get("spice"),
        tokenizer=tokenizer,
        absent=absent,
    )


def _tokenize(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> tuple[list[str], list[list[str]]]:
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"expected as many predictions as lists of references, at least one, "
            f"got {len(predictions)} and {len(references)}"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a list of references for each caption, got {texts!r} for number {index}")
    flat = [text for texts in references for text in texts]
    tokens = tokenize_captions([*predictions, *flat], tokenizer)
    rest = iter(tokens[len(predictions) :])
    targets = [[next(rest) for _ in texts] for texts in references]
    for index, texts in enumerate(targets):
        if not all(texts):
            raise ValueError(f"every reference needs a word, got {list(references[index])} for caption {index}")
    return tokens[: len(predictions)], targets


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Count n-grams of tokenized captions for `bleu_scores`, `(n, 10)`."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for prediction, texts in zip(predictions, references, strict=True):
        scorer += (prediction, texts)
    counts = []
    for caption in scorer.ctest:
        length = caption["testlen"]
        closest = min((abs(other - length), other) for other in caption["reflen"])[1]
        counts.append([*caption["correct"], *caption["guess"], length, closest])
    return np.array(counts, dtype=float)


def bleu_scores(counts: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of captions or, from summed counts, of corpora: `(..., 10)` to `(..., 4)`.

    Source: Papineni et al. 2002; pycocoevalcap 1.2, `BleuScorer`, whose guards against zero are kept.
    """
    matching, grams, length, reference = counts[..., 0:4], counts[..., 4:8], counts[..., 8:9], counts[..., 9:10]
    precision = np.cumprod((matching + _TINY) / (grams + _SMALL), axis=-1)
    ratio = (length + _TINY) / (reference + _SMALL)
    brevity = np.exp(np.minimum(1 - 1 / ratio, 0))
    return precision ** (1 / np.arange(1, 5)) * brevity
