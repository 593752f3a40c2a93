"""Fine-tune the same base with different adapters and seeds, and compare what they ground on held-out clips.

    python examples/compare_adapters.py --adapters mamba none mean --seeds 0 1 2
    python examples/compare_adapters.py --adapters mamba --fusion add --output_dir runs/add

The base is `examples/micro_base`, the clips are the micro-world's: only motion tells which road user is the risk.
Options that `--help` does not name go to `finetune.py`. A run that is on disk is repeated only if its options or the
base have changed. Prints a table, and writes it to `table.md`. All of it runs on the CPU, also where there is a GPU:
the models are tiny, and the numbers of different machines can be compared.
The micro-world's numbers say nothing about real roads.
"""

import argparse
import hashlib
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = Path(__file__).parent
BASE = EXAMPLES / "micro_base"
SCORES = ("mean_iou", "accuracy", "picked", "unparsed")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--adapters", nargs="+", default=["mamba", "none", "mean"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, with 32 clips each")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to evaluate on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/adapters"))
    args, more = parser.parse_known_args()

    table = ["| adapter | mIoU | Acc@0.5 | right object | unparsed | seeds |", "|---|---|---|---|---|---|"]
    for adapter in args.adapters:
        scores = []
        for seed in args.seeds:
            folder = args.output_dir / f"{adapter}-{seed}-{args.steps}"
            scores.append(learn_and_score(folder, adapter, seed, args.steps, args.clips, more))
        columns = [spread([score[name] for score in scores]) for name in SCORES]
        table.append(f"| {adapter} | {' | '.join(columns)} | {len(scores)} |")
    (args.output_dir / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(["", *table, "", "The micro-world's numbers: they say nothing about real roads."]))


def learn_and_score(
    folder: Path, adapter: str, seed: int, steps: int, clips: int, more: Sequence[str] = ()
) -> dict[str, float]:
    """Fine-tune the base with a fresh adapter and evaluate it on the CPU, unless that is done; return the scores."""
    options = finetuning_options(adapter, seed, steps)
    weights = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    recipe = {"options": options, "more": list(more), "base": weights}
    record, metrics = folder / "recipe.json", folder / f"test-{clips}" / "metrics.json"
    if record.exists() and json.loads(record.read_text()) == recipe:
        print(f"{folder} is there and is not trained again")
    else:
        for stale in (record, *folder.glob("test-*/metrics.json")):
            stale.unlink(missing_ok=True)
        launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "no")
        run("finetune.py", *more, launcher=("-m", *launch), model_name_or_path=BASE, output_dir=folder, **options)
        record.write_text(json.dumps(recipe, indent=1))
    if not metrics.exists():
        how = {"device_map": "cpu", "tokenizer": "words", "overwrite": True}
        run("evaluate.py", model=folder, max_samples=clips, **how, output_dir=metrics.parent)
    return json.loads(metrics.read_text())["scores"]


def finetuning_options(adapter: str, seed: int, steps: int) -> dict[str, object]:
    """How to fine-tune on clips whose risk only motion tells."""
    gate = {"gate_learning_rate": 0.1} if adapter in ("mamba", "transformer") else {}
    return {
        "adapter": adapter,
        "max_steps": steps,
        "seed": seed,
        "per_device_train_batch_size": 32,
        "learning_rate": 5e-4,
        "adapter_learning_rate": 2e-3,
        **gate,
        "warmup_steps": 20,
        "logging_steps": 10,
        "save_strategy": "no",
        "dataloader_num_workers": 1,
        "use_cpu": True,
    }


def run(script: str, *words: str, launcher: Sequence[str] = (), **options: object) -> None:
    """Print and run one of the examples, as a user would type it."""
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [*launcher, str(EXAMPLES / script), *named, *words]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, *command], check=True)


def spread(values: list[float]) -> str:
    """Write the mean over the seeds and their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
