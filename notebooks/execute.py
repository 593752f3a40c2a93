"""Run the notebooks in a kernel and keep their outputs, small: `python notebooks/execute.py`.

It needs `pip install nbclient nbformat ipykernel`. Pictures become JPEG files, and what goes to the error stream, such
as progress, is left out. `tests/test_notebooks.py` runs the same cells without a kernel.
"""

import base64
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

import hmba_hf

FOLDER = Path(__file__).parent
PACKAGE = Path(hmba_hf.__file__).parent
WIDTH = 720
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(path: Path) -> None:
    """Run a notebook in an empty folder and write it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as scratch:
        resources = {"metadata": {"path": scratch}}
        NotebookClient(notebook, timeout=600, resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [small(output) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def small(output: Any) -> Any:
    """Return an output of a cell without the path of the package, its picture as a JPEG file of `WIDTH` pixels."""
    if "text" in output:
        output.text = output.text.replace(f"{PACKAGE.parent}/", "")  # messages name folders of the package
    drawn = output.get("data", {}).pop("image/png", None)
    if drawn is None:
        return output
    picture = Image.open(BytesIO(base64.b64decode(drawn))).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH))
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    output.data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()
    output.data["text/plain"] = f"a picture of {picture.width} x {picture.height} pixels"
    return output


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        execute(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
