"""The commands and the Python of README.md and docs/ run on tiny models.

Commands that push run in tests/hub, benchmarks in tests/test_benchmarks.py.
"""

import argparse
import json
import re
import runpy
import shlex
import shutil
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub.utils import httpx
from transformers import AutoModelForImageTextToText, AutoProcessor, BertConfig, BertForMaskedLM, RobertaModel

from asked_clips import save_mambavl
from documented import (
    COMMANDS,
    ENDLESS,
    PAGES,
    PROGRAMS,
    PUSHES,
    QUICK,
    ROOT,
    SMALL,
    blocks,
    maker_of,
    name_of,
    quick_options,
    run_program,
    split_program,
    words_read,
)
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama, write_video
from hmba_hf.data.micro_world.questions import HEADS, MICRO_QUESTIONS
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.tasks.answering.studies import catalogue
from mambavl_files import write_mambavls
from original_checkpoints import (
    golden_weights,
    llava_config,
    save_llava,
    save_original,
    save_shikra_delta,
    save_weights,
)
from synthetic_downloads import (
    drama_record,
    write_bddx_download,
    write_drama_download,
    write_epic_download,
    write_pictures,
)
from tiny_mambavl import tiny_text_config
from tiny_pairs import TEXT, tiny_pair_tokenizer
from tiny_pretraining import save_student, save_teacher
from tiny_server import running
from tiny_vlm_bases import save_vlm
from videomamba_files import write_videomambas

WORLD = MicroWorldConfig(frame_size=32)
# What they make goes elsewhere, since other commands read the folders that they name.
MAKERS = {
    "cache-features",
    "convert hmba",
    "convert llava",
    "convert mambavl",
    "convert videomamba",
    "demo",
    "finetune.py",
    "finetune",
    "finetune questions",
    "finetune classification",
    "prepare actions",
    "prepare bddx",
    "prepare drama",
    "prepare epic-kitchens",
    "pretrain",
    "finetune retrieval",
}
# Commands of other projects, and of the shell's.
FOREIGN = {"curl", "hf", "lmms-eval", "python3", "vllm"}
SERVED = "127.0.0.1:8000"
MODULES = {"pycocoevalcap.spice.get_stanford_models"}


class Parsed(Exception):
    """A program has read its options."""


PYTHON = blocks("python")
OTHERS = [(page, line) for page, line in COMMANDS if line not in PROGRAMS]


