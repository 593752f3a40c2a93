"""The commands and the Python of README.md and docs/: run where a tiny model will do, else parsed by their program."""

import argparse
import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import tomllib

from hmba_hf.data.micro_world.parquet import write_bddx, write_drama, write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from synthetic_downloads import drama_record, write_bddx_download, write_drama_download, write_pictures

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORLD = MicroWorldConfig(frame_size=32)
QUICK_ANSWERS = ["--max_new_tokens", "2"]
# What is run, with the options that make it quick; all other programs only parse their options.
ONE_STEP = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "True", "--disable_tqdm", "True"]
QUICK = {
    "cache_features.py": ["--use_cpu"],
    "finetune.py": [*ONE_STEP, "--dataloader_num_workers", "0", "--save_strategy", "no"],
    "prepare_bddx.py": [],
    "prepare_drama.py": [],
    "describe_video.py": QUICK_ANSWERS,
    "stream_video.py": QUICK_ANSWERS,
    "predict.py": [*QUICK_ANSWERS, "--max_samples", "2", "--device_map", "cpu"],
    "evaluate.py": ["--tokenizer", "words", "--draws", "5"],
}
# What they make goes elsewhere, since other commands read the folders that they name.
MAKERS = {"cache_features.py", "finetune.py", "prepare_bddx.py", "prepare_drama.py"}
# Commands of other projects, and of the shell's.
FOREIGN = {"hf", "lmms-eval", "python3"}
MODULES = {"pycocoevalcap.spice.get_stanford_models"}


class Parsed(Exception):
    """A program has read its options."""


def blocks(language):
    """All fenced blocks of a language, each with the name of its page."""
    found = []
    for page in PAGES:
        for kind, text in FENCE.findall(page.read_text()):
            if kind == language:
                found.append((page.name, text))
    return found


def commands():
    """All lines of the shell blocks, each with the name of its page."""
    return [(page, line) for page, text in blocks("sh") for line in text.splitlines()]


COMMANDS = commands()
PYTHON = blocks("python")
PROGRAMS = [(page, line) for page, line in COMMANDS if re.search(r"(examples|conversion|benchmarks)/\w+\.py", line)]
OTHERS = [(page, line) for page, line in COMMANDS if (page, line) not in PROGRAMS]


