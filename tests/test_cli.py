"""`hmba VERB`: every verb is there, gets its words as they are, and starts through Accelerate where it may train."""

import argparse
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands import launch as launch_of_accelerate
from typer.testing import CliRunner

import hmba_hf
from documented import MODULES, ROOT
from hmba_hf import cli
from hmba_hf.commands import launching
from hmba_hf.commands.study import BASE
from hmba_hf.commands.training import run_training
from hmba_hf.messages import run_command

# Words with which a verb looks for a model that is not there.
WITHOUT_MODEL = {
    "app": "--model nosuch",
    "cache-features": "--model nosuch --output_dir o",
    "convert hmba": "--checkpoint nosuch --output_dir o",
    "convert llava": "--checkpoint org/nosuch --output_dir o",
    "convert mambavl": "--checkpoint nosuch --output_dir o",
    "convert videomamba": "--checkpoint nosuch --output_dir o",
    "describe": "--model nosuch --video a.mp4",
    "evaluate": "--model nosuch",
    "finetune": "--model nosuch --output_dir o",
    "finetune answering": "--model org/nosuch --output_dir o",
    "finetune classification": "--model nosuch --dataset_name micro-actions --output_dir o",
    "finetune questions": "--model nosuch --dataset_name micro-actions --output_dir o",
    "finetune retrieval": "--model nosuch --dataset_name micro-actions --output_dir o",
    "predict": "--model nosuch",
    "pretrain": "--model nosuch --output_dir o",
    "push": "--model nosuch --repo_id org/model",
    "serve": "--model nosuch",
    "stream": "--model nosuch --source a.mp4",
}
# Words with which a verb writes where a file takes the place of a folder.
INTO_A_FILE = {
    "cache-features": f"--model {BASE} --dataset_name micro-world --max_train_samples 2 --use_cpu --output_dir file",
    "demo": "--output_dir file",
    "describe": "--model nosuch --video a.mp4 --output file/answer.png",
    "evaluate": f"--model {BASE} --max_samples 1 --device_map cpu --output_dir file",
    "finetune": f"--model {BASE} --max_train_samples 2 --max_steps 1 --use_cpu True --output_dir file",
    "predict": f"--model {BASE} --max_samples 1 --device_map cpu --output_dir file",
    "prepare actions": "--videos videos --output_dir file",
    "pretrain": "--model tiny --dataset_name micro-actions --bf16 False --use_cpu True --output_dir file",
    "stream": "--model nosuch --source a.mp4 --output_dir file",
    "study": "branches --output_dir file",
}

WAITING = """
import signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("at work", flush=True)
time.sleep(60)
"""


