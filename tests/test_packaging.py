"""What a wheel and an sdist hold, and the version in them."""

import json
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import hmba_hf
from documented import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IGNORED = [".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split())]
# What setuptools puts into a wheel and an sdist, without building either; its notes go to a scratch folder.
LIST = """
import json, os, sys
from setuptools.dist import Distribution

distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
notes = distribution.get_command_obj("egg_info")
notes.egg_base = sys.argv[1]
notes.ensure_finalized()
notes.run()
wheel = [os.path.relpath(path, build.build_lib) for path in build.get_outputs(include_bytecode=False)]
version = distribution.get_version()
print("\\n" + json.dumps({"wheel": wheel, "sdist": notes.filelist.files, "version": version}))
"""


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    command = [sys.executable, "-c", LIST, str(tmp_path_factory.mktemp("notes"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_ignored(path):
    """Return whether git ignores a file, of which the path is relative to the repository."""
    return any(fnmatch(part, pattern) for part in path.parts for pattern in IGNORED)


def files(folder):
    """Return the files of a folder of the repository, without what git ignores."""
    found = set()
    for path in (ROOT / folder).rglob("*"):
        name = path.relative_to(ROOT)
        if path.is_file() and not is_ignored(name):
            found.add(name.as_posix())
    return found


def test_the_wheel_holds_every_file_of_the_package(listed):
    assert {f"src/{path}" for path in listed["wheel"]} == files("src")


def test_the_sdist_holds_every_file_of_the_repository(listed):
    wanted = {"Makefile", "LICENSE", "pyproject.toml", "constraints.txt", "CITATION.cff", "MANIFEST.in"}
    wanted.update(path.name for path in ROOT.glob("*.md"))
    for folder in ROOT.iterdir():
        if folder.is_dir() and not is_ignored(Path(folder.name)):
            wanted |= files(folder.name)
    assert wanted <= {*listed["sdist"]}
    written = [path for path in listed["sdist"] if ".egg-info" not in path]  # the notes of setuptools itself
    assert not [path for path in written if is_ignored(Path(path))]


def test_the_version_stands_in_one_place(listed):
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert listed["version"] == hmba_hf.__version__
    for path in (ROOT / "src").rglob("*.py"):
        assert path.parent.name == "hmba_hf" or hmba_hf.__version__ not in path.read_text(), path
