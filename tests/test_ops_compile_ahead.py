"""Kernels are compiled while weights are read: those that the model runs, and no others."""

import logging
import os
import subprocess
import sys
import threading

import pytest
import torch

from hmba_hf import HMBAForConditionalGeneration
from hmba_hf.models import ops_backends, ops_compile_ahead
from hmba_hf.models.ops_compile_ahead import compile_ahead

HALF_NAMES = {torch.bfloat16: "int16", torch.float32: "float32"}


@pytest.fixture
def begun(monkeypatch):
    """The dtypes whose kernels would be compiled, in place of compiling them."""
    found = []
    monkeypatch.setattr(ops_compile_ahead, "_threads", {})
    monkeypatch.setattr(ops_compile_ahead, "_compile", found.append)
    return found


@pytest.mark.parametrize("dtype", HALF_NAMES, ids=str)
def test_loading_begins_to_compile_for_the_dtype_of_the_weights(stored_model, begun, dtype):
    for _ in range(2):
        HMBAForConditionalGeneration.from_pretrained(stored_model, dtype=dtype)
    assert begun == [dtype]


def test_a_model_without_a_state_space_compiles_nothing(base, begun):
    HMBAForConditionalGeneration.from_pretrained(base)
    assert begun == []


def test_a_machine_with_an_accelerator_compiles_nothing_ahead(begun, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    compile_ahead([torch.float32])
    assert begun == []


@pytest.mark.parametrize("dtype", HALF_NAMES, ids=str)
def test_no_kernel_is_compiled_that_a_model_does_not_run(dtype, monkeypatch):
    from hmba_hf.models import ops_launch_cpu

    compiled = []
    monkeypatch.setattr(ops_launch_cpu, "_compiled", set())
    monkeypatch.setattr(
        ops_launch_cpu, "_compile", lambda kernel, args: compiled.append((kernel.__module__, kernel.__name__, args))
    )
    monkeypatch.setattr(ops_backends, "_loaded", {})
    ops_compile_ahead._compile(dtype)
    names = [(module.split("_")[-2], name, str(args[0][0].dtype)) for module, name, args in compiled]
    assert sorted(names) == [("conv1d", "_forward", HALF_NAMES[dtype]), ("scan", "_forward", HALF_NAMES[dtype])]


def test_a_kernel_that_cannot_be_compiled_costs_one_warning(monkeypatch, caplog):
    def broken(name):
        raise OSError("LLVM is not at home")

    monkeypatch.setattr(ops_backends, "_loaded", {})
    monkeypatch.setattr(ops_backends, "_import", broken)
    monkeypatch.setattr(ops_compile_ahead, "_threads", {})
    compile_ahead([torch.float32])
    compile_ahead([torch.float32])
    ops_compile_ahead._wait_for_all()
    assert ops_backends.scan_backends("cpu") == ("portable",)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "LLVM is not at home" in warning


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_waits_until_nothing_is_being_compiled(monkeypatch):
    go_on = threading.Event()
    compiling = threading.Thread(target=go_on.wait)
    monkeypatch.setattr(ops_compile_ahead, "_threads", {torch.float32: compiling})
    compiling.start()
    threading.Timer(0.2, go_on.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert not compiling.is_alive()
    assert os.waitpid(child, 0)[1] == 0


def test_a_model_can_be_pickled_and_the_process_can_end_while_kernels_are_compiled(stored_model):
    program = (
        "import pickle, sys; from hmba_hf import HMBAForConditionalGeneration; from hmba_hf.models import "
        "ops_compile_ahead as ahead\n"
        f"model = HMBAForConditionalGeneration.from_pretrained({str(stored_model)!r})\n"
        "print(len(pickle.dumps(model)) > 0, len(ahead._threads))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["True", "1"]
    assert "Traceback" not in done.stderr and "does not work" not in done.stderr
