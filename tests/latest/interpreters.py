"""The Pythons of this machine."""

import glob
import os
import re
import subprocess
import sys

OLDEST = (3, 11)  # the first that transformers takes


def find_pythons() -> dict[str, str]:
    """Return an interpreter for each version of Python from 3.11 on, `{"3.12": path}`."""
    folders = [
        *os.environ.get("PATH", "").split(os.pathsep),
        *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin")),
    ]
    candidates = [sys.executable, *(path for folder in folders for path in sorted(glob.glob(f"{folder}/python3.*")))]
    found: dict[str, str] = {}
    for path in candidates:
        if path == sys.executable or re.fullmatch(r"python3\.\d+", os.path.basename(path)):
            version = version_of(path)
            if version is not None and tuple(map(int, version.split("."))) >= OLDEST:
                found.setdefault(version, path)
    return dict(sorted(found.items(), key=lambda item: tuple(map(int, item[0].split(".")))))


def version_of(python: str) -> str | None:
    """Return the version of an interpreter, `"3.12"`; nothing if it does not start."""
    command = [python, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
