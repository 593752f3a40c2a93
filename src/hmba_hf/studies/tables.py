"""From the records of a study's runs to its table, its picture and what is to be said about them.

A record holds what was measured of one run: its `"scores"`, and more where a study measures more. Records come by the
label of their row, one for each seed.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..visualization import Picture, plot_bars, plot_curves
from .measuring import KINDS

Records = Mapping[str, Sequence[Mapping[str, Any]]]
Row = dict[str, str]

COLUMNS = {"mean_iou": "mIoU", "accuracy": "Acc@0.5", "picked": "right object", "unparsed": "unparsed"}
MOST_TOLD = ("mean_iou", "picked")
CLIPS = {"risk": "risk question", "description": "description question", "fresh": "before training"}
GIGA, MEBI = 1e9, 2**20


class Telling(NamedTuple):
    """How the records of a study are told.

    Attributes:
        tabulate: the rows of the table.
        draw: the picture, under a title.
        values: numbers by name, one for each seed, which may be compared.
        describe: further sentences.
    """

    tabulate: Callable[[Records], list[Row]]
    draw: Callable[[Records, str], Picture]
    values: Callable[[Records], dict[str, list[float]]]
    describe: Callable[[Records], list[str]] = lambda records: []


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean over the seeds and their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows with the same keys as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] if rows else []
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows])


def compare(better: str, worse: str, values: Mapping[str, Sequence[float]]) -> str:
    """Say whether one row's values lie above another's, as they were expected to, or not, or cannot be told apart.

    They cannot where their means are nearer than one standard deviation of a difference between two seeds, nor from
    one seed.
    """
    first, second = values[better], values[worse]
    difference = statistics.mean(first) - statistics.mean(second)
    expected = f"`{better}` above `{worse}`"
    if min(len(first), len(second)) < 2:
        return f"{expected}: undecided, they differ by {difference:+.3f}, and of the seeds there is one."
    deviations = [statistics.stdev(seeds) for seeds in (first, second)]
    if abs(difference) <= math.hypot(*deviations):
        return (
            f"{expected}: undecided, they differ by {difference:+.3f} and the seeds by {math.hypot(*deviations):.3f}."
        )
    if difference > 0:
        return f"{expected}: so it is, by {difference:.3f}."
    return f"{expected}: **not so**, it is below by {-difference:.3f}."


def score_values(records: Records) -> dict[str, list[float]]:
    """The mean IoU of each row, by seed."""
    return {label: [record["scores"]["mean_iou"] for record in runs] for label, runs in records.items()}


def tabulate_scores(records: Records) -> list[Row]:
    """One row for each label, with the scores of its answers."""
    return [{"": label, **_cells(runs, COLUMNS), "seeds": str(len(runs))} for label, runs in records.items()]


def draw_scores(records: Records, title: str) -> Picture:
    """Draw mean IoU and the share of right objects of each row."""
    series = {
        COLUMNS[name]: {label: [run["scores"][name] for run in runs] for label, runs in records.items()}
        for name in MOST_TOLD
    }
    return plot_bars(series, title)


def degradation_values(records: Records) -> dict[str, list[float]]:
    """The share of its clean mean IoU that is left of `"row, kind"`, over the severities, by seed."""
    return {
        f"{label}, {kind}": [_kept(run, kind) for run in runs] for label, runs in records.items() for kind in KINDS
    }


def tabulate_degradation(records: Records) -> list[Row]:
    """One row for each state of the current frame, with the scores of each label beside each other."""
    rows = []
    for kind, severity, scores in _conditions(records):
        cells = {}
        for label, runs in scores.items():
            cells[f"{label}: mIoU"] = spread([run["mean_iou"] for run in runs])
            cells[f"{label}: right object"] = spread([run["picked"] for run in runs])
        rows.append({"current frame": kind, "severity": severity, **cells})
    return rows


def draw_degradation(records: Records, title: str) -> Picture:
    """Draw mean IoU against severity, a curve for each label and kind."""
    curves: dict[str, list[tuple[float, float]]] = {}
    clean, *spoilt = _conditions(records)
    for kind, severity, scores in spoilt:
        for label, runs in scores.items():
            start = [(0.0, statistics.mean(run["mean_iou"] for run in clean[2][label]))]
            points = curves.setdefault(f"{label}, {kind}", start)
            points.append((float(severity), statistics.mean(run["mean_iou"] for run in runs)))
    return plot_curves(curves, f"{title}: mIoU", "severity")


def tabulate_cost(records: Records) -> list[Row]:
    """One row for each label: what the adapter costs, in this model and at full size, and what it scores."""
    rows = []
    for label, runs in records.items():
        cost = runs[0]["cost"]
        memory = [run["cost"]["adapter_memory"] / MEBI for run in runs if run["cost"]["adapter_memory"] is not None]
        rows.append(
            {
                "": label,
                "adapter, GFLOPs": f"{cost['flops']['adapter'] / GIGA:.4f}",
                "to the first word, GFLOPs": f"{sum(cost['flops'].values()) / GIGA:.4f}",
                "adapter, MiB for 32 clips": spread(memory, 1) if memory else "not measured",
                "full size: adapter, GFLOPs": f"{cost['full_size_flops']['adapter'] / GIGA:.1f}",
                "full size: tower, GFLOPs": f"{cost['full_size_flops']['vision_tower'] / GIGA:.0f}",
                **_cells(runs, MOST_TOLD),
            }
        )
    return rows


def draw_cost(records: Records, title: str) -> Picture:
    """Draw mean IoU against the operations of the adapter at full size, a curve for each choice of strides."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for label, runs in records.items():
        operations = runs[0]["cost"]["full_size_flops"]["adapter"] / GIGA
        score = statistics.mean(run["scores"]["mean_iou"] for run in runs)
        curves.setdefault(label.split(", ", 1)[1], []).append((operations, score))
    return plot_curves(curves, f"{title}: mIoU", "GFLOPs of the adapter at full size, for the clip")


