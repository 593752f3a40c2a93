"""lmms-eval finds the model and the tasks of this package, and scores the micro base on two clips."""

import subprocess
import sys
from pathlib import Path

from hmba_hf.lmms_eval_plugin import TASKS

MICRO_BASE = Path(__file__).parents[2] / "examples" / "micro_base"
WORDS = {
    "model": "hmba",
    "model_args": f"pretrained={MICRO_BASE},device=cpu",
    "tasks": "hmba_micro_world",
    "batch_size": "2",
    "limit": "2",
    "include_path": str(TASKS),
}

words = [word for name, value in WORDS.items() for word in (f"--{name}", value)]
done = subprocess.run([sys.executable, "-m", "lmms_eval", *words], capture_output=True, text=True, cwd=sys.argv[1])
if "|hmba_micro_world|" not in done.stdout:
    sys.exit(f"lmms-eval printed no scores:\n{done.stdout}\n{done.stderr}")
print("lmms-eval scores the micro base on hmba_micro_world")