def start(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.mark.parametrize("verb", MODULES)
def test_a_verb_says_how_it_is_called(verb, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[verb]).main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    verb = verb.removesuffix(" answering")  # the task where none is named
    assert printed.startswith(f"usage: hmba {verb} ")
    assert re.search(rf"^    hmba {verb}( |$)", printed, flags=re.MULTILINE)
    assert not re.search(r"(examples|conversion)/|\w\.py\b", printed), "a user of the wheel has no scripts"


@pytest.mark.parametrize("verb", MODULES)
def test_the_help_of_a_verb_fits_a_terminal_and_describes_every_option(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parsers = []
    format_help = argparse.ArgumentParser.format_help
    monkeypatch.setattr(
        argparse.ArgumentParser, "format_help", lambda parser: parsers.append(parser) or format_help(parser)
    )
    with pytest.raises(SystemExit):
        importlib.import_module(MODULES[verb]).main(["--help"])
    prose = [line for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert prose and max(map(len, prose)) <= 80
    (parser,) = parsers
    assert not [action.option_strings for action in parser._actions if not action.help]


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("describe", ["--model", "m", "--video", "a.mp4"]),
        ("prepare drama", ["--images", "i", "--output_dir", "o"]),
        ("cache-features", ["--model", "m", "--dataset_name", "micro-world", "--output_dir", "o"]),
    ],
)
def test_an_option_that_a_verb_has_not_is_refused_in_a_line(verb, words, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[verb]).main([*words, "--nosuch", "1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"hmba {verb}: error: unrecognized arguments: --nosuch 1"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("describe", ["--model", "m", "--video", "a.mp4"]),
        ("evaluate", ["--predictions", "p"]),
        ("predict", []),
    ],
)
def test_an_option_has_its_whole_name_so_that_no_parser_passes_over_a_short_one(verb, words, capsys):
    short = {"describe": "--quest", "evaluate": "--conf", "predict": "--max_s"}[verb]
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[verb]).main([*words, short, "1"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"hmba {verb}: error: unrecognized arguments: {short} 1"


@pytest.mark.parametrize(
    ("verb", "words", "option", "least"),
    [
        ("describe", ["--model", "m", "--video", "a.mp4"], "--max_new_tokens", 1),
        ("stream", ["--model", "m", "--source", "a.mp4"], "--max_new_tokens", 1),
        ("study", ["branches"], "--clips", 1),
        *(
            ("cache-features", ["--model", "m", "--output_dir", "o"], option, least)
            for option, least in (("--num_frames", 1), ("--batch_size", 1), ("--block_size", 1), ("--num_workers", 0))
        ),
    ],
)
def test_a_count_that_is_none_is_refused_in_a_line_before_a_model_is_loaded(verb, words, option, least, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[verb]).main([*words, option, str(least - 1)])
    assert end.value.code == 2
    wanted = f"error: {option} must be at least {least}, got {least - 1}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(wanted)


@pytest.mark.parametrize("name", ["answer", "answer.mp4", "pictures"])
def test_a_picture_that_nothing_can_write_is_refused_in_a_line_before_a_model_is_loaded(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES["describe"]).main(["--model", "m", "--video", "a.mp4", "--output", name])
    assert end.value.code == 2
    wanted = f"error: --output must end as a picture does, such as .png, got {name}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(wanted)


@pytest.mark.parametrize("verb", [verb for verb in MODULES if verb.startswith(("finetune", "pretrain"))])
def test_what_is_wrong_in_the_words_of_a_training_stands_in_few_lines(verb, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[verb]).main(["--bf16", "perhaps"])
    assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) <= 3


def test_a_description_refuses_a_model_that_answers_nothing_and_a_lost_video_before_weights_are_read(tmp_path):
    for kind, sentence in (
        ("videomamba", "the model must answer questions about videos, got one of"),
        ("hmba", f"got '{tmp_path / 'a.mp4'}' (no such file)"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        done = start("describe", "--model", tmp_path, "--video", tmp_path / "a.mp4", "--output", tmp_path / "a.png")
        assert done.exit_code == 1 and sentence in done.output and len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--results", "nowhere"], "--results must name folders that `hmba evaluate` has written, got nowhere"),
        (["--picture", "nowhere.png"], "nowhere.png"),
        (["--picture", __file__], "cannot be read as a picture: it is damaged or of no known format"),
    ],
)
def test_what_goes_with_a_push_is_looked_at_before_weights_are_read(tmp_path, words, sentence):
    done = start("push", "--model", tmp_path / "model", "--repo_id", "org/model", *words)
    assert done.exit_code and sentence in done.output and str(tmp_path) not in done.output


def test_nothing_that_is_installed_names_a_script_of_the_repository():
    scripts = "|".join(path.stem for path in (ROOT / "examples").glob("*.py"))
    for path in Path(cli.__file__).parent.rglob("*"):
        if path.suffix in (".md", ".py", ".yaml"):
            assert not re.search(rf"\bexamples/|\b({scripts})\.py\b", path.read_text()), path


def test_the_program_lists_its_verbs():
    for words, verbs in (([], cli.VERBS), (["prepare"], cli.PREPARING), (["convert"], cli.CONVERTING)):
        printed = start(*words, "--help").output
        assert all(f" {verb} " in printed for verb in verbs)
    assert start("nosuch").exit_code == 2


def test_the_program_tells_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hmba", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("hmba_hf", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out == f"hmba-hf {hmba_hf.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "m", "--video", "a.mp4", "--timestamp", "-1"],
        ["--help"],
        ["a", "--b=c", "--", "--d"],
        ["--question", "What is at risk?", "-h"],
    ],
)
def test_a_verb_gets_its_words_as_they_are(words, monkeypatch):
    seen = []
    monkeypatch.setattr("hmba_hf.commands.describe.main", seen.append)
    monkeypatch.setattr("hmba_hf.commands.prepare_drama.main", seen.append)
    assert start("describe", *words).exit_code == start("prepare", "drama", *words).exit_code == 0
    assert seen == [words, words]


