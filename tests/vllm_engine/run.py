"""Run the tests of the vLLM plug-in beside vLLM's build for CPUs.

    make test-vllm                       # everything
    make test-vllm TESTS="-k chat"       # any words for pytest

Builds `.cache/vllm` as `make matrix` builds its environment of this name. An environment that is there is used again
as long as the requirements stay the same. It downloads gigabytes; each engine takes minutes to start.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests" / "matrix"), str(ROOT / "tests" / "latest")]

from environments import ENVIRONMENTS, install, installed_versions  # noqa: E402
from interpreters import find_pythons  # noqa: E402

PLACE = ROOT / ".cache" / "vllm"
INSTALLED = PLACE / "installed.txt"
FILES = sorted(Path(__file__).parent.glob("engine_*.py"))
SECONDS_OF_A_TEST = 3000
# One request at a time is compared with the pipeline's, so engines are small and quiet.
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def build() -> str:
    """Build the environment, unless it is there with the same requirements, and return its Python."""
    environment = ENVIRONMENTS["vllm"]
    wanted = (ROOT / "pyproject.toml").read_text("utf-8") + repr(environment)
    if INSTALLED.is_file() and INSTALLED.read_text("utf-8") == wanted:
        return str(PLACE / "bin" / "python")
    interpreter = find_pythons()[environment.python]
    python = install(environment, interpreter, ROOT, PLACE)
    INSTALLED.write_text(wanted, "utf-8")
    return python


def main() -> None:
    """Build the environment and run the tests in it."""
    python = build()
    print(installed_versions(python), flush=True)
    words = ["-p", "no:cacheprovider", "--timeout", str(SECONDS_OF_A_TEST), *map(str, FILES), *sys.argv[1:]]
    ran = subprocess.run([python, "-m", "pytest", *words], cwd=ROOT, env=os.environ | SETTINGS)
    sys.exit(ran.returncode)


if __name__ == "__main__":
    main()
