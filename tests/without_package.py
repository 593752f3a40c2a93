"""Checkpoints in a process that cannot import this package, whatever is installed, and the code that they carry."""

import ast
from pathlib import Path

import hmba_hf

MODELS = Path(hmba_hf.__file__).parent / "models"

WITHOUT_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hmba_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import hmba_hf
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the package can be imported")
"""
LOAD = """
import json, sys
import torch, transformers

folder, auto_class, arguments = sys.argv[1:]
model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
inputs = {name: torch.tensor(values) for name, values in json.loads(arguments).items()}
with torch.no_grad():
    print(json.dumps(model(**inputs)[0].tolist()))
"""


def code(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.py")}


def import_closure(name):
    """Follow `from .sibling import x` from a module of the package to all that it needs."""
    wanted, found = [name], set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            tree = ast.parse((MODELS / f"{name}.py").read_text())
            wanted += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    return found
