"""Laps of a stage clock as a table and a picture.

python benchmarks/stage_tables.py runs/*/results.json --output_dir runs/all      # several runs in one picture
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import save
from stage_clock import BACKWARD, CLOCKS, MEASURING, REST, Lap, merged

SAVING = "saving"
OPENING = "open and seek"
DECODING = "decode"
SHAPING = "convert and resize"
ORDER = f"""{OPENING}, {DECODING}, {SHAPING}, draw, text, collate, copy, tower, adapter: in_proj, adapter: x_proj,
adapter: dt_proj, adapter: out_proj, adapter: convolution, adapter: scan, adapter: fusion's linear layers,
adapter: rest, projector, language model: prefill, language model: token, language model: layers,
language model: head, model, generation, optimizer, {SAVING}, {MEASURING}""".replace("\n", " ").split(", ")
WHOLE_LAYERS = 32
LAYERS = ("language model: layers", "language model: prefill", "language model: token")


class Case(NamedTuple):
    """One column of a table.

    Args:
        name: of the column.
        laps: parted into stages.
        bare: of the same without stages.
        steps: of each lap.
        unit: what a step is.
        saved_every: laps from one saving to the next, where the command itself saves.
    """

    name: str
    laps: list[Lap]
    bare: list[Lap]
    steps: int = 1
    unit: str = "step"
    saved_every: int = 1


def summarise(case: Case) -> dict[str, Any]:
    """Return seconds of each stage and of the whole, by clock; `rest` closes the sum."""
    found: dict[str, Any] = {"case": case.name, "unit": case.unit, "laps": len(case.laps)}
    for clock in CLOCKS:
        parts = [merged(lap.stages[clock]) for lap in case.laps]
        names = dict.fromkeys(name for part in parts for name in part if name not in (REST, SAVING))
        spent = {name: statistics.median(part.get(name, 0.0) for part in parts) for name in names}
        saves = [part[SAVING] for part in parts if SAVING in part]
        saving = statistics.median(saves) / case.saved_every if saves else 0.0
        wholes = [lap.whole[clock] - part.get(SAVING, 0.0) for lap, part in zip(case.laps, parts, strict=True)]
        whole = statistics.median(wholes) + saving
        if saves:
            spent[SAVING] = saving
        spent[REST] = whole - sum(spent.values())
        gaps = [abs(sum(lap.stages[clock].values()) / lap.whole[clock] - 1) for lap in case.laps]
        found[clock] = {name: seconds / case.steps for name, seconds in spent.items()}
        found[f"{clock}, whole"] = whole / case.steps
        found[f"{clock}, gap"] = max(gaps)
        if case.bare:
            bare = [lap.whole[clock] for lap in case.bare]
            found[f"{clock}, bare"] = statistics.median(bare) / case.steps
    details: dict[str, list[float]] = {}
    for lap in case.laps:
        for name, seconds in lap.stages["processor"].items():
            details.setdefault(name, []).append(seconds / case.steps)
    found["details"] = {name: statistics.median(values) for name, values in details.items()}
    found["begun"] = {name: count / case.steps for name, count in case.laps[-1].counts.items()}
    return found


def with_all_layers(record: dict[str, Any], layers: int) -> dict[str, float]:
    """Reckon the whole with all layers of a language model of which some are there."""
    found = {}
    for clock in CLOCKS:
        in_layers = sum(seconds for name, seconds in record[clock].items() if name.startswith(LAYERS))
        found[f"{clock}, all layers"] = record[f"{clock}, whole"] + in_layers * (WHOLE_LAYERS / layers - 1)
    return found


def place_of(name: str) -> tuple[int, str]:
    """Order stages as the work goes."""
    places = [place for place, start in enumerate(ORDER) if name.startswith(start)]
    return max(places) if places else len(ORDER), name


def rows_of(records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Write a row for each stage, with a column of milliseconds for each case, on the clock of its device."""
    names = sorted({name for record in records for name in record[record["clock"]]}, key=place_of)
    rows = []
    for name in names:
        row = {"stage": name.replace(BACKWARD, " (backward)")}
        for record in records:
            clock = record["clock"]
            spent = record[clock].get(name)
            share = "" if spent is None else f" ({100 * spent / record[f'{clock}, whole']:.0f} %)"
            row[record["case"]] = written(spent) + share
        rows.append(row)
    labels = {"whole": "whole", "without stages": "bare"}
    if any("all layers" in key for record in records for key in record):
        labels[f"whole with {WHOLE_LAYERS} layers, reckoned"] = "all layers"
    for label, key in labels.items():
        row = {"stage": label}
        for record in records:
            row[record["case"]] = written(record.get(f"{record['clock']}, {key}"))
        rows.append(row)
    return rows


def written(seconds: float | None) -> str:
    """Write milliseconds, nothing for none."""
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.1f} ms" if abs(seconds) < 0.1 else f"{1e3 * seconds:,.0f} ms"


def draw(records: Sequence[dict[str, Any]], axis: Any) -> None:
    """Draw the shares of stages as stacked bars, the small ones together."""
    groups: list[dict[str, float]] = []
    for record in records:
        group: dict[str, float] = {}
        clock = record["clock"]
        for name, seconds in record[clock].items():
            label = name.replace(BACKWARD, "").partition(",")[0]
            label = "adapter: linear layers" if "_proj" in label or "linear" in label else label
            group[label] = group.get(label, 0.0) + max(100 * seconds / record[f"{clock}, whole"], 0)
        groups.append(group)
    labels = sorted({label for group in groups for label, share in group.items() if share >= 2}, key=place_of)
    left = np.zeros(len(groups))
    for i, label in enumerate([*labels, "others"]):
        widths = np.array([group.get(label, 0.0) for group in groups])
        if label == "others":
            widths = np.maximum(100 - left, 0)
        axis.barh(range(len(groups)), widths, left=left, label=label, color=f"C{i % 10}", hatch="" if i < 10 else "//")
        left = left + widths
    axis.set_yticks(
        range(len(groups)), [f"{record['command']}, {record['size']}\n{record['case']}" for record in records]
    )
    axis.invert_yaxis()
    axis.set(xlim=(0, 100), xlabel="% of the time")
    axis.legend(bbox_to_anchor=(0.5, -0.12), loc="upper center", ncols=3)


def main() -> None:
    """Draw several runs of `where_time_goes.py` in one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of runs")
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args()
    records = [record for path in args.results for record in json.loads(path.read_text())["records"]]
    save(args.output_dir, {"records": records}, {"where_time_goes": partial(draw, records)})


if __name__ == "__main__":
    main()
