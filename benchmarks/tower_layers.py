"""How much of a vision tower's time is saved by not running the layers behind the one that is read?

    python benchmarks/tower_layers.py

The tower has the size of CLIP ViT-L/14 and random weights, and sees one frame and a clip of five. One run reads the
second-to-last layer out of the states of a run of all layers, the other one runs no further than that layer, as models
do. Both give the same states to the bit, or the program ends with an error.
"""

import argparse
import time
from functools import partial
from typing import Any

import torch
from measuring import hardware, in_turns, markdown, milliseconds, ratio
from torch import Tensor
from transformers import AutoModel

from hmba_hf import HMBAConfig
from hmba_hf.models.layers_vision_tower import read_layer


def read_of_all(tower: Any, frames: Tensor, layer: int) -> Tensor:
    """The states of a layer, of a run of all."""
    states: Tensor = tower(frames, output_hidden_states=layer).hidden_states[layer]
    return states


def read_alone(tower: Any, frames: Tensor, layer: int) -> Tensor:
    """The states of a layer, of a run that ends there."""
    return read_layer(tower, frames, layer)[1]


@torch.no_grad()
def main() -> None:
    """Time both runs in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 5], help="that the tower sees at once")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--layers", type=int, help="of the tower, in place of its own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = HMBAConfig()
    layer = config.vision_feature_layer
    seen: Any = config.vision_config
    seen.num_hidden_layers = args.layers or seen.num_hidden_layers
    tower = AutoModel.from_config(seen).eval()
    print(f"{hardware()}; one thread, processor's time, medians of {args.repeats} turns\n")
    rows = []
    for count in args.frames:
        frames = torch.randn(count, seen.num_channels, seen.image_size, seen.image_size)
        runs = {
            "all layers": partial(read_of_all, tower, frames, layer),
            "read": partial(read_alone, tower, frames, layer),
        }
        if not torch.equal(*(run() for run in runs.values())):
            raise SystemExit("both runs must give the same states, got others")
        times = in_turns(runs, args.repeats, clock=time.process_time)
        row = {"frames": count} | {name: milliseconds(spent) for name, spent in times.items()}
        rows.append(row | {"ratio": f"{ratio(times['read'], times['all layers']):.3f}"})
    print(markdown(rows))


if __name__ == "__main__":
    main()
