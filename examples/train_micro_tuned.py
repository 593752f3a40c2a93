"""Make `src/hmba_hf/micro_tuned`, the small tuned model that gives the first answer of `hmba demo`.

    python examples/train_micro_tuned.py --output_dir src/hmba_hf/micro_tuned

It is the H-MBA of the paper preset, fine-tuned as for the studies and then stored in bfloat16. Where `--run_dir` holds
the same training, that one is taken.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor

from hmba_hf.commands.demo import ask, quiet
from hmba_hf.commands.study import learn
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.families import load_model

CARD = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
license: apache-2.0
tags: [hmba, micro-world]
---
# The micro base, tuned

An H-MBA model of {parameters:,} parameters in bfloat16, of the paper preset. It gives the first answer of `hmba demo`,
before that trains a smaller one.

It learned from the micro base, in {steps} steps with seed 0, by a program that comes with the source of
hmba-hf. It was evaluated on {clips} held-out clips of the micro-world, of which one in four is right by chance:

| mIoU | Acc@0.5 | right road user |
|---|---|---|
| {mean_iou:.3f} | {accuracy:.3f} | {picked:.3f} |

To score it again, up to two thousandths, with this folder as MODEL:

    hmba evaluate --model MODEL --dataset_name micro-world --split test --max_samples {clips} --output_dir scores

These numbers hold for the micro-world alone. The model's answers about real roads are worth nothing.
"""


def main() -> None:
    """Train the model, make it small, and save it with its processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to evaluate on")
    parser.add_argument("--run_dir", type=Path, default=Path("runs/micro_tuned"))
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    held_out = MicroWorld(MicroWorldConfig(), "test", args.clips)[:]
    learn(args.run_dir, {"adapter": "mamba"}, seed=0, steps=args.steps)
    count = save_small(args.run_dir, args.output_dir)
    with quiet(), tqdm(unit="batch") as bar:
        scores = ask(args.output_dir, held_out, bar)
    card = CARD.format(
        parameters=count,
        steps=args.steps,
        clips=args.clips,
        mean_iou=scores["mIoU"],
        accuracy=scores["Acc@0.5"],
        picked=scores["right road user"],
    )
    (args.output_dir / "README.md").write_text(card)


def save_small(model: Path, folder: Path) -> int:
    """Save a model in bfloat16, without the code that a checkpoint carries; return its number of parameters."""
    loaded = load_model(model)
    for name, weight in loaded.named_parameters():
        if not name.endswith("A_log"):
            weight.data = weight.data.to(torch.bfloat16)
    with tempfile.TemporaryDirectory() as whole:
        loaded.save_pretrained(whole)
        AutoProcessor.from_pretrained(model).save_pretrained(whole)
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(whole).iterdir():
            if file.suffix != ".py":
                shutil.copyfile(file, folder / file.name)
    return loaded.num_parameters()


if __name__ == "__main__":
    main()