@pytest.fixture(scope="module")
def sandbox(stored_model, tmp_path_factory):
    """A folder that holds what the pages name: models, datasets, clips."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("hmba-base", "hmba-drama", "runs/demo/mamba-300"):
        shutil.copytree(stored_model, folder / name)
    write_drama(folder / "DRAMA_FOLDER", WORLD, {"train": 2, "test": 2})
    write_bddx(folder / "BDDX_FOLDER", WORLD, {"train": 2, "test": 2})
    write_downloads(folder)
    frames = MicroWorld(WORLD, "test", 1)[0].frames
    for name in ("dashcam.mp4", "runs/demo/held_out_0.mp4"):
        write_video(folder / name, frames)
    return folder


def write_downloads(folder):
    """Write what the programs that prepare datasets read: two downloads, and the layout of the released code."""
    clips = {f"clip_{number}": range(1, 7) for number in range(8)}
    records = [drama_record(clip, key=6) for clip in clips]
    write_drama_download(folder / "drama", records, clips).rename(folder / "integrated_output_v2.json")
    write_bddx_download(folder / "bdd100k")
    for path in (folder / "bdd100k").iterdir():
        if path.name != "videos":
            path.rename(folder / path.name)
    for split in ("train", "test"):
        line = {"image_id": split, "boxes": [[4, 3, 12, 9]], "sentence": "<ph_st>A van<ph_ed>.", "boxes_seq": [[0]]}
        (folder / f"drama_{split}_SC.jsonl").write_text(json.dumps(line) + "\n")
        write_pictures(folder / "format", split, count=5, size=(32, 24))


@pytest.fixture
def start(monkeypatch, sandbox):
    """Run a program of the repository inside this process, in the sandbox."""

    def start_here(script, words):
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        monkeypatch.chdir(sandbox)
        for folder in ("examples", "benchmarks", "conversion"):
            monkeypatch.syspath_prepend(ROOT / folder)
        runpy.run_path(str(ROOT / script), run_name="__main__")

    return start_here


@pytest.fixture
def only_parse(monkeypatch):
    """End a program as soon as its parser has read the command line."""
    read = argparse.ArgumentParser.parse_known_args

    def read_and_end(self, *args, **kwargs):
        known, unknown = read(self, *args, **kwargs)
        if not self.add_help:  # looks for one option ahead of the parser that knows them all
            return known, unknown
        assert not unknown, f"the program has no options {unknown}"
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", read_and_end)


def split_program(line):
    """The script of a command and the words behind it."""
    words = shlex.split(line)
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    return words[place], words[place + 1 :]


@pytest.mark.parametrize("page, line", PROGRAMS)
def test_a_documented_command_has_only_options_of_its_program(page, line, start, only_parse):
    script, words = split_program(line)
    with pytest.raises(Parsed):
        start(script, words)


def is_run(line):
    """Whether a command is run; pushes are run against the Hub of tests/hub."""
    script, words = split_program(line)
    return Path(script).name in QUICK and "--push_to_hub" not in words


@pytest.mark.parametrize("page, line", [row for row in PROGRAMS if is_run(row[1])])
def test_a_documented_command_runs(page, line, start, sandbox, tmp_path):
    script, words = split_program(line)
    if "--feature_cache" in words:
        features = sandbox / words[words.index("--feature_cache") + 1]
        if not features.exists():
            asked = ["--model", "hmba-base", "--dataset_name", "DRAMA_FOLDER", "--output_dir", str(features)]
            start("examples/cache_features.py", [*asked, *QUICK["cache_features.py"]])
    if Path(script).name in MAKERS:
        words += ["--output_dir", str(tmp_path / "made")]
    if "--predictions" in words:
        predictions = sandbox / words[words.index("--predictions") + 1]
        if not predictions.exists():
            folder = str(predictions.parent)
            asked = ["--model", "hmba-drama", "--dataset_name", "DRAMA_FOLDER", "--output_dir", folder]
            start("examples/predict.py", asked + QUICK["predict.py"])
    options = list(QUICK[Path(script).name])
    if script.endswith("evaluate.py") and "--model" in words:
        options += QUICK["predict.py"]
    start(script, words + options)


@pytest.mark.parametrize("page, line", OTHERS)
def test_a_documented_command_of_another_kind_exists(page, line):
    words = shlex.split(line)
    program = Path(words[0]).name
    if program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", line)))
        assert set(named) <= set(extras)
    elif program == "python":
        assert words[1] == "-m" and words[2] in MODULES
    else:
        assert program in FOREIGN


@pytest.mark.parametrize("page, text", PYTHON)
def test_documented_python_runs(page, text, sandbox, tmp_path, monkeypatch):
    script = tmp_path / "block.py"
    script.write_text(text)
    if text.startswith("# needs downloads"):
        compile(text, str(script), "exec")
        return
    monkeypatch.chdir(sandbox)
    runpy.run_path(str(script))


def test_every_link_inside_the_repository_leads_to_a_file():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_every_page_begins_with_links_to_all_its_sections():
    for page in PAGES[1:]:
        text = page.read_text()
        contents = text.splitlines()[2]
        sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert re.findall(r"\[(.+?)\]\(#", contents) == sections, page.name


def test_every_module_stands_in_the_tree_of_files():
    design = (ROOT / "docs" / "design.md").read_text()
    tree = design[design.index("```text") :]
    patterns = [re.escape(name).replace(r"\*", r"\w+") for name in re.findall(r"[\w*]+\.py", tree)]
    for module in (ROOT / "src" / "hmba_hf" / "models").glob("[a-z]*.py"):
        assert any(re.fullmatch(pattern, module.name) for pattern in patterns), module.name


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