def tabulate_attention(records: Records) -> list[Row]:
    """One row for each branch at each stride: the share of the query's attention in either kind of clip."""
    (runs,) = records.values()
    measured = [run["attention"] for run in runs]
    rows = []
    for context in measured[0]["risk"]:
        cells = {column: spread([m[kind][context] for m in measured]) for kind, column in CLIPS.items()}
        rows.append({"context": f"`{context}`", **cells})
    return rows


def draw_attention(records: Records, title: str) -> Picture:
    """Draw the share of attention of each context in either kind of clip."""
    (runs,) = records.values()
    measured = [run["attention"] for run in runs]
    short = {"temporal": "T", "divided_space_time": "DST", "joint_space_time": "JST"}
    names = {context: f"{short[context.split('/')[0]]} {context.split('_')[-1]}" for context in measured[0]["risk"]}
    series = {
        column: {name: [m[kind][context] for m in measured] for context, name in names.items()}
        for kind, column in CLIPS.items()
    }
    return plot_bars(series, f"{title}: share of the attention")


def describe_attention(records: Records) -> list[str]:
    """Say how well the model answers either question, without which its attention would mean little."""
    (runs,) = records.values()
    risk = spread([run["scores"]["mean_iou"] for run in runs])
    described = spread([run["attention"]["described"] for run in runs])
    return [f"Risk question: mIoU {risk}. Description question: {described} of the answers are right to the letter."]


def _cells(runs: Sequence[Mapping[str, Any]], names: Iterable[str]) -> Row:
    return {COLUMNS[name]: spread([run["scores"][name] for run in runs]) for name in names}


def _kept(run: Mapping[str, Any], kind: str) -> float:
    left = statistics.mean(scores["mean_iou"] for scores in run["degradation"][kind].values())
    clean = run["scores"]["mean_iou"]
    return left / clean if clean else 0.0


def _conditions(records: Records) -> list[tuple[str, str, dict[str, list[Any]]]]:
    """List kind, severity and the scores by label, the clean frame first."""
    (first, *_), *_ = records.values()
    conditions: list[tuple[str, str, dict[str, list[Any]]]] = [
        ("clean", "0", {label: [run["scores"] for run in runs] for label, runs in records.items()})
    ]
    for kind, severities in first["degradation"].items():
        for severity in severities:
            scores = {k: [run["degradation"][kind][severity] for run in runs] for k, runs in records.items()}
            conditions.append((kind, severity, scores))
    return conditions


SCORES = Telling(tabulate_scores, draw_scores, score_values)
DEGRADATION = Telling(tabulate_degradation, draw_degradation, degradation_values)
COST = Telling(tabulate_cost, draw_cost, score_values)
ATTENTION = Telling(tabulate_attention, draw_attention, score_values, describe_attention)
