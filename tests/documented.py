"""The commands of README.md and docs/, and how tests run them on tiny models and with the smallest sizes."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK_ANSWERS = ["--max_new_tokens", "2"]
ONE_STEP = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "True", "--disable_tqdm", "True"]
CLIPS = ["--dataloader_num_workers", "0", "--save_strategy", "no", "--max_train_samples", "4"]
# Options behind those of a documented command, which make it quick.
QUICK = {
    "ablate.py": "--seeds 0 --steps 1 --batch_size 2 --clips 2 --page studies.md".split(),
    "cache_features.py": ["--use_cpu"],
    "convert_hmba.py": [],
    "convert_llava.py": [],
    "convert_mambavl.py": [],
    "convert_videomamba.py": [],
    "describe_video.py": QUICK_ANSWERS,
    "evaluate.py": ["--tokenizer", "words", "--draws", "5"],
    "finetune.py": [*ONE_STEP, "--dataloader_num_workers", "0", "--save_strategy", "no"],
    "finetune_mambavl.py": [*ONE_STEP, *CLIPS],
    "finetune_videomamba.py": [*ONE_STEP, *CLIPS],
    "full_size.py": ["--quick"],
    "predict.py": [*QUICK_ANSWERS, "--max_samples", "2", "--device_map", "cpu"],
    "prepare_actions.py": [],
    "prepare_bddx.py": [],
    "pretrain_videomamba.py": [
        *(*ONE_STEP, "--model", "videomamba", "--teacher", "clip", "--dataset_name", "micro-actions"),
        *("--max_train_samples", "2", "--max_eval_samples", "2", "--save_strategy", "no"),
        *("--dataloader_num_workers", "0", "--bf16", "False"),
    ],
    "prepare_drama.py": [],
    "prepare_epic_kitchens.py": ["--num_workers", "1"],
    "push.py": [],
    "stream_video.py": QUICK_ANSWERS,
    "train_retrieval.py": [*ONE_STEP, *CLIPS],
}
# Likewise of programs that read a classifier, by the program that has made it.
CLASSIFIERS = {"finetune_mambavl.py"}
QUICK_CLASSES = {"evaluate.py": ["--draws", "5"], "predict.py": ["--max_samples", "2", "--device_map", "cpu"]}
# Likewise of benchmarks, which tests/test_benchmarks.py runs in processes of their own.
SMALL = {
    "answer_cost.py": "--quick --bases qwen3_vl".split(),
    "conversion_memory.py": "--mib 320 --shards 2 --forms safetensors bin".split(),
    "masked_step.py": ["--quick"],
    "recurrent_length.py": ["--quick"],
    "selective_scan.py": "--lengths 16 32 --hidden_size 32 --repeats 1".split(),
    "streaming.py": "--frames 3 6 --around 2 --repeats 1 --real_tower 4 --max_seconds 100".split(),
    "temporal_adapter.py": "--quick --frames 3 --repeats 1".split(),
    "vlm_bases.py": "--families internvl".split(),
}


def blocks(language):
    """Return all fenced blocks of a language, each with the name of its page."""
    found = []
    for page in PAGES:
        for kind, text in FENCE.findall(page.read_text()):
            if kind == language:
                found.append((page.name, text))
    return found


def is_program(line):
    """Whether a command starts a program of the repository."""
    return re.search(r"(examples|conversion|benchmarks)/\w+\.py", line) is not None


def split_program(line):
    """Return the script of a command and the words behind it."""
    words = shlex.split(line)
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return words[place], words[place + 1 :]


# The lines of the shell blocks, each with the name of its page, and the different ones that start a program.
COMMANDS = [(page, line) for page, text in blocks("sh") for line in text.splitlines()]
PROGRAMS = list(dict.fromkeys(line for _, line in COMMANDS if is_program(line)))
PUSHES = [line for line in PROGRAMS if "--push_to_hub" in line or "examples/push.py" in line]


def name_of(line):
    """Return the file name of the program that a command starts."""
    return Path(split_program(line)[0]).name


def words_read(line):
    """Return the words of a program's command but that of `--output_dir`, which it writes."""
    _, words = split_program(line)
    if "--output_dir" in words:
        del words[words.index("--output_dir") + 1]
    return words


def maker_of(path):
    """Return the documented command whose `--output_dir` is a path or the nearest folder above it, or `None`."""
    found = {}
    for line in PROGRAMS:
        _, words = split_program(line)
        if "--output_dir" not in words or line in PUSHES:
            continue
        made = words[words.index("--output_dir") + 1]
        reads_it = any(word.startswith(f"{made}/") for word in words_read(line))
        if not reads_it and f"{path}/".startswith(f"{made}/"):
            found.setdefault(made, line)
    if not found:
        return None
    return found[max(found, key=len)]


def reads_classifier(line):
    """Whether a command reads what a classifier is or has predicted."""
    makers = [maker_of(word) for word in words_read(line)]
    names = {maker: name_of(maker) for maker in makers if maker not in (None, line)}
    if CLASSIFIERS & set(names.values()):
        return True
    return any(reads_classifier(maker) for maker, name in names.items() if name in QUICK_CLASSES)


def quick_options(line):
    """Return the options behind those of a documented command that make it quick."""
    name = name_of(line)
    quick = {**QUICK, **QUICK_CLASSES} if reads_classifier(line) else QUICK
    if name == "evaluate.py" and "--model" in words_read(line):
        return [*quick[name], *quick["predict.py"]]
    return list(quick[name])


def run_program(monkeypatch, folder, script, words):
    """Run a program of the repository inside this process, in a folder, and the examples that it starts, too."""
    run_elsewhere = subprocess.run

    def run_example_here(command, **options):
        place = next((index for index, word in enumerate(command) if str(word).endswith(".py")), None)
        if place is None or options != {"check": True}:
            return run_elsewhere(command, **options)
        return run_here(command[place], command[place + 1 :])

    def run_here(path, options):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, options)])
        runpy.run_path(str(ROOT / path), run_name="__main__")

    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(subprocess, "run", run_example_here)
        for name in ("examples", "benchmarks", "conversion"):
            patch.syspath_prepend(ROOT / name)
        run_here(script, words)