@pytest.fixture(scope="module")
def sandbox(stored_model, golden, tmp_path_factory):
    """A folder that holds what the pages name: models, foreign checkpoints, datasets, clips."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("hmba-base", "hmba-drama", "runs/demo/model"):
        shutil.copytree(stored_model, folder / name)
    save_mambavl(folder / "mambavl", HEADS[MICRO_QUESTIONS])  # evaluate.py reads whose options it has
    save_vlm("qwen3_vl", folder / "qwen3-vl")
    save_student(folder / "videomamba")
    save_teacher(folder / "clip")
    write_drama(folder / "DRAMA_FOLDER", WORLD, {"train": 2, "test": 2})
    write_bddx(folder / "BDDX_FOLDER", WORLD, {"train": 2, "test": 2})
    write_downloads(folder)
    write_foreign_checkpoints(folder, tmp_path_factory.mktemp("originals"), *golden("hmba_e2e_small"))
    write_mambavls(folder)
    write_videomambas(folder, golden)
    write_parents(folder)
    frames = MicroWorld(WORLD, "test", 1)[0].frames
    for name in ("dashcam.mp4", "runs/demo/held_out_0.mp4"):
        write_video(folder / name, frames)
    return folder


def write_downloads(folder):
    """Write what the programs that prepare datasets read: downloads, and the layout of the released code."""
    write_actions(folder)
    write_epic_download(folder)
    (folder / "questions.csv").write_text("narration_id,verb_question,noun_question\nP01_11_0,How?,What?\n")
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


def write_actions(folder):
    """Write a video and its class in the layouts of Kinetics and of Something-Something, and in a folder."""
    frames = MicroWorld(WORLD, "test", 1)[0].frames
    for name in ("k400/a_000000_000010.mp4", "ssv2/1.mp4", "actions/run/1.mp4"):
        (folder / name).parent.mkdir(parents=True)
        write_video(folder / name, frames)
    for name, split in (("train.csv", "train"), ("val.csv", "test")):
        (folder / name).write_text(f"label,youtube_id,time_start,time_end,split\nrun,a,0,10,{split}\n")
    (folder / "labels.json").write_text('{"Running": "0"}')
    (folder / "train.json").write_text('[{"id": "1", "template": "Running"}]')


def write_foreign_checkpoints(folder, scratch, tensors, facts):
    """Write what the converters read: a Shikra as a delta, its Llama, an H-MBA of the released code, a LLaVA."""
    weights = golden_weights(tensors)
    for name in ("shikra", "hmba"):
        (scratch / name).mkdir()
    shikra = save_original(scratch / "shikra", tensors, facts)
    save_shikra_delta(shikra, weights, folder / "LLAMA_7B")
    hmba = save_original(scratch / "hmba", tensors, facts)
    save_weights(hmba, weights)
    for place in ("shikras", "llava-hf"):
        (folder / place).mkdir()
    shikra.rename(folder / "shikras" / "shikra-7b-delta-v1")
    hmba.rename(folder / "ORIGINAL_HMBA")
    save_llava(folder / "llava-hf" / "llava-1.5-7b-hf", llava_config())


def write_parents(folder):
    """Write tiny models under the names of those that others are joined with, or put on."""
    bert = folder / "google-bert" / "bert-base-uncased"
    BertForMaskedLM(BertConfig(**TEXT)).save_pretrained(bert)
    tiny_pair_tokenizer().save_pretrained(bert)
    roberta = folder / "FacebookAI" / "roberta-base"
    RobertaModel(tiny_text_config()).save_pretrained(roberta)
    tiny_pair_tokenizer().save_pretrained(roberta)
    save_vlm("qwen3_vl", folder / "Qwen" / "Qwen3-VL-2B-Instruct")


@pytest.fixture
def start(monkeypatch, sandbox):
    """Run a program of the repository inside this process, in the sandbox."""
    return partial(run_program, monkeypatch, sandbox)


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


@pytest.fixture
def one_variant(monkeypatch):
    """Studies of one variant each, the same for most of them."""
    few = {}
    for name, study in catalogue.STUDIES.items():
        usual = [label for label, options in study.variants.items() if not options]
        label = (usual or list(study.variants))[0]
        few[name] = replace(study, variants={label: study.variants[label]}, expected=[])
    monkeypatch.setattr(catalogue, "STUDIES", few)


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_documented_command_has_only_options_of_its_program(line, start, only_parse):
    script, words = split_program(line)
    with pytest.raises(Parsed):
        start(script, words)


def make_what_is_read(line, start, sandbox):
    """Run the documented commands that make the folders that a command reads, and those before them."""
    for word in words_read(line):
        maker = maker_of(word)
        if maker is not None and maker != line and not (sandbox / word).exists():
            make_what_is_read(maker, start, sandbox)
            program, options = split_program(maker)
            start(program, options + quick_options(maker))


RUN = [line for line in PROGRAMS if line not in PUSHES and name_of(line) not in {*SMALL, *ENDLESS}]


@pytest.mark.parametrize("line", RUN)
def test_a_documented_command_runs(line, start, sandbox, tmp_path, one_variant):
    script, words = split_program(line)
    make_what_is_read(line, start, sandbox)
    if script.endswith("study") and "page" in words and not (sandbox / "runs" / "studies" / "baselines").exists():
        start(script, ["baselines", *QUICK["study"]])
    if name_of(line) in MAKERS:
        words += ["--output_dir", str(tmp_path / "made")]
    start(script, words + quick_options(line))


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


@pytest.fixture(scope="module")
def served(sandbox):
    """The address at which the model of the pages is served."""
    folder = sandbox / "runs" / "demo" / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with running(model.eval(), AutoProcessor.from_pretrained(folder), name=folder.name) as service:
        yield service.address


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.startswith("curl ")])
def test_a_documented_request_is_answered(line, served, sandbox):
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-F", dest="fields", action="append", default=[])
    words = parser.parse_args(shlex.split(line)[1:])
    fields = dict(field.split("=") for field in words.fields)
    files = {name: (sandbox / value[1:]).open("rb") for name, value in fields.items() if value.startswith("@")}
    texts = {name: value for name, value in fields.items() if name not in files}
    url = words.url.replace(SERVED, served.removeprefix("http://"))
    if words.data is not None or files:
        response = httpx.post(url, content=words.data, data=texts or None, files=files or None, timeout=60)
    else:
        response = httpx.get(url)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("page, text", PYTHON)
def test_documented_python_runs(page, text, sandbox, tmp_path, monkeypatch, request):
    script = tmp_path / "block.py"
    if SERVED in text:
        text = text.replace(SERVED, request.getfixturevalue("served").removeprefix("http://"))
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
