"""Versions of transformers before the pinned one: fetched once into `.cache`, and used by processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
LATEST = ROOT / "tests" / "latest"
OLDEST, BEFORE = "5.19.0", "5.23.0"  # the oldest that is taken, and the last with one name for the cache


def fetch(version):
    """Return the folder of one version; the first process that asks has pip fill it."""
    folder = CACHE / f"transformers-{version}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "transformers.lock"):
        if not (folder / "transformers").is_dir():
            options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--target", str(folder)]
            command = [sys.executable, "-m", "pip", "install", *options, f"transformers=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
            assert done.returncode == 0, f"transformers {version} could not be fetched; pip said: {done.stderr}"
    return folder


def run_steps(version, folder, *steps):
    """Run steps of the smoke test with one version; return the version that ran, and errors by step."""
    environment = {**os.environ, "PYTHONPATH": f"{fetch(version)}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, str(LATEST / "smoke.py"), str(folder), "--only", *steps]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert lines, done.stderr
    return lines[0]["versions"]["transformers"], {line["step"]: line["error"] for line in lines[1:]}


@pytest.fixture(scope="module")
def saved_by_the_oldest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oldest")
    return folder, *run_steps(OLDEST, folder, "load", "answer", "stream", "stream_on_any_base", "save")


@pytest.fixture
def smoke(monkeypatch):
    monkeypatch.syspath_prepend(LATEST)
    import smoke

    yield smoke
    smoke.HUB_SOCKET.close()


def test_the_oldest_transformers_loads_answers_streams_and_saves(saved_by_the_oldest):
    _, version, errors = saved_by_the_oldest
    steps = ("load", "answer", "stream", "stream_on_any_base", "save")
    assert version == OLDEST and errors == dict.fromkeys(steps), errors


def test_the_last_transformers_with_one_name_for_the_cache_loads_answers_and_streams(tmp_path):
    version, errors = run_steps(BEFORE, tmp_path, "load", "answer", "stream", "stream_on_any_base")
    assert version == BEFORE and errors == dict.fromkeys(("load", "answer", "stream", "stream_on_any_base")), errors


def test_code_that_the_oldest_has_saved_answers_the_same_with_the_newest(saved_by_the_oldest, smoke):
    smoke.carry_code(saved_by_the_oldest[0])


def test_code_that_the_newest_has_saved_answers_the_same_with_the_oldest(tmp_path, smoke):
    smoke.save(tmp_path)
    smoke.carry_code(tmp_path, str(fetch(OLDEST)))
