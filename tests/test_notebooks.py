"""The notebooks run from their first cell to their last, each in a process and a folder of its own."""

import json
import os
import re
import subprocess
import sys

import pytest

from documented import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What must hold behind the last cell, in the names of the notebook.
ENDS = {
    "finetune_and_ask": [
        "answer['objects'] and answer['objects'][0]['box'].keys() == {'xmin', 'ymin', 'xmax', 'ymax'}",
        "scores.count == HELD_OUT and scores.unparsed < 0.5",
        "tuned_scores.mean_iou > scores.mean_iou and tuned_answer['objects']",
        "(model / 'loss.png').is_file()",
    ],
    "stream_a_drive": [
        "[answer['timestamp'] for answer in answers] == [seconds for seconds, _ in drive][length - 1 :: length]",
        "len(state_sizes) > 10 and len(set(state_sizes)) == 1",
        "hits > SCENES / world.config.num_objects",
    ],
}
MACHINE = re.compile(r"/(home|root|tmp|work|Users|var)/")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read_cells(path, kind):
    notebook = json.loads(path.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_every_notebook_has_an_end_to_check():
    assert {path.stem for path in NOTEBOOKS} == ENDS.keys()


@each_notebook
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    lines = []
    for number, source in enumerate(read_cells(path, "code"), start=1):
        lines += [f"# code cell {number}", source]
    lines += [f"assert {end}, {end!r}" for end in ENDS[path.stem]]
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n".join(lines))
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@each_notebook
def test_jupyter_can_open_a_notebook(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    for cell in notebook["cells"]:
        wanted = {"id", "cell_type", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
        assert cell.keys() == wanted


@each_notebook
def test_a_notebook_is_small_and_says_nothing_of_the_machine_that_ran_it(path):
    assert path.stat().st_size < 400_000
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr" and output["output_type"] != "error"
            texts = [output.get("text", ""), *output.get("data", {}).values()]
            for kind, content in output.get("data", {}).items():
                if kind.startswith("image/"):
                    texts.remove(content)
            assert not MACHINE.search(json.dumps(texts))


@each_notebook
def test_a_notebook_says_what_its_answers_are_worth_and_shows_one_idea_a_cell(path):
    assert "worth nothing on real roads" in read_cells(path, "markdown")[0]
    for source in read_cells(path, "code"):
        assert len(source.splitlines()) <= 20
    for source in read_cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#:]+)\)", source):
            assert (path.parent / target).exists(), target
