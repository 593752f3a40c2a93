"""Table, picture and sentences from the records of a study's runs.

A record holds the measurements of one run: its `"scores"`, and those of a study's own. Records are listed by the label
of their row, one for each seed.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ....visualization import Picture, plot_bars, plot_curves
from .measuring import KINDS

Records = Mapping[str, Sequence[Mapping[str, Any]]]
Row = dict[str, str]

COLUMNS = {"mean_iou": "mIoU", "accuracy": "Acc@0.5", "picked": "right object", "unparsed": "unparsed"}
MOST_TOLD = ("mean_iou", "picked")
CLIPS = {"risk": "risk question", "description": "description question", "fresh": "before training"}
GIGA = 1e9
MEBI = 2**20


class Telling(NamedTuple):
    """How the records of a study are presented.

    Attributes:
        tabulate: returns the rows of the table.
        draw: draws the picture, under a title.
        values: returns comparable numbers by name, one for each seed.
        describe: returns further sentences.
    """

    tabulate: Callable[[Records], list[Row]]
    draw: Callable[[Records, str], Picture]
    values: Callable[[Records], dict[str, list[float]]]
    describe: Callable[[Records], list[str]] = lambda records: []


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean over the seeds and their standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows with the same keys as a Markdown table."""
    if not rows:
        return ""
    lines = [_markdown_row(rows[0]), "|" + "---|" * len(rows[0])]
    for row in rows:
        lines.append(_markdown_row(row.values()))
    return "\n".join(lines)


def _markdown_row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def compare(better: str, worse: str, values: Mapping[str, Sequence[float]]) -> str:
    """Write whether one row's values lie above another's as expected, below, or undecided.

    They are undecided if their means are nearer than one standard deviation of a difference between two seeds, and
    with one seed.
    """
    first = values[better]
    second = values[worse]
    difference = statistics.mean(first) - statistics.mean(second)
    expected = f"`{better}` above `{worse}`"
    if min(len(first), len(second)) < 2:
        return f"{expected}: undecided, they differ by {difference:+.3f}, and of the seeds there is one."
    deviation = math.hypot(statistics.stdev(first), statistics.stdev(second))
    if abs(difference) <= deviation:
        return f"{expected}: undecided, they differ by {difference:+.3f} and the seeds by {deviation:.3f}."
    if difference > 0:
        return f"{expected}: so it is, by {difference:.3f}."
    return f"{expected}: **not so**, it is below by {-difference:.3f}."


def score_values(records: Records) -> dict[str, list[float]]:
    """Return the mean IoU of each row, by seed."""
    return {label: _scores(runs, "mean_iou") for label, runs in records.items()}


def tabulate_scores(records: Records) -> list[Row]:
    """Return one row for each label, with the scores of its answers."""
    rows = []
    for label, runs in records.items():
        rows.append({"": label, **_cells(runs, COLUMNS), "seeds": str(len(runs))})
    return rows


def draw_scores(records: Records, title: str) -> Picture:
    """Draw mean IoU and the share of right objects of each row."""
    series = {}
    for name in MOST_TOLD:
        series[COLUMNS[name]] = {label: _scores(runs, name) for label, runs in records.items()}
    return plot_bars(series, title)


def degradation_values(records: Records) -> dict[str, list[float]]:
    """Return the share of the clean mean IoU that remains in `"row, kind"`, over the severities, by seed."""
    values = {}
    for label, runs in records.items():
        for kind in KINDS:
            values[f"{label}, {kind}"] = [_kept(run, kind) for run in runs]
    return values


def tabulate_degradation(records: Records) -> list[Row]:
    """Return one row for each state of the current frame, with the scores of all labels side by side."""
    rows = []
    for kind, severity, scores in _conditions(records):
        cells = {}
        for label, runs in scores.items():
            cells[f"{label}: mIoU"] = spread(_column(runs, "mean_iou"))
            cells[f"{label}: right object"] = spread(_column(runs, "picked"))
        rows.append({"current frame": kind, "severity": severity, **cells})
    return rows


def draw_degradation(records: Records, title: str) -> Picture:
    """Draw mean IoU against severity, a curve for each label and kind."""
    curves: dict[str, list[tuple[float, float]]] = {}
    clean, *degraded = _conditions(records)
    for kind, severity, scores in degraded:
        for label, runs in scores.items():
            start = [(0.0, statistics.mean(_column(clean.scores[label], "mean_iou")))]
            points = curves.setdefault(f"{label}, {kind}", start)
            points.append((float(severity), statistics.mean(_column(runs, "mean_iou"))))
    return plot_curves(curves, f"{title}: mIoU", "severity")