@pytest.fixture
def launched(monkeypatch):
    """What would be started through Accelerate: module, its launcher's options, words."""
    calls = []

    def launch(*call):
        calls.append(call)
        return 3

    monkeypatch.setattr(launching, "launch", launch)
    return calls


@pytest.mark.parametrize("count", ["x", "0", "-1", "1.5", ""])
def test_a_number_of_processes_is_a_whole_one_of_at_least_one(count, capsys):
    with pytest.raises(SystemExit):
        launching.split_words([f"--num_processes={count}"])
    assert f"--num_processes must be a whole number of at least 1, got {count}" in capsys.readouterr().err


def test_training_starts_through_accelerate_with_its_options(launched):
    done = start("finetune", "--model", "m", "--num_processes", 1, "--gradient_accumulation_steps", 4, "--cpu")
    assert done.exit_code == 3, "its exit status is that of the processes"
    words = ["--model", "m", "--gradient_accumulation_steps", "4"]
    assert launched.pop() == ("hmba_hf.commands.finetune", ["--num_processes", "1", "--cpu"], words)
    start("finetune", "questions", "--accelerate_config", "fsdp", "--bf16", "True")
    module, launcher, words = launched.pop()
    assert module == "hmba_hf.commands.finetune_questions" and words == ["--bf16", "True"]
    assert launcher == ["--config_file", str(launching.CONFIGS / "fsdp.yaml")]
    start("predict", "--num-processes", 2, "--output-dir=o")
    assert launched.pop()[1:] == (["--num_processes", "2"], ["--output-dir=o"]), "either spelling, as in the verbs"
    start("cache-features", "--model", "m")
    assert launched.pop() == ("hmba_hf.commands.cache_features", [], ["--model", "m"])


def test_the_help_of_all_that_the_launcher_starts_names_its_options():
    words = [[name] for name, verb in cli.VERBS.items() if verb.launched != "never"]
    for shown in [*words, *(["finetune", task] for task in cli.FINETUNING)]:
        done = start(*shown, "--help")
        assert "options of Accelerate's launcher" in " ".join(done.output.split()), shown


@pytest.mark.parametrize("words", [["--accelerate_config", "fsdp"], ["--num_processes", "2"]])
def test_one_process_does_not_stand_for_several(launched, words):
    done = start("finetune", "--model", "m", "--cpu", *words)
    assert done.exit_code == 2 and not launched
    assert "--cpu starts one process, and must come without" in " ".join(done.stderr.split())
    assert f"got {' '.join(words)};" in " ".join(done.stderr.split())


def test_a_task_that_is_not_there_is_refused(launched):
    done = start("finetune", "clasification", "--model", "m")
    assert done.exit_code == 2 and not launched
    words = " ".join(done.output.replace("│", " ").split())
    assert "the task must be one of answering, classification, questions, retrieval, got 'clasification'" in words


def test_an_evaluation_starts_through_accelerate_only_if_it_is_asked_to(launched, monkeypatch):
    seen = []
    monkeypatch.setattr("hmba_hf.commands.evaluate.main", seen.append)
    start("evaluate", "--predictions", "a.jsonl")
    assert seen == [["--predictions", "a.jsonl"]] and not launched
    start("evaluate", "--model", "m", "--mixed_precision", "bf16")
    assert launched == [("hmba_hf.commands.evaluate", ["--mixed_precision", "bf16"], ["--model", "m"])]


