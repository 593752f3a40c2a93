"""A MambaVL carries its code: it loads where this package is not installed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from tiny_mambavl import tiny_batch, tiny_model
from without_package import LOAD, MODELS, WITHOUT_PACKAGE, code, import_closure


@pytest.mark.parametrize("entry", ["modeling_mambavl", "modeling_videomamba", "retrieving_videomamba"])
def test_no_checkpoint_carries_the_adapters_of_another_family(entry):
    assert not [name for name in import_closure(entry) if "adapter" in name]


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForVideoClassification"])
def test_a_checkpoint_gives_the_same_numbers_without_the_package(auto_class, tmp_path):
    model = tiny_model()
    if auto_class == "AutoModel":
        model = model.mambavl
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    wanted = import_closure("modeling_mambavl")
    assert code(folder) == {f"{name}.py": (MODELS / f"{name}.py").read_bytes() for name in wanted}
    inputs = tiny_batch()
    arguments = json.dumps({name: values.tolist() for name, values in inputs.items()})
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + LOAD, folder, auto_class, arguments]
    # Kernels would be compiled anew for each copy of the code.
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HMBA_SCAN_BACKEND": "portable"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    without = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert_close(without, model(**inputs)[0], rtol=0, atol=1e-5)