def tabulate_cost(records: Records) -> list[Row]:
    """Return one row for each label: the adapter's cost, in this model and at full size, and its scores."""
    rows = []
    for label, runs in records.items():
        cost = runs[0]["cost"]
        rows.append(
            {
                "": label,
                "adapter, GFLOPs": f"{cost['flops']['adapter'] / GIGA:.4f}",
                "to the first word, GFLOPs": f"{sum(cost['flops'].values()) / GIGA:.4f}",
                "adapter, MiB for 32 clips": _spread_memory(runs),
                "full size: adapter, GFLOPs": f"{cost['full_size_flops']['adapter'] / GIGA:.1f}",
                "full size: tower, GFLOPs": f"{cost['full_size_flops']['vision_tower'] / GIGA:.0f}",
                **_cells(runs, MOST_TOLD),
            }
        )
    return rows


def _spread_memory(runs: Sequence[Mapping[str, Any]]) -> str:
    measured = []
    for run in runs:
        used = run["cost"]["adapter_memory"]
        if used is not None:
            measured.append(used / MEBI)
    if not measured:
        return "not measured"
    return spread(measured, 1)


def draw_cost(records: Records, title: str) -> Picture:
    """Draw mean IoU against the operations of the adapter at full size, a curve for each choice of strides."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for label, runs in records.items():
        operations = runs[0]["cost"]["full_size_flops"]["adapter"] / GIGA
        score = statistics.mean(_scores(runs, "mean_iou"))
        curves.setdefault(label.split(", ", 1)[1], []).append((operations, score))
    return plot_curves(curves, f"{title}: mIoU", "GFLOPs of the adapter at full size, for the clip")


def tabulate_attention(records: Records) -> list[Row]:
    """Return one row for each branch at each stride: the share of the query's attention in each kind of clip."""
    (runs,) = records.values()
    measured = _column(runs, "attention")
    rows = []
    for context in measured[0]["risk"]:
        row = {"context": f"`{context}`"}
        for kind, column in CLIPS.items():
            row[column] = spread([masses[kind][context] for masses in measured])
        rows.append(row)
    return rows


def draw_attention(records: Records, title: str) -> Picture:
    """Draw the share of attention of each context in each kind of clip."""
    (runs,) = records.values()
    measured = _column(runs, "attention")
    short = {"temporal": "T", "divided_space_time": "DST", "joint_space_time": "JST"}
    series: dict[str, dict[str, list[float]]] = {column: {} for column in CLIPS.values()}
    for context in measured[0]["risk"]:
        branch, _, stride = context.partition("/stride_")
        for kind, column in CLIPS.items():
            series[column][f"{short[branch]} {stride}"] = [masses[kind][context] for masses in measured]
    return plot_bars(series, f"{title}: share of the attention")


def describe_attention(records: Records) -> list[str]:
    """Write how well the model answers each question: the attention of a bad model would mean little."""
    (runs,) = records.values()
    risk = spread(_scores(runs, "mean_iou"))
    described = spread(_column(_column(runs, "attention"), "described"))
    return [f"Risk question: mIoU {risk}. Description question: {described} of the answers are right to the letter."]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _scores(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return _column(_column(runs, "scores"), name)


def _cells(runs: Sequence[Mapping[str, Any]], names: Iterable[str]) -> Row:
    return {COLUMNS[name]: spread(_scores(runs, name)) for name in names}


def _kept(run: Mapping[str, Any], kind: str) -> float:
    left = statistics.mean(_column(list(run["degradation"][kind].values()), "mean_iou"))
    clean = run["scores"]["mean_iou"]
    if clean == 0:
        return 0.0
    return left / clean


class _Condition(NamedTuple):
    """A degradation of the current frame, and the scores of each label on it."""

    kind: str
    severity: str
    scores: dict[str, list[Any]]


def _conditions(records: Records) -> list[_Condition]:
    """Return the conditions under which the models were scored, the clean frame first."""
    first = next(iter(records.values()))[0]
    conditions = [_Condition("clean", "0", {label: _column(runs, "scores") for label, runs in records.items()})]
    for kind, severities in first["degradation"].items():
        for severity in severities:
            scores = {}
            for label, runs in records.items():
                scores[label] = [run["degradation"][kind][severity] for run in runs]
            conditions.append(_Condition(kind, severity, scores))
    return conditions


SCORES = Telling(tabulate_scores, draw_scores, score_values)
DEGRADATION = Telling(tabulate_degradation, draw_degradation, degradation_values)
COST = Telling(tabulate_cost, draw_cost, score_values)
ATTENTION = Telling(tabulate_attention, draw_attention, score_values, describe_attention)
