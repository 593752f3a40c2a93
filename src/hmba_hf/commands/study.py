"""Ablate the adapter on the micro-world: the paper's tables and further ones, from one command each.

    hmba study branches              # or several of: branches strides fusion baselines frames
    hmba study all                   #   degradation cost attention
    hmba study page                  # write the results at hand to studies.md in --output_dir

Each run fine-tunes the micro base with one thing of the paper preset changed, and answers about held-out clips.
Only motion distinguishes the risk from other road users. Studies share their runs. A run on disk is repeated only if
its options or the base have changed. A study can be stopped and started again at any time.

Each study prints a table and the places where the order expected from the paper's design does not hold. It writes
`table.md`, `results.json` and `plot.png` to its folder. All runs are on the CPU, also where there is a GPU: the models
are tiny, and numbers of different machines can be compared. The micro-world's numbers do not transfer to real roads.
"""

import argparse
import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from hmba_hf.commands.parsing import check_counts
from hmba_hf.data.micro_world.world import MOTIONS, MicroWorldConfig
from hmba_hf.files import read_json_object, write_json
from hmba_hf.messages import HelpFormatter, run_command
from hmba_hf.tasks.answering.studies import catalogue
from hmba_hf.tasks.answering.studies.catalogue import DISCLAIMER, Study, write_page

BASE = Path(__file__).parents[1] / "micro_base"
DEFAULTS = {"motion": "symmetric", "per_device_train_batch_size": 32}
PAGE = "studies.md"
STUDIES_HELP = f"{', '.join(catalogue.STUDIES)}, all, or page, which writes the results to --page"


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(prog="hmba study", description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "studies", nargs="+", choices=[*catalogue.STUDIES, "all", "page"], metavar="STUDY", help=STUDIES_HELP
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run each")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning; twice as many for two tasks")
    parser.add_argument("--batch_size", type=int, default=32, help="clips of a step")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to evaluate on")
    parser.add_argument("--motion", default=DEFAULTS["motion"], choices=MOTIONS, help="of the micro-world")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/studies"), help="for runs and results")
    parser.add_argument("--page", type=Path, help=f"what `page` writes; {PAGE} in --output_dir if absent")
    args = parser.parse_args(words)
    names = [name for name in args.studies if name != "page"]
    if args.page is not None and "page" not in args.studies:
        parser.error(f"--page must come with the word page, which writes it, got {' '.join(args.studies)}")
    if "all" in names:
        names = [*catalogue.STUDIES]
    check_counts(parser, args, "steps", "batch_size", "clips")
    if min(args.seeds) < 0:
        parser.error(f"--seeds must be zero or more, got {min(args.seeds)}")
    try:
        for name in names:
            for variant in catalogue.STUDIES[name].variants.values():
                MicroWorldConfig(motion=args.motion, num_frames=variant.get("num_frames", 5))
    except ValueError as error:
        parser.error(f"{name} cannot be run: {error}")
    for name in names:
        run_study(name, catalogue.STUDIES[name], args)
    if "page" in args.studies:
        collect(args.output_dir, args.page or args.output_dir / PAGE)


def run_study(name: str, study: Study, args: argparse.Namespace) -> None:
    """Do the runs of a study, print its table, and write its files."""
    folder = args.output_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    common = {"adapter": "mamba", "motion": args.motion, "per_device_train_batch_size": args.batch_size}
    records: dict[str, list] = {label: [] for label in study.variants}
    runs = [(label, seed) for label in study.variants for seed in args.seeds]
    for number, (label, seed) in enumerate(runs, start=1):
        print(f"\n{study.title}, run {number} of {len(runs)}: {label}, seed {seed}", flush=True)
        records[label].append(record_run(name, study, {**common, **study.variants[label]}, seed, args))
    table = study.tell(records)
    (folder / "table.md").write_text(table)
    command = shlex.join(["hmba", "study", name, *changed_options(args)])
    write_json(folder / "results.json", {"command": command, "base": base_digest(), "records": records})
    plot = folder / "plot.png"
    try:
        study.telling.draw(records, f"{study.title} (micro-world)").save(plot)
    except ImportError as error:
        plot.unlink(missing_ok=True)  # an older one shows other numbers
        print(f"no plot: {error}")
    print(f"\n{table}\n{DISCLAIMER}\nThe results are in {folder}.", flush=True)


