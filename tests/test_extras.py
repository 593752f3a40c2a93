"""Each extra alone: all of the package that it is for can be imported, and one sentence names what is missing."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from documented import ROOT
from test_installation import PROJECT

OF_THE_PACKAGE = (
    "all",
    "app",
    "cpu",
    "demo",
    "eval",
    "gguf",
    "mamba-ssm",
    "qlora",
    "quantised",
    "serve",
    "train",
    "triton",
)
OF_ITS_DEVELOPMENT = ("dev", "test")
# Optional packages of no extra: they are installed beside the package, or come with a tool that starts it.
BESIDE = {"deepspeed", "kernels", "lmms_eval", "vllm"}
# What each extra is for, and needs no other one.
NEEDED_FOR = {
    "cpu": {"hmba_hf.models.ops_selective_scan_cpu", "hmba_hf.models.ops_causal_conv1d_cpu", "scan_by_numba"},
    "demo": {"curves"},
    "eval": {"hmba_hf.metrics.evaluate_modules", "benchmark_folder"},
    "gguf": set(),  # transformers' own
    "qlora": {"hmba_hf.training.low_rank", "require_bitsandbytes", "read_updates", "load_a_folder"},
    "quantised": set(),  # transformers' own
    "serve": {"hmba_hf.serving.server"},
    "train": {"hmba_hf.training.low_rank", "read_updates", "load_a_folder", "bddx_features", "features_of_actions"},
    "triton": {
        "hmba_hf.models.ops_selective_scan_triton",
        "hmba_hf.models.ops_causal_conv1d_triton",
        "scan_by_triton",
    },
}
COMMAND = re.compile(r"pip install ([^`\n]+)")


def distributions(extra):
    """Return what an extra installs, by canonical names, without what that brings."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found = found.union(*map(distributions, requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def with_what_they_bring(wanted):
    """Return distributions and all that these require, as far as they are installed."""
    found = set()
    waiting = [*wanted]
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            required = canonicalize_name(requirement.name)
            if required not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                waiting.append(required)
    return found


def import_names(wanted):
    """Return the names under which distributions are imported."""
    names = {name.replace("-", "_") for name in wanted}
    for name, providers in packages_distributions().items():
        if wanted.intersection(map(canonicalize_name, providers)):
            names.add(name)
    return names


# h11 cannot be hidden: the client of huggingface_hub imports it.
OPTIONAL = import_names(set().union(*map(distributions, OF_THE_PACKAGE)) - {"h11"}) | BESIDE


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """For each extra, and "" for none, why modules and doors failed, or `None`."""
    environments = {"": sorted(OPTIONAL)}
    for extra in NEEDED_FOR:
        environments[extra] = sorted(OPTIONAL - import_names(with_what_they_bring(distributions(extra))))
    program = ROOT / "tests" / "hidden_packages.py"
    command = [sys.executable, str(program), json.dumps(environments), str(tmp_path_factory.mktemp("scratch"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_extras_are_those_of_the_table():
    assert {*PROJECT["optional-dependencies"]} == {*OF_THE_PACKAGE, *OF_ITS_DEVELOPMENT}
    assert distributions("all") == set().union(*map(distributions, NEEDED_FOR))
    assert distributions("test") == distributions("dev"), "the name of version 0.1 is kept"


def test_without_extras_all_is_imported_but_what_names_a_command_in_one_sentence(outcomes):
    failed = {name: reason for name, reason in outcomes[""].items() if reason is not None}
    for name, reason in failed.items():
        command = COMMAND.search(reason)
        assert command and "\n" not in reason and not re.search(r"\. [A-Z]", reason), f"{name}: {reason}"
        asked = {canonicalize_name(Requirement(word.strip("'")).name) for word in command[1].split()}
        assert asked & {canonicalize_name(name) for name in OPTIONAL}, f"{name}: {reason}"
    assert failed.keys() >= set().union(*NEEDED_FOR.values())
    assert not [name for name in failed if name.startswith("hmba_hf.commands.")], "every verb shows its help"
    assert "hmba_hf" not in failed and "hmba_hf.training.run" not in failed


@pytest.mark.parametrize("extra", NEEDED_FOR)
def test_an_extra_alone_is_enough_for_what_it_is_for(outcomes, extra):
    assert not {name: outcomes[extra][name] for name in NEEDED_FOR[extra] if outcomes[extra][name]}


def test_whatever_fails_without_extras_works_with_the_extra_that_its_message_names(outcomes):
    for name, reason in outcomes[""].items():
        if reason is None or "lmms-eval" in reason or "vLLM" in reason:
            continue
        assert any(outcomes[extra][name] is None for extra in NEEDED_FOR), f"{name}: {reason}"
