"""Are linear layers of tower and adapter faster with weights of 8 bits? Each one beside float32 and bfloat16.

    python benchmarks/int8_linear.py --repeats 9

Layers have the widths of H-MBA 7B with the paper's preset and CLIP ViT-L/14, inputs the rows of one frame and of a
clip of five. Weights have a scale for each output; inputs keep their dtype.

- `float32`: the product of `ops_linear`. `float32, MKL`: torch's own.
- `bfloat16`: torch's `linear`.
- `int8 beside bfloat16`: torch's `_weight_int8pack_mm`, which reads weights of 8 bits as they are.
- `int8 made float32`, `int8 made bfloat16`: weights are widened at each call, and then multiplied, as quantised layers
  do where no kernel fits.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import hardware, in_turns, markdown, milliseconds, ratio, save
from torch import Tensor

from hmba_hf.models.ops_linear import linear

# Inputs and outputs, by the layers that have them.
LAYERS = {
    "adapter, in_proj": (1024, 4096),
    "adapter, x_proj": (2048, 96),
    "adapter, dt_proj": (64, 2048),
    "adapter, out_proj": (2048, 1024),
    "tower, attention": (1024, 1024),
    "tower, fc1": (1024, 4096),
    "tower, fc2": (4096, 1024),
}
OURS = "float32"


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of 8 bits, `(out, in)`, and the scale of each output, `(out,)`."""
    scales = weight.abs().amax(1) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def widened(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Multiply by weights of 8 bits that are widened first."""
    multiply = linear if x.dtype == torch.float32 else F.linear
    return multiply(x, weight.to(x.dtype)) * scales.to(x.dtype)


def products(width: int, outputs: int, rows: int) -> dict[str, Callable[[], Tensor]]:
    """All ways to one product, by name."""
    x = torch.randn(rows, width)
    weight = torch.randn(outputs, width) / width**0.5
    packed, scales = quantised(weight)
    narrow = x.bfloat16()
    return {
        OURS: partial(linear, x, weight),
        "float32, MKL": partial(F.linear, x, weight),
        "bfloat16": partial(F.linear, narrow, weight.bfloat16()),
        "int8 beside bfloat16": partial(torch._weight_int8pack_mm, narrow, packed, scales.bfloat16()),
        "int8 made float32": partial(widened, x, packed, scales),
        "int8 made bfloat16": partial(widened, narrow, packed, scales),
    }


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time of each way over ours, a group for each layer."""
    names = list(records[0]["ratios"])
    for place, name in enumerate(names):
        heights = [record["ratios"][name] for record in records]
        axis.bar(np.arange(len(records)) + 0.8 * place / len(names), heights, 0.8 / len(names), label=name)
    titles = [f"{record['layer']}\n{record['rows']} rows" for record in records]
    axis.set_xticks(np.arange(len(records)) + 0.4, titles, fontsize=6, rotation=45)
    axis.set_ylabel("time, float32 = 1")
    axis.set_yscale("log")
    axis.legend(fontsize=8)


def main() -> None:
    """Time every product in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[256, 1280], help="of the inputs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{hardware()}; one thread, processor's time, medians of {args.repeats} turns\n")
    records = []
    for rows in args.rows:
        for layer, (width, outputs) in LAYERS.items():
            runs = products(width, outputs, rows)
            wanted = runs[OURS]()
            times = in_turns(runs, args.repeats, clock=time.process_time)
            ratios = {name: ratio(spent, times[OURS]) for name, spent in times.items()}
            errors = {name: float((run() - wanted).norm() / wanted.norm()) for name, run in runs.items()}
            record = {"layer": layer, "rows": rows, "times": times, "ratios": ratios, "errors": errors}
            records.append(record)
    shown = []
    for record in records:
        row = {"layer": record["layer"], "rows": record["rows"], "float32": milliseconds(record["times"][OURS])}
        shown.append(row | {name: f"{value:.2f}" for name, value in record["ratios"].items() if name != OURS})
    print(markdown(shown))
    largest = {name: max(record["errors"][name] for record in records) for name in records[0]["errors"]}
    print("\nLargest error: " + ", ".join(f"{name} {error:.1e}" for name, error in largest.items()))
    save(args.output_dir, records, {"int8_linear": partial(draw, records)})


if __name__ == "__main__":
    main()
