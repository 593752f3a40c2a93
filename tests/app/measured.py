"""The versions with which the live page was measured: Gradio wants Pillow below the one of constraints.txt."""

import re
from pathlib import Path

MEASURED = ("gradio==6.31.0", "pillow==12.3.0", "playwright==1.65.2")


def constraints_beside_gradio() -> str:
    """Return constraints for pip in which Gradio can be installed."""
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8")
    return re.sub(r"^pillow==.*\n", "", constraints, flags=re.MULTILINE) + "\n".join(MEASURED) + "\n"
