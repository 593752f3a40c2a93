"""The commands of README.md and docs/, and how tests run them on tiny models and with the smallest sizes."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

from hmba_hf.cli import CONVERTING, FINETUNING, PREPARING, VERBS
from hmba_hf.commands.launching import split_words
from tiny_runs import run_commands_here

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of each verb, the module that reads its words.
MODULES = {name: f"hmba_hf.{verb.module}" for name, verb in VERBS.items()}
MODULES |= {f"finetune {task}": f"hmba_hf.commands.{module}" for task, module in FINETUNING.items()}
MODULES |= {f"prepare {name}": f"hmba_hf.{verb.module}" for name, verb in PREPARING.items()}
MODULES |= {f"convert {name}": f"hmba_hf.{verb.module}" for name, verb in CONVERTING.items()}
QUICK_ANSWERS = ["--max_new_tokens", "2"]
ONE_STEP = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "True", "--disable_tqdm", "True"]
CLIPS = ["--dataloader_num_workers", "0", "--save_strategy", "no", "--max_train_samples", "4"]
# Options behind those of a documented command, which make it quick.
QUICK = {
    "backends": [],
    "study": "--seeds 0 --steps 1 --batch_size 2 --clips 2".split(),
    "cache-features": ["--use_cpu"],
    "convert hmba": [],
    "convert llava": [],
    "convert mambavl": [],
    "convert videomamba": [],
    "demo": "--steps 1 --clips 2".split(),
    "describe": QUICK_ANSWERS,
    "evaluate": ["--tokenizer", "words", "--draws", "5"],
    "finetune.py": [*ONE_STEP, "--dataloader_num_workers", "0", "--save_strategy", "no"],
    "finetune": [*ONE_STEP, "--dataloader_num_workers", "0", "--save_strategy", "no"],
    "finetune questions": [*ONE_STEP, *CLIPS],
    "finetune classification": [*ONE_STEP, *CLIPS],
    "full_size.py": ["--quick"],
    "predict": [*QUICK_ANSWERS, "--max_samples", "2", "--device_map", "cpu"],
    "prepare actions": [],
    "prepare bddx": [],
    "pretrain": [
        *(*ONE_STEP, "--model", "videomamba", "--teacher", "clip", "--dataset_name", "micro-actions"),
        *("--max_train_samples", "2", "--max_eval_samples", "2", "--save_strategy", "no"),
        *("--dataloader_num_workers", "0", "--bf16", "False"),
    ],
    "prepare drama": [],
    "prepare epic-kitchens": ["--num_workers", "1"],
    "push": [],
    "stream": QUICK_ANSWERS,
    "finetune retrieval": [*ONE_STEP, *CLIPS],
}
# Commands that end only when they are told to; tests/test_serving_command.py and tests/test_app_page.py run them.
ENDLESS = {"app", "serve"}
# Likewise of programs that read a classifier, by the program that has made it.
CLASSIFIERS = {"finetune questions"}
QUICK_CLASSES = {"evaluate": ["--draws", "5"], "predict": ["--max_samples", "2", "--device_map", "cpu"]}
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
    """Whether a command is one of the package, or starts a script of the repository."""
    return re.match(r"hmba |.*\b(examples|benchmarks)/\w+\.py", line) is not None


def split_program(line):
    """Return what a command starts, `hmba VERB` or a script, and the words behind it."""
    words = shlex.split(line)
    if words[0] == "hmba":
        length = 3 if " ".join(words[1:3]) in MODULES else 2
        return " ".join(words[:length]), split_words(words[length:])[1]
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return words[place], words[place + 1 :]


# The lines of the shell blocks, each with the name of its page, and the different ones that start a program.
COMMANDS = [(page, line) for page, text in blocks("sh") for line in text.splitlines()]
PROGRAMS = list(dict.fromkeys(line for _, line in COMMANDS if is_program(line)))
PUSHES = [line for line in PROGRAMS if "--push_to_hub" in line or line.startswith("hmba push")]


def name_of(line):
    """Return the verb that a command starts, or the file name of its script."""
    program, _ = split_program(line)
    if program.startswith("hmba "):
        return program.removeprefix("hmba ")
    return Path(program).name


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
    if name == "evaluate" and "--model" in words_read(line):
        return [*quick[name], *quick["predict"]]
    return list(quick[name])


def run_program(monkeypatch, folder, program, words):
    """Run a program inside this process, in a folder, and the commands that it starts, too."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        run_commands_here(patch)
        words = [str(word) for word in words]
        if program.startswith("hmba "):
            importlib.import_module(MODULES[program.removeprefix("hmba ")]).main(words)
            return
        for name in ("examples", "benchmarks"):
            patch.syspath_prepend(ROOT / name)
        patch.setattr(sys, "argv", [str(program), *words])
        runpy.run_path(str(ROOT / program), run_name="__main__")