def test_a_configuration_is_one_of_the_package_or_a_file(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("")
    assert launching.split_words(["--accelerate_config", str(own)]) == (["--config_file", str(own)], [])
    assert start("predict", "--accelerate_config", "nosuch").exit_code == 2
    with pytest.raises(FileNotFoundError, match="must be one of ddp, deepspeed_zero2, .*, or a file, got nosuch"):
        launching.find_config("nosuch")


def test_on_a_machine_of_cpus_a_launch_has_all_threads_and_no_warning(monkeypatch, caplog):
    settings = []

    def settle(args):
        settings.append(launch_of_accelerate._validate_launch_command(args)[0])

    monkeypatch.setattr(launching, "launch_command", settle)
    monkeypatch.setattr(launching.torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(launching, "default_config_file", "nosuch.yaml")
    monkeypatch.setattr(launching.torch, "get_num_threads", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launching.launch("training", [], [])
    launching.launch("training", ["--mixed_precision", "bf16"], ["--num_processes", "9"])
    assert [args.num_cpu_threads_per_process for args in settings] == [6, 6] and not caplog.records
    assert [args.mixed_precision for args in settings] == ["no", "bf16"]
    own = ["--config_file", str(launching.CONFIGS / "ddp.yaml")]
    launching.launch("training", own, [])
    assert settings[-1].num_processes == 8 and not settings[-1].cpu


def test_sigterm_reaches_what_accelerate_has_started(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    code = "import sys; from hmba_hf.commands.launching import launch; "
    code += "sys.exit(launch('waiting', ['--cpu', '--num_processes', '1', '--mixed_precision', 'no'], []))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=50)
    assert printed == "saved\n" and process.returncode == 0, errors
    assert time.monotonic() - start < 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_exit_status(number, monkeypatch):
    def be_ended(args):
        raise subprocess.CalledProcessError(returncode=-number, cmd="run")

    monkeypatch.setattr(launching, "launch_command", be_ended)
    assert launching.launch("waiting", [], []) == 128 + number
    monkeypatch.setattr(launching.psutil.Process, "children", lambda process: [])
    monkeypatch.setattr(launching, "launch_command", lambda args: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end:  # no process has begun that could end by itself
        launching.launch("waiting", [], [])
    assert end.value.code == 128 + number


def test_ctrl_c_ends_a_training_in_a_sentence(capsys):
    def train(words):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_training(train, lambda description, words, program: (words,), "", program="hmba finetune", words=[])
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nstopped; the same command resumes from the last checkpoint\n"


def ended(verb, words):
    """The sentence with which a verb ends."""
    with pytest.raises(SystemExit) as end:
        run_command(importlib.import_module(MODULES[verb]).main, words.split())
    sentence = end.value.code
    assert isinstance(sentence, str) and len(sentence.splitlines()) == 1, "status 1, and a line in standard error"
    return sentence


def test_every_verb_with_a_model_is_asked_for_one_that_is_not_there():
    without = {"backends", "demo", "env", "study"}
    assert {*WITHOUT_MODEL, *without} == {verb for verb in MODULES if not verb.startswith("prepare")}


@pytest.mark.parametrize("verb", WITHOUT_MODEL)
def test_a_model_that_is_not_there_is_named_in_a_sentence(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(r"must be .*, got (org/)?nosuch\b", ended(verb, WITHOUT_MODEL[verb]))


@pytest.mark.parametrize("verb", INTO_A_FILE)
def test_a_file_in_the_place_of_a_folder_is_named_in_a_sentence(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "videos" / "turning").mkdir(parents=True)
    (tmp_path / "videos" / "turning" / "a.mp4").touch()
    assert re.search(r"\bfile\b.* must .*, got", ended(verb, INTO_A_FILE[verb]))


def test_a_command_ends_so_however_it_is_started(monkeypatch, capsys):
    scripts = [Path(importlib.import_module(module).__file__) for module in MODULES.values()]
    for path in sorted((ROOT / "examples").glob("*.py")):
        if "import main" in path.read_text():
            scripts.append(path)
    assert len(scripts) > len(MODULES)
    for script in scripts:
        source = script.read_text()
        assert source.endswith('if __name__ == "__main__":\n    run_command(main)\n'), script
    done = start("convert", "hmba", *WITHOUT_MODEL["convert hmba"].split())
    assert done.exit_code == 1 and "got nosuch" in done.output
