"""Drive the live page in a browser: install the extra `app` beside the package, and run tests/test_app_page.py.

    make test-app                              # installs, and runs
    make test-app TESTS="-k boxes"             # with other words for pytest

Builds `.cache/app`, an environment of its own, with the versions of measured.py. The browser is Chromium, Debian's
package `chromium`; `HMBA_CHROMIUM` names another one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from measured import constraints_beside_gradio

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "app"
PYTHON = PLACE / "bin" / "python"
INSTALLED = PLACE / "installed.txt"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RESULTS = ROOT / "benchmarks" / "results" / "live_page.md"


def find_browser() -> str:
    """Return the path of Chromium; without one the program ends with a sentence."""
    named = os.environ.get("HMBA_CHROMIUM")
    found = [path for path in map(shutil.which, [named] if named else BROWSERS) if path]
    if not found:
        sys.exit("make test-app needs Chromium: install Debian's package chromium, or name one by HMBA_CHROMIUM")
    return found[0]


def build() -> None:
    """Build the environment, unless it is there with the same requirements."""
    wanted = constraints_beside_gradio()
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    if INSTALLED.is_file() and INSTALLED.read_text("utf-8") == wanted + project:
        return
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
    (PLACE / "constraints.txt").write_text(wanted, "utf-8")
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--constraint", str(PLACE / "constraints.txt")]
    subprocess.run([*install, "torch"], check=True)
    subprocess.run([*install, "--editable", f"{ROOT}[app,cpu,dev,serve]", "playwright"], check=True)
    INSTALLED.write_text(wanted + project, "utf-8")


def main() -> None:
    """Build the environment and hand all words to pytest in it."""
    browser = find_browser()
    build()
    words = [str(PYTHON), "-m", "pytest", "tests/test_app_page.py", *sys.argv[1:]]
    variables = {"HMBA_TEST_BROWSER": browser, "HMBA_APP_RESULTS": str(RESULTS)}
    sys.exit(subprocess.run(words, cwd=ROOT, env=os.environ | variables).returncode)


if __name__ == "__main__":
    main()
