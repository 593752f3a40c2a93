"""vLLM and this package in one process: the micro base answers, as it does without vLLM."""

import sys
from pathlib import Path

import vllm

sys.path.insert(0, str(Path(__file__).parents[1] / "latest"))
from smoke import answer  # noqa: E402

answer(Path(sys.argv[1]))
print(f"vllm {vllm.__version__} is imported and the micro base answers")
