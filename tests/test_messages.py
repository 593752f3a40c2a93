import argparse
import errno
import importlib
import io
import logging
import os
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hmba_hf import HMBAForConditionalGeneration, VideoDecodeError, commands, decode_frames
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.files import check_fields
from hmba_hf.messages import (
    HelpFormatter,
    is_raised_here,
    run_command,
    show_escapes,
    show_messages,
    without_load_report,
)
from hmba_hf.metrics.captioning import ComparedCaptions
from tiny_bases import save_base, tune
from tiny_models import tiny_model


@pytest.fixture
def of_transformers():
    """What transformers logs about weights while a test runs."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    source = logging.getLogger("transformers.modeling_utils")
    source.addHandler(handler)
    yield records
    source.removeHandler(handler)


def test_a_run_tells_in_one_line_what_is_new_and_what_of_its_base_it_leaves_out(tmp_path, capsys, of_transformers):
    base = save_base(tmp_path / "base")
    tune(base, tmp_path / "first", "--adapter", "transformer", "--max_steps", 1)
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "new in the model" in line]
    assert line.startswith("new in the model, and untrained: adapter (")
    assert line.endswith(f"all the rest is of {base}")
    tune(tmp_path / "first", tmp_path / "second", "--adapter", "none", "--max_steps", 1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no place" in line]
    assert f"weights of {tmp_path / 'first'}, such as model.temporal_adapter." in line
    assert of_transformers == []


def test_a_table_of_weights_is_shown_after_an_error(tmp_path, of_transformers):
    tiny_model(adapter="none").save_pretrained(tmp_path)
    with pytest.raises(ZeroDivisionError), without_load_report():
        HMBAForConditionalGeneration.from_pretrained(tmp_path, adapter="transformer", output_loading_info=True)
        assert of_transformers == []
        1 / 0  # noqa: B018
    assert len(of_transformers) == 1 and "LOAD REPORT" in of_transformers[0]
    with without_load_report():
        logging.getLogger("transformers.modeling_utils").warning("another warning")
    assert of_transformers[1:] == ["another warning"]


class ReadInAWorker(Dataset):
    """Samples that fail as they are read: one that the policy stops at, or by a mistake of the program."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.read()


def stop_at_a_bad_sample():
    BadSamples("stop").meet("clip 7", VideoDecodeError("its frames\n  end at 0.5 s"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_ends_a_command_in_one_sentence_also_in_a_worker(workers):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: list(DataLoader(ReadInAWorker(stop_at_a_bad_sample), num_workers=workers)))
    assert end.value.code == "clip 7: its frames end at 0.5 s (--on_error skip leaves such samples out)"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_ends_a_command_in_one_sentence_also_in_a_worker(workers):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: list(DataLoader(ReadInAWorker(fill_the_disk), num_workers=workers)))
    assert "No space left" in end.value.code and "Traceback" not in end.value.code


def fill_the_disk():
    raise OSError(errno.ENOSPC, "No space left on device", "features")


def test_a_warning_of_the_package_is_its_sentence_alone(capsys):
    def warn():
        place = {"category": UserWarning, "lineno": 1, "registry": {}}
        warnings.warn_explicit("the base has no adapter", filename=commands.__file__, **place)
        warnings.warn_explicit("of another package", filename="/elsewhere/other.py", **place)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *told: sys.stderr.write(warnings.formatwarning(*told[:4]))
        run_command(warn)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "the base has no adapter" and "/elsewhere/other.py:1: UserWarning" in lines[1]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "clips.txt").touch()
    with pytest.raises(SystemExit, match=r"clips.txt must be a folder, got: Not a directory"):
        run_command(lambda: list((tmp_path / "clips.txt").iterdir()))
    with pytest.raises(SystemExit, match=r"bad.jsonl must lie in a folder, got: Not a directory"):
        run_command((tmp_path / "clips.txt" / "bad.jsonl").read_text)


