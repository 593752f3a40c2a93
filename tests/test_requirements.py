"""What pyproject.toml says of other packages: all that is imported, each with a lower bound that has been run."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hmba_hf
from hmba_hf.models import loading_options

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINES = [*PROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
# Whoever reaches these imports has them: a process that DeepSpeed has started, a plug-in that its host has loaded,
# a quantisation by torchao, which is refused in a sentence without it, and the page's tests in their environment.
HOSTS = {"deepspeed", "lmms_eval", "playwright", "torchao", "vllm"}
# A script's own modules lie beside it or in a folder that it adds to the path.
FOLDERS = ("src", "conversion", "examples", "tests")
OWN = {"hmba_hf", *(path.stem for folder in (*FOLDERS[1:], "benchmarks") for path in (ROOT / folder).rglob("*.py"))}
OWN |= {"hub", "kernels"}  # a folder of tests, and a module that the test for Arm writes
MODELS = Path(loading_options.__file__).parent
KINDS = ("configuration", "modeling", "pipeline", "processing", "retrieving", "video_processing")
ENTRIES = sorted(path.stem for kind in KINDS for path in MODELS.glob(f"{kind}_*.py"))


def bound_of(name):
    (requirement,) = {Requirement(line) for line in LINES if canonicalize_name(Requirement(line).name) == name}
    (bound,) = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    return Version(bound)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.fixture
def lowest(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "lowest")
    import run

    yield run
    del sys.modules["run"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_whatever_is_imported_is_declared(folder):
    declared = {canonicalize_name(Requirement(line).name) for line in LINES}
    distributions = packages_distributions()
    missing = set()
    for path in (ROOT / folder).rglob("*.py"):
        for name in set(imported(path)) - sys.stdlib_module_names - HOSTS - OWN:
            providers = {canonicalize_name(provider) for provider in distributions.get(name, [name])}
            if not providers & declared:
                missing.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not missing


def test_the_lowest_versions_are_those_of_the_requirements(lowest):
    project = {
        "name": "hmba-hf",
        "dependencies": ["av>=15", "numpy >= 1.26, <3"],
        "optional-dependencies": {
            "train": ["datasets>=4,!=4.1", "av>=15"],
            "triton": ["triton>=3.6; platform_system == 'Linux'"],
            "mamba-ssm": ["mamba-ssm"],
            "all": ["hmba-hf[train,triton]"],
        },
    }
    found = list(lowest.lowest_requirements(project))
    assert found == ["av==15", "numpy==1.26", "datasets==4", "triton==3.6; platform_system == 'Linux'"]


@pytest.mark.parametrize("line", ["av", "av<19", "av==15", "av[x]", "av @ https://example.org/av.whl"])
def test_a_requirement_without_a_lower_bound_is_refused(lowest, line):
    project = {"name": "hmba-hf", "dependencies": [line], "optional-dependencies": {}}
    with pytest.raises(ValueError, match="a requirement must be name>=version, got 'av"):
        list(lowest.lowest_requirements(project))


def test_every_requirement_has_a_lower_bound_and_the_measured_versions_fit(lowest):
    pinned = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    measured = {canonicalize_name(name): version for name, version in pinned}
    for line in lowest.lowest_requirements(PROJECT["project"]):
        name = canonicalize_name(Requirement(line).name)
        assert Version(measured[name]) >= bound_of(name), name


def test_a_checkpoint_asks_for_the_transformers_that_the_package_asks_for():
    for module in (hmba_hf, loading_options):
        source = Path(module.__file__).read_text()
        (asked,) = re.findall(r'^require_version\("transformers>=([\d.]+)"', source, flags=re.MULTILINE)
        assert Version(asked) == bound_of("transformers")


def test_whatever_a_checkpoint_is_loaded_by_refuses_an_older_transformers():
    """Each file that a config names is imported by itself, as from the Hub, beside a version that is too old."""
    code = f"""
import importlib, importlib.metadata, sys, types
entries = {ENTRIES}
version = importlib.metadata.version
importlib.metadata.version = lambda name: "5.18.0" if name == "transformers" else version(name)
for entry in entries:
    for name in [name for name in sys.modules if name.startswith("carried")]:
        del sys.modules[name]
    sys.modules["carried"] = types.ModuleType("carried")
    sys.modules["carried"].__path__ = [{str(MODELS)!r}]
    try:
        importlib.import_module("carried." + entry)
    except ImportError as error:
        assert "transformers>=5.19 is required" in str(error) and "5.18.0" in str(error), (entry, error)
    else:
        raise AssertionError(entry)
print(len(entries))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == [str(len(ENTRIES))], done.stderr


def test_one_oldest_python_is_named():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    classifiers = re.findall(r"Python :: (3\.\d+)", str(PROJECT["project"]["classifiers"]))
    assert min(map(Version, classifiers)) == Version(oldest)
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
