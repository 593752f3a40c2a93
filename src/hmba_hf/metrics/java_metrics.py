"""METEOR and SPICE, which the caption benchmark computes in Java."""

import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np

from .caption_tokens import MetricUnavailable, benchmark_folder, require_java

# The parameters of METEOR 1.5 for English ("rank"), which its jar uses when none are given.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase


def meteor_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Match each caption with the best of its references, `(n, 23)`: what `meteor_scores` reads.

    Args:
        predictions: tokenized captions.
        references: tokenized references of each caption.

    Raises:
        MetricUnavailable: where there is no Java.
    """
    require_java("METEOR")
    command = ["java", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(command, cwd=benchmark_folder() / "meteor", **pipes) as process:
            try:
                pairs = zip(predictions, references, strict=True)
                statistics = np.array([_match(process, prediction, texts) for prediction, texts in pairs])
            finally:
                process.kill()  # it would wait for more lines
    except BrokenPipeError as error:
        raise MetricUnavailable("METEOR did not run: its Java ended early") from error
    # A caption that its reference repeats word for word is not fragmented, alone or among others.
    is_whole = (statistics[:, 21:23] == statistics[:, 0:2]).all(1) & (statistics[:, 20] == 1)
    statistics[is_whole, 20] = 0
    return statistics


def _match(process: subprocess.Popen, prediction: str, references: Sequence[str]) -> list[float]:
    """Ask for the statistics of one caption: one line there, one line back."""
    assert process.stdin is not None and process.stdout is not None
    # The separator between the parts of the line may not stand in one of them.
    parts = [text.replace("|||", " ") for text in (*references, prediction)]
    process.stdin.write((" ||| ".join(["SCORE", *parts]) + "\n").encode("utf-8", errors="replace"))
    process.stdin.flush()
    answer = process.stdout.readline().decode("utf-8")
    if not answer:
        raise BrokenPipeError
    numbers = [float(number) for number in answer.split()]
    assert len(numbers) == 23, f"expected 23 numbers from METEOR for {parts}, got {answer!r}"
    return numbers


def meteor_scores(statistics: np.ndarray) -> np.ndarray:
    """METEOR 1.5 of captions or, from summed statistics, of corpora: `(..., 23)` to `(...)`.

        P, R  = weighted matches / weighted length, of the caption and of its reference
        F     = 1 / (alpha / R + (1 - alpha) / P)
        score = F (1 - gamma (chunks / matched words)^beta)

    Source: Denkowski & Lavie 2014, "Meteor Universal"; the order of the statistics is that of `meteor-1.5.jar`.
    """
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]  # of caption and reference
    stages = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 4)  # (..., stage, content and function of both)
    chunks, matched = statistics[..., 20], statistics[..., 21:23]
    weights = np.array([_DELTA, _DELTA, 1 - _DELTA, 1 - _DELTA])
    weighted = np.einsum("...sk,s,k->...k", stages, _STAGE_WEIGHTS, weights)
    matches = weighted[..., 0:2] + weighted[..., 2:4]
    length = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matches / length, -1, 0)
        mean = 1 / (_ALPHA / recall + (1 - _ALPHA) / precision)
        fragmentation = chunks / matched.mean(-1)
    return np.nan_to_num(mean * (1 - _GAMMA * fragmentation**_BETA))


def spice_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """SPICE of each caption, `(n,)`; NaN where neither caption nor references hold anything to compare.

    Raises:
        MetricUnavailable: where there is no Java, or the parser that SPICE reads captions with is not there. Nothing
            is downloaded.
    """
    require_java("SPICE")
    folder = benchmark_folder() / "spice"
    if not (folder / "lib" / "stanford-corenlp-3.6.0-models.jar").exists():
        raise MetricUnavailable(
            "SPICE needs Stanford CoreNLP 3.6.0, which `python -m pycocoevalcap.spice.get_stanford_models` downloads"
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        _, scores = Spice().compute_score(
            {index: list(texts) for index, texts in enumerate(references)},
            {index: [text] for index, text in enumerate(predictions)},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise MetricUnavailable(f"SPICE did not run: {error}") from error
    return np.array([score["All"]["f"] for score in scores])