def test_an_error_of_a_worker_whose_source_is_not_there_is_nobody_s_sentence():
    head = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    for frames in ("", '  File "/app.zip/reading.py", line 7, in read\n'):
        with pytest.raises(ValueError, match="torn") as caught:
            raise ValueError(f"{head}{frames}ValueError: torn")
        assert not is_raised_here(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_the_program_keeps_its_traceback_also_in_a_worker(workers):
    with pytest.raises(ValueError, match="invalid literal"):
        run_command(lambda: list(DataLoader(ReadInAWorker(lambda: int("seven")), num_workers=workers)))


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", r"\udcfe.mp4 – 答"), ("ascii", r"\udcfe.mp4 \u2013 \u7b54")],
    ids=["all letters", "few letters"],
)
def test_names_that_are_not_utf8_and_answers_in_any_letters_are_printed(monkeypatch, encoding, shown):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding))
    # pytest's workers cannot send what they capture of such a name.
    monkeypatch.setattr(logging.getLogger("hmba_hf"), "propagate", False)
    show_messages()
    show_escapes()
    text = b"\xfe.mp4".decode("utf-8", "surrogateescape") + " – 答"
    print(text)
    logging.getLogger("hmba_hf").info(text)
    sys.stdout.flush()
    assert output.getvalue().decode(encoding).splitlines() == [shown, shown]


def test_every_command_prints_so_however_it_is_started(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    importlib.reload(commands)
    assert stream.errors == "backslashreplace"


def write_to_a_full_disk():
    with open("/dev/full", "w") as file:
        file.write("much")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (write_to_a_full_disk, "the disk must have room, got: No space left on device"),
        (lambda: open("/proc/nosuch", "w"), "/proc/nosuch must be there, got: No such file or directory"),
        (lambda: open("/dev/null/a"), "/dev/null/a must lie in a folder, got: Not a directory"),
        (lambda: check_fields([], "a.json"), "a.json must be a JSON object, got a list"),
    ],
)
def test_what_the_user_can_mend_ends_a_command_in_a_sentence(command, sentence):
    with pytest.raises(SystemExit) as end:
        run_command(command)
    assert end.value.code == sentence


@pytest.mark.parametrize(("value", "shows_traceback"), [("1", True), ("0", False), ("", False)])
def test_a_variable_of_the_environment_shows_the_traceback_behind_a_sentence(monkeypatch, value, shows_traceback):
    monkeypatch.setenv("HMBA_TRACEBACK", value)
    with pytest.raises(ValueError if shows_traceback else SystemExit, match="a.json must be a JSON object"):
        run_command(check_fields, [], "a.json")


def test_a_file_that_is_no_video_ends_a_command_in_a_sentence(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("no video at all")
    with pytest.raises(SystemExit) as end:
        run_command(decode_frames, path)
    assert str(end.value.code).startswith(f"{path} cannot be read as a video")


def test_ctrl_c_ends_a_command_in_a_word(capsys):
    def wait():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_command(wait)
    assert end.value.code == 130 and capsys.readouterr().err == "\nstopped\n"


def join_columns_that_differ():
    one = np.zeros((1, 1))
    columns = SimpleNamespace(bleu=one, rouge_l=np.zeros(2), cider=np.zeros(1), defined=one, meteor=None, spice=None)
    ComparedCaptions._statistics(columns)


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (lambda: int("it must be, got"), ValueError),
        (lambda: importlib.import_module("nosuch"), ImportError),
        (lambda: [][0], IndexError),
        (lambda: torch.zeros(2).view(3), RuntimeError),
        (lambda: os.read(10**6, 1), OSError),  # a descriptor that is not open
        (lambda: open(__file__).write("much"), OSError),  # what is open for reading
        (join_columns_that_differ, ValueError),  # of NumPy, in a line of this package
    ],
)
def test_a_mistake_in_the_code_keeps_its_traceback(mistake, kind):
    with pytest.raises(kind):
        run_command(mistake)


def test_options_show_defaults_that_are_values():
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights")
    parser.add_argument("--split", nargs="+", default=["test", "100%"], help="one or more")
    parser.add_argument("--model", help="folder")
    parser.add_argument("--size", default=3, help="default: that of the file")
    printed = parser.format_help()
    for line in ("of weights (default: 0)", "one or more (default: test 100%)", "folder\n", "that of the file\n"):
        assert line in printed