def record_run(
    name: str, study: Study, options: Mapping[str, Any], seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Fine-tune and evaluate one variant with one seed, unless that is done, and take the study's own measurements."""
    steps = args.steps * study.lengthen
    folder = args.output_dir / "runs" / f"{run_name(options)}-{seed}-{steps}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):  # another study may want the same run
        record: dict[str, Any] = {"scores": learn_and_score(folder, options, seed, steps, args.clips)}
        if study.measure is not None:
            measured = folder / f"test-{args.clips}" / f"{name}.json"
            if not measured.exists():
                print(f"\nmeasuring {name} of {folder}", flush=True)
                write_json(measured, study.measure(folder, args.clips, args.motion))
            record[name] = read_json_object(measured)
    return record


def run_name(options: Mapping[str, Any]) -> str:
    """Name a run by its adapter and its other options that are not the defaults."""
    words = [options["adapter"]]
    for name, value in options.items():
        if name == "adapter" or value == DEFAULTS.get(name):
            continue
        values = value if isinstance(value, list) else [value]
        words.append("_".join([name, *map(str, values)]))
    return "-".join(words)


def changed_options(args: argparse.Namespace) -> list[str]:
    """Write the options that the numbers depend on."""
    words = [f"--{name}={getattr(args, name)}" for name in ("steps", "batch_size", "clips", "motion")]
    return ["--seeds", *map(str, args.seeds), *words]


def learn_and_score(folder: Path, options: Mapping[str, Any], seed: int, steps: int, clips: int) -> dict[str, float]:
    """Fine-tune the base with a fresh adapter and evaluate it on the CPU, unless that is done; return the scores."""
    learn(folder, options, seed, steps)
    metrics = folder / f"test-{clips}" / "metrics.json"
    if not metrics.exists():
        motion = finetuning_options(options, seed, steps)["motion"]
        how = {"motion": motion, "device_map": "cpu", "tokenizer": "words", "overwrite": True}
        run("evaluate", model=folder, max_samples=clips, output_dir=metrics.parent, **how)
    return read_json_object(metrics, scores=dict)["scores"]


def learn(folder: Path, options: Mapping[str, Any], seed: int, steps: int) -> None:
    """Fine-tune the base with a fresh adapter on the CPU, unless that is done."""
    options = finetuning_options(options, seed, steps)
    recipe = {"options": options, "base": base_digest()}
    record = folder / "recipe.json"
    if record.exists() and read_json_object(record) == recipe:
        print(f"{folder} is trained already")
        return
    record.unlink(missing_ok=True)
    for stale in folder.glob("test-*"):  # answers and measurements of another model
        shutil.rmtree(stale)
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "no")
    run("finetune", launcher=("-m", *launch), model=BASE, output_dir=folder, **options)
    write_json(record, recipe)


def base_digest() -> str:
    """The SHA-256 of the weights that all runs start from."""
    return hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()


def finetuning_options(options: Mapping[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """Return the options of fine-tuning on clips whose risk only motion shows; `options` replace `DEFAULTS`."""
    gate = {}
    if options["adapter"] in ("mamba", "transformer"):
        gate["gate_learning_rate"] = 0.1
    return {
        **DEFAULTS,
        **options,
        "max_steps": steps,
        "seed": seed,
        "learning_rate": 5e-4,
        "adapter_learning_rate": 2e-3,
        **gate,
        "warmup_steps": 20,
        "logging_steps": 10,
        "save_strategy": "no",
        "dataloader_num_workers": 1,
        "use_cpu": True,
    }


def run(command: str, launcher: Sequence[str] = (), **options: Any) -> None:
    """Print and run one of the commands, as a user would type it."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    print(f"\n$ hmba {shlex.join([command, *words])}", flush=True)
    try:
        subprocess.run([sys.executable, *launcher, "-m", f"hmba_hf.commands.{command}", *words], check=True)
    except subprocess.CalledProcessError as failed:  # it has said why
        sys.exit(f"hmba {command} has ended with status {failed.returncode}")


def collect(folder: Path, page: Path) -> None:
    """Write the results in a folder to the page, and their plots beside it; other sections of the page stay."""
    results: dict[str, Any] = {}
    plots: dict[str, Path] = {}
    for name in catalogue.STUDIES:
        record = folder / name / "results.json"
        if not record.exists():
            continue
        result = read_json_object(record, base=str)
        if result["base"] != base_digest():
            raise SystemExit(f"{record} must be of {BASE} as it is, got one of another base: run {name} again")
        result["plot"] = None
        plot = folder / name / "plot.png"
        if plot.exists():
            result["plot"] = f"{page.stem}_{name}.png"
            plots[result["plot"]] = plot
        results[name] = result
    if not results:
        raise SystemExit(f"the folder must hold results of studies, got none in {folder}")
    page.parent.mkdir(parents=True, exist_ok=True)
    for plot_name, plot in plots.items():
        shutil.copyfile(plot, page.parent / plot_name)
    text = page.read_text() if page.exists() else ""
    page.write_text(write_page(results, base_digest(), text))
    print(f"{', '.join(results)}: on {page}")


if __name__ == "__main__":
    run_command(main)
