"""The studies: their measures on tiny models, their words, and `hmba study` with next to no training."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hmba_hf.commands.study import main as run_studies
from hmba_hf.data.loading import TWO_TASKS, load_samples
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import BDDX_QUESTION, RISK_QUESTION
from hmba_hf.installation import install_command
from hmba_hf.models.layers_temporal_adapter import BRANCHES
from hmba_hf.tasks.answering.studies import catalogue
from hmba_hf.tasks.answering.studies.catalogue import STUDIES, Study, write_page
from hmba_hf.tasks.answering.studies.measuring import KINDS, adapter_memory, attention_masses
from hmba_hf.tasks.answering.studies.tables import compare, markdown_table, spread
from tiny_models import open_gate, tiny_model
from tiny_processors import tiny_processor
from tiny_runs import run_commands_here

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "test", 5)
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def ablate(monkeypatch, tmp_path):
    """Run `hmba study` inside this process, for one seed."""
    monkeypatch.chdir(tmp_path)
    run_commands_here(monkeypatch)
    return lambda *words: run_studies([*map(str, words), "--output_dir", str(tmp_path / "runs")])


def scores(mean_iou=0.5, picked=0.75):
    return {"mean_iou": mean_iou, "accuracy": 0.5, "picked": picked, "unparsed": 0.0}


def test_the_querys_attention_to_all_contexts_sums_to_one():
    model, processor = open_gate(tiny_model()), tiny_processor()
    masses = attention_masses(model, processor, WORLD, batch_size=2)
    assert list(masses) == [f"{branch}/stride_{stride}" for stride in (1, 2) for branch in model.config.branches]
    assert sum(masses.values()) == pytest.approx(1) and min(masses.values()) > 0
    assert attention_masses(model, processor, WORLD, batch_size=5) == pytest.approx(masses)
    one = tiny_model(branches=["temporal"], temporal_strides=[3])
    assert attention_masses(one, processor, WORLD) == pytest.approx({"temporal/stride_3": 1})


def test_attention_is_refused_of_a_fusion_without_it():
    with pytest.raises(ValueError, match="fusion must be 'query', .*, got 'add'"):
        attention_masses(tiny_model(fusion="add"), tiny_processor(), WORLD)


def test_two_tasks_come_by_turns():
    samples = load_samples(TWO_TASKS, "test", 4, frame_size=32)
    assert [sample.question for sample in samples] == 2 * [RISK_QUESTION, BDDX_QUESTION]
    assert (samples[2].answer, samples[3].answer) == (WORLD[2].answer, WORLD.ego_sample(3).answer)


def test_numbers_are_told_with_their_spread():
    assert spread([0.5, 0.7]) == "0.600 ± 0.141" and spread([0.25]) == "0.250" and spread([3.0, 3.0], 1) == "3.0 ± 0.0"
    assert markdown_table([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]) == "| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |"


def test_an_order_that_does_not_hold_is_told():
    values = {"high": [0.6, 0.62], "low": [0.3, 0.34], "near": [0.5, 0.7]}
    assert compare("high", "low", values) == "`high` above `low`: so it is, by 0.290."
    assert compare("low", "high", values) == "`low` above `high`: **not so**, it is below by 0.290."
    assert compare("high", "near", values).startswith("`high` above `near`: undecided, they differ by +0.010 and")


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_what_a_study_expects_is_among_its_rows(study):
    assert {row.split(",")[0] for pair in study.expected for row in pair} <= set(study.variants)
    assert len({json.dumps(variant) for variant in study.variants.values()}) == len(study.variants)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_adapters_memory_is_that_of_its_results_at_least(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert 2**14 < adapter_memory(tmp_path) < 2**28


@pytest.mark.long
def test_every_study_runs_from_training_to_table_and_plot(ablate, tmp_path, capsys, monkeypatch):
    """One variant besides the paper preset for each study, one step, two clips: enough to go all the way."""
    few = {}
    for name, study in STUDIES.items():
        labels = [*study.variants][:1] + [*study.variants][-1:]
        kept = {label: study.variants[label] for label in labels}
        expected = [pair for pair in study.expected if {row.split(",")[0] for row in pair} <= set(kept)]
        few[name] = Study(study.title, study.question, kept, expected, study.telling, study.measure, study.lengthen)
    monkeypatch.setattr(catalogue, "STUDIES", few)
    words = ["--steps", 1, "--batch_size", 2, "--clips", 2, "--seeds", 0]
    ablate("all", *words)
    printed = capsys.readouterr().out
    for name, study in few.items():
        folder = tmp_path / "runs" / name
        table = (folder / "table.md").read_text()
        assert table in printed and table.count("\n|") >= 2
        results = json.loads((folder / "results.json").read_text())
        assert (
            results["records"].keys() == study.variants.keys() and f"hmba study {name} --seeds 0" in results["command"]
        )
        with Image.open(folder / "plot.png") as plot:
            assert plot.width > 600
    assert "do not transfer to real roads" in printed and "`query, blur` above `add, blur`: undecided" in printed
    check_measures(tmp_path / "runs")
    ablate("all", "page", *words, "--page", tmp_path / "page.md")
    assert "$ python" not in capsys.readouterr().out, "nothing is done twice"
    page = (tmp_path / "page.md").read_text()
    assert page.count("\n## ") == page.count("![") == len(STUDIES) and "do not transfer to real roads" in page
    assert all((tmp_path / name).exists() for name in re.findall(r"!\[.*?\]\((.*?)\)", page))


def check_measures(folder):
    """Look at what the three studies measure that measure more than scores."""

    def records(name):
        return json.loads((folder / name / "results.json").read_text())["records"]

    for runs in records("degradation").values():
        kinds = runs[0]["degradation"]
        assert list(kinds) == ["blur", "occlusion", "darkness"]
        assert all(list(severities) == ["0.25", "0.5", "1.0"] for severities in kinds.values())
    few, many = (runs[0]["cost"] for runs in records("cost").values())  # 3 frames, stride 1; 9 frames, strides 1 and 2
    assert few["flops"]["adapter"] < many["flops"]["adapter"] and few["adapter_memory"] != many["adapter_memory"]
    assert few["full_size_flops"]["vision_tower"] * 3 == many["full_size_flops"]["vision_tower"]
    (runs,) = records("attention").values()
    for kind in ("risk", "description", "fresh"):
        assert sum(runs[0]["attention"][kind].values()) == pytest.approx(1)
    assert runs[0]["attention"]["risk"] != runs[0]["attention"]["description"]


def test_runs_are_shared_between_studies_and_repeated_only_if_they_would_be_others(
    ablate, tmp_path, monkeypatch, capsys
):
    ious = {"mamba": 0.6, "none": 0.25, "mean": 0.25, "transformer": 0.65}
    done = []

    def pretend(command, check):
        """Leave what the command would: a folder of a model, or the scores of one."""
        script = next(word.rpartition(".")[2] for word in command if word.startswith("hmba_hf.commands."))
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        done.append((script, command))
        if script == "evaluate":
            mean_iou = ious.get(folder.parent.name.split("-")[0], 0.5) + 0.1 * int(folder.parent.name.split("-")[-2])
            (folder / "metrics.json").write_text(json.dumps({"scores": scores(mean_iou)}))

    monkeypatch.setattr(subprocess, "run", pretend)

    def scripts(*words):
        done.clear()
        ablate(*words, "--seeds", 0, 1)
        return [script for script, _ in done]

    assert scripts("baselines") == 8 * ["finetune", "evaluate"]
    seeds = [command[command.index("--seed") + 1] for script, command in done if script == "finetune"]
    assert seeds == ["0", "1"] * 4
    table = (tmp_path / "runs" / "baselines" / "table.md").read_text()
    assert "| mamba | 0.650 ± 0.071 | 0.500 ± 0.000 | 0.750 ± 0.000 | 0.000 ± 0.000 | 2 |" in table
    assert "`mamba` above `none`: so it is, by 0.350." in table
    assert "`mamba` above `transformer`: undecided" in table and table in capsys.readouterr().out
    gates = ["--gate_learning_rate" in command for script, command in done if script == "finetune"]
    assert gates == 2 * [True] + 4 * [False] + 2 * [True]
    assert scripts("baselines") == []
    assert scripts("branches") == 6 * ["finetune", "evaluate"], "the paper preset has been run"
    assert [command[command.index("--branches") + 1] for _, command in done[::4]] == list(BRANCHES)
    assert scripts("baselines", "--clips", 50) == 8 * ["evaluate"]
    assert scripts("baselines", "--motion", "order") == 8 * ["finetune", "evaluate"]
    assert all(command[command.index("--motion") + 1] == "order" for _, command in done)
    assert scripts("baselines") == [], "another motion has runs of its own"
    folder = tmp_path / "runs" / "runs" / "none-1-300"
    (folder / "test-500" / "predictions.jsonl").write_text("")
    (folder / "recipe.json").write_text((folder / "recipe.json").read_text().replace('"base": "', '"base": "other'))
    assert scripts("baselines") == ["finetune", "evaluate"], "what was there came from another base"
    assert not (folder / "test-500" / "predictions.jsonl").exists(), "and so did its answers"


def test_a_study_that_this_motion_does_not_allow_is_refused_before_anything_runs(ablate, capsys):
    with pytest.raises(SystemExit):
        ablate("baselines", "frames", "--motion", "order")
    assert "frames cannot be run: " in (told := capsys.readouterr()).err and "run 1 of" not in told.out


def test_what_is_left_in_a_spoilt_frame_is_told_as_a_share_of_the_clean_score():
    spoilt = {kind: {severity: scores(0.3) for severity in ("0.25", "0.5", "1.0")} for kind in KINDS}
    strong, weak = ([{"scores": scores(clean), "degradation": spoilt}] * 2 for clean in (0.6, 0.4))
    told = STUDIES["degradation"].tell({"query": strong, "add": weak})
    assert "`query, blur` above `add, blur`: **not so**, it is below by 0.250." in told


def test_a_page_refuses_results_of_another_base(ablate, tmp_path):
    folder = tmp_path / "runs" / "strides"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"command": "", "base": "other", "records": {}}))
    with pytest.raises(SystemExit, match="of another base: run strides again"):
        ablate("page", "--page", tmp_path / "page.md")


def test_a_page_tells_what_has_not_been_run_and_needs_something_that_has(ablate, tmp_path):
    with pytest.raises(SystemExit, match="the folder must hold results of studies, got none in .*runs"):
        ablate("page", "--page", tmp_path / "page.md")
    records = {label: [{"scores": scores(0.5 + i / 10)}] for i, label in enumerate(STUDIES["strides"].variants)}
    page = write_page({"strides": {"command": "python a.py strides", "records": records, "plot": None}}, "base")
    assert page.count("Not run.") == len(STUDIES) - 1
    assert "`python a.py strides`" in page and "| 1 and 2 | 0.700 |" in page and "![" not in page
    labels = STUDIES["fusion"].variants
    more = {"command": "python a.py fusion", "records": dict.fromkeys(labels, [{"scores": scores()}]), "plot": "f.png"}
    both = write_page({"fusion": more}, "base", page)
    assert both.count("Not run.") == len(STUDIES) - 2 and "| 1 and 2 | 0.700 |" in both and "![Fusion](f.png)" in both
    assert write_page({}, "base", both) == both, "what is on the page stays there"
    assert write_page({"fusion": more}, "other", both).count("Not run.") == len(STUDIES) - 1, "but not of another base"


def test_a_study_without_matplotlib_says_how_to_get_its_plot(ablate, tmp_path, monkeypatch, capsys):
    def pretend(command, check):
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"scores": scores()}))

    monkeypatch.setattr(subprocess, "run", pretend)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ablate("strides", "--seeds", 0)
    assert f"no plot: plotting curves needs `{install_command('demo')}`" in capsys.readouterr().out
    assert (tmp_path / "runs" / "strides" / "table.md").exists()
    assert not (tmp_path / "runs" / "strides" / "plot.png").exists()


def test_a_page_of_no_studies_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="must hold results of studies, got none"):
        run_studies(["page"])
    assert not [*tmp_path.rglob("*")]
