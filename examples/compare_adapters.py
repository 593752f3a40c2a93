"""Fine-tune the same base with different adapters and seeds, and compare what they ground on held-out clips.

    python examples/compare_adapters.py --adapters mamba none mean --seeds 0 1 2

The base is `examples/micro_base`, the clips are the micro-world's: only motion tells which road user is the risk. A
run that is already on disk is not repeated. Prints a table, and writes it to `table.md`.
The micro-world's numbers say nothing about real roads.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent
BASE = EXAMPLES / "micro_base"


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", nargs="+", default=["mamba", "none", "mean"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning, with 32 clips each")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to evaluate on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/adapters"))
    args = parser.parse_args()

    table = ["| adapter | mIoU | Acc@0.5 | unparsed | seeds |", "|---|---|---|---|---|"]
    for adapter in args.adapters:
        scores = []
        for seed in args.seeds:
            folder = args.output_dir / f"{adapter}-{seed}-{args.steps}"
            scores.append(learn_and_score(folder, adapter, seed, args.steps, args.clips))
        columns = [spread([score[name] for score in scores]) for name in ("mean_iou", "accuracy", "unparsed")]
        table.append(f"| {adapter} | {' | '.join(columns)} | {len(scores)} |")
    (args.output_dir / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(["", *table, "", "The micro-world's numbers: they say nothing about real roads."]))


def learn_and_score(folder: Path, adapter: str, seed: int, steps: int, clips: int) -> dict[str, float]:
    """Fine-tune the base with a fresh adapter and evaluate it, unless that is done; return the scores."""
    metrics = folder / f"test-{clips}" / "metrics.json"
    if metrics.exists():
        print(f"{metrics} is there: {folder} is not trained again")
    else:
        finetune(folder, adapter, seed, steps)
        run("evaluate.py", model=folder, max_samples=clips, output_dir=metrics.parent)
    return json.loads(metrics.read_text())["scores"]


def finetune(folder: Path, adapter: str, seed: int, steps: int) -> None:
    """Fine-tune the base on clips whose risk only motion tells."""
    run(
        "finetune.py",
        launcher=["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "no"],
        model_name_or_path=BASE,
        adapter=adapter,
        output_dir=folder,
        max_steps=steps,
        seed=seed,
        per_device_train_batch_size=32,
        learning_rate=5e-4,
        adapter_learning_rate=2e-3,
        warmup_steps=20,
        logging_steps=10,
        save_strategy="no",
        dataloader_num_workers=1,
        use_cpu=True,
    )


def run(script: str, launcher: list[str] | None = None, **options: object) -> None:
    """Print and run one of the examples, as a user would type it."""
    words = [*(launcher or []), str(EXAMPLES / script)]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True)


def spread(values: list[float]) -> str:
    """Write the mean over the seeds and their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
