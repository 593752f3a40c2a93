"""METEOR and SPICE, which the caption benchmark computes in Java."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .caption_tokens import MetricUnavailable, ask_java, benchmark_folder, java_errors, require_java, run_java

# The parameters of METEOR 1.5 for English ("rank"), its jar's defaults.
_ALPHA = 0.85
_BETA = 0.2
_GAMMA = 0.6
_DELTA = 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_OF_CAPTION_AND_MATCHES = [0, 2, *range(4, 23)]  # statistics that are 0 for a caption without a word


def meteor_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Match each caption with the best of its references: the statistics of `meteor_scores`, `(n, 23)`.

    METEOR matches only captions with a word. For any other it counts the words of the first reference.

    Args:
        predictions: tokenized captions.
        references: tokenized references of each caption.

    Raises:
        MetricUnavailable: where there is no Java, or where METEOR fails or takes too long.
    """
    lines = []
    for prediction, texts in zip(predictions, references, strict=True):
        lines.append(_meteor_line(prediction, texts))
    command = ["-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        answers = ask_java("METEOR", command, lines, folder=benchmark_folder() / "meteor")
    except MetricUnavailable:
        raise
    except RuntimeError as error:
        raise MetricUnavailable("METEOR did not run: its Java ended early") from error
    rows = []
    for line, answer in zip(lines, answers, strict=True):
        rows.append(_read_meteor(line, answer))
    statistics = np.array(rows)
    is_empty = np.array([not prediction.strip() for prediction in predictions])
    statistics[np.ix_(is_empty, _OF_CAPTION_AND_MATCHES)] = 0
    # A caption equal to its reference is not fragmented, alone or among others.
    is_whole = (statistics[:, 21:23] == statistics[:, 0:2]).all(1) & (statistics[:, 20] == 1)
    statistics[is_whole, 20] = 0
    return statistics


def _meteor_line(prediction: str, references: Sequence[str]) -> str:
    """Write the request for one caption's statistics, or, without a word, its first reference's against itself."""
    if prediction.strip():
        texts = [*references, prediction]
    else:
        texts = [references[0], references[0]]
    parts = ["SCORE"]
    for text in texts:
        # No part may hold the separator of parts, or an end of the line.
        parts.append(text.replace("|||", " ").replace("\r", " ").replace("\n", " "))
    return " ||| ".join(parts)


def _read_meteor(line: str, answer: str) -> list[float]:
    try:
        numbers = [float(number) for number in answer.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 23:
        raise MetricUnavailable(f"METEOR must answer 23 numbers for {line!r}, got {answer!r}")
    return numbers


def meteor_scores(statistics: np.ndarray) -> np.ndarray:
    """Return METEOR 1.5 of captions or, from summed statistics, of corpora: `(..., 23)` to `(...)`.

    NaN where METEOR finds no word in the reference.

        P, R  = weighted matches / weighted length, of the caption and of its reference
        F     = 1 / (alpha / R + (1 - alpha) / P)
        score = F (1 - gamma (chunks / matched words)^beta)

    Source: Denkowski & Lavie 2014, "Meteor Universal"; the order of the statistics is that of `meteor-1.5.jar`.
    """
    lengths = statistics[..., 0:2]  # of caption and reference
    function_words = statistics[..., 2:4]
    stages = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 4)  # (..., stage, content and function of both)
    chunks = statistics[..., 20]
    matched = statistics[..., 21:23]
    weights = np.array([_DELTA, _DELTA, 1 - _DELTA, 1 - _DELTA])
    weighted = np.einsum("...sk,s,k->...k", stages, _STAGE_WEIGHTS, weights)
    matches = weighted[..., 0:2] + weighted[..., 2:4]
    length = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matches / length, -1, 0)
        mean = 1 / (_ALPHA / recall + (1 - _ALPHA) / precision)
        fragmentation = chunks / matched.mean(-1)
    # Without a match, recall and fragmentation are 0 / 0, and the score is 0.
    scores = np.nan_to_num(mean * (1 - _GAMMA * fragmentation**_BETA))
    return np.where(lengths[..., 1] > 0, scores, np.nan)


def spice_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return SPICE of each caption, `(n,)`; NaN where neither caption nor references hold anything to compare.

    Raises:
        MetricUnavailable: without Java or SPICE's parser of captions, or if SPICE fails or takes too long. Nothing is
            downloaded.

    Source: github.com/salaniz/pycocoevalcap 1.2, `spice/spice.py`, with its jar, arguments and cache.
    Differs: there, SPICE has no time limit, and its files stay beside the jar when it fails.
    """
    require_java("SPICE")
    folder = benchmark_folder() / "spice"
    if not (folder / "lib" / "stanford-corenlp-3.6.0-models.jar").exists():
        raise MetricUnavailable(
            "SPICE needs Stanford CoreNLP 3.6.0, which `python -m pycocoevalcap.spice.get_stanford_models` downloads"
        )
    asked: list[dict[str, Any]] = []
    for text, texts in zip(predictions, references, strict=True):
        asked.append({"image_id": len(asked), "test": text, "refs": list(texts)})
    try:
        (folder / "cache").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            answered = _ask_spice(asked, Path(place), folder)
    except (OSError, ValueError) as error:
        raise MetricUnavailable(f"SPICE did not run: {error}") from error
    found = {item["image_id"]: item["scores"]["All"]["f"] for item in answered}
    return np.array([found[number] for number in range(len(asked))], dtype=float)  # NaN for `None`


def _ask_spice(asked: list[dict[str, Any]], place: Path, folder: Path) -> list[dict[str, Any]]:
    """Score captions by the jar in `folder`, through files in `place`."""
    question = place / "asked.json"
    answer = place / "answered.json"
    question.write_text(json.dumps(asked), encoding="utf-8")
    files = [str(question), "-cache", str(folder / "cache"), "-out", str(answer)]
    size = sum(1 + len(item["refs"]) for item in asked)
    arguments = ["-jar", "-Xmx8G", "spice-1.0.jar", *files, "-subset", "-silent"]
    done = run_java("SPICE", arguments, size, folder=folder)
    if done.returncode:
        raise MetricUnavailable(
            f"SPICE did not run: Java ended with exit status {done.returncode}: {java_errors(done)}"
        )
    return json.loads(answer.read_text(encoding="utf-8"))
