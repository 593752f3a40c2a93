"""The benchmarks run at their smallest sizes and print their tables; how long anything takes is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from documented import PROGRAMS, SMALL, name_of, split_program
from hmba_hf.models.configuration_videomamba import SCAN_TYPES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.long


def run(*words):
    """Run a benchmark in a process of its own; return what it printed."""
    command = [sys.executable, str(BENCHMARKS / words[0]), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_documented(script, *words):
    """Run the benchmark as the one command of docs/ does, with the smallest sizes."""
    (line,) = [line for line in PROGRAMS if name_of(line) == script]
    _, documented = split_program(line)
    return run(script, *documented, *SMALL[script], *words)


def columns(printed):
    """Return the column names of every Markdown table."""
    lines = printed.splitlines()
    return [
        [name.strip() for name in head.strip("|").split("|")]
        for head, rule in zip(lines, lines[1:], strict=False)
        if rule.startswith("|---")
    ]


def test_the_scan_benchmark_checks_and_compares_every_candidate_it_is_given(tmp_path):
    peers = ["cpu", "portable", "limit", "transformers"]
    words = "--shapes 1x20x32x4 --dtype float32 bfloat16 --threads 1 2 --repeats 1 --no_memory".split()
    printed = run("selective_scan.py", *words, "--peers", *peers, "--output_dir", tmp_path)
    assert columns(printed)[0] == (
        "shape | pass | dtype | threads | candidate | median | ratio | extra memory | x u | error | note".split(" | ")
    )
    assert columns(printed)[1] == ["shape", "pass", "dtype", "candidate", "2 threads / 1"]
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    missing = {peer for peer in peers if f"\n{peer}: not" in printed or f"\n{peer}: needs" in printed}
    assert {record["candidate"] for record in records} == set(peers) - missing
    assert all(record["times"] and record["check"] for record in records)


def test_the_demos_steps_are_counted_beside_those_of_another_version(tmp_path):
    words = ["--old", BENCHMARKS.parent, "--old_python", sys.executable, "--output_dir", tmp_path]
    printed = run("demo_training.py", *words, "--steps", 10, "--turns", 1, "--batch", 2)
    of_clocks = [f"{what}, {clock}" for clock in ("processor", "wall") for what in ("ms a step", "steps a second")]
    assert columns(printed) == [["steps", *of_clocks]]
    spent = json.loads((tmp_path / "results.json").read_text())["spent"]
    assert {case: len(laps["wall"]) for case, laps in spent.items()} == {
        "H-MBA, today, first visit": 1,
        "H-MBA, today, kept": 4,
        "H-MBA, old": 8,
        "current frame only, today, kept": 8,
        "current frame only, old": 8,
        "whole demo, today": 1,
        "whole demo, old": 1,
    }


def test_the_benchmark_of_vllm_shows_its_options_where_vllm_is_not_and_asks_for_it():
    assert "--system_tokens" in run("vllm_serving.py", "--help")
    script = BENCHMARKS / "vllm_serving.py"
    code = f"import runpy, sys; sys.modules['vllm'] = None; sys.path.insert(0, {str(BENCHMARKS)!r}); "
    code += f"sys.argv = [{str(script)!r}]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "this benchmark needs `pip install vllm`" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_scan_benchmark_measures_memory_in_a_fresh_process():
    words = "--shapes 1x1024x1024x16 --peers cpu portable --repeats 1 --passes forward backward".split()
    rows = [line.split("|") for line in run("selective_scan.py", *words).splitlines()[-4:]]
    ours, portable, ours_backward, portable_backward = (float(row[9]) for row in rows)
    assert 1 <= ours < 2 <= portable and 4 < ours_backward < 6 < portable_backward


def test_the_scan_benchmark_gives_the_cost_of_a_token():
    printed = run_documented("selective_scan.py")
    assert columns(printed) == [["length", "scan, us/token", "mixer, us/token", "attention, us/token", "ratio"]]
    assert "attention costs" in printed


def test_the_adapter_benchmark_compares_the_forms_and_the_tower(tmp_path):
    printed = run_documented("temporal_adapter.py", "--output_dir", tmp_path)
    assert columns(printed)[0][:6] == ["preset", "frames", "pass", "pruned (ours)", "full", "full / pruned"]
    assert columns(printed)[1][:4] == ["preset", "tower, a frame", "next frame, passed", "next frame, read"]
    for record in json.loads((tmp_path / "results.json").read_text())["tower"]:
        assert sum(record["shares"].values()) == pytest.approx(1)
        assert min(record["shares"].values()) > 0


def test_the_streaming_benchmark_compares_four_ways(tmp_path):
    printed = run_documented("streaming.py", "--output_dir", tmp_path)
    assert "the modes' tower: random features" in printed
    assert columns(printed) == [["way", "frames", "frame, unread", "frame, read", "first token", "memory", "note"]]
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    ways = ["window", "recurrent", "sliding clip", "every frame"]
    assert [(r["way"], r["frames"]) for r in records] == [(way, n) for way in ways for n in (3, 6)]
    assert all(record["first token"] > 0 and record["memory"] > 0 for record in records)


def test_the_benchmark_of_long_streams_trains_two_models_and_asks_them(tmp_path):
    printed = run_documented("recurrent_length.py", "--output_dir", tmp_path)
    assert columns(printed) == [["learned on", "frames", "mIoU", "right object"]]
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert [(r["model"], r["frames"]) for r in records] == [
        (m, n) for m in ("clips", "streams") for n in ("window", 5, 60)
    ]


def test_the_benchmark_of_cached_features_checks_the_losses_and_compares_epochs(tmp_path):
    printed = run("cached_features.py", "--quick", "--output_dir", tmp_path)
    assert columns(printed)[0][:5] == ["model", "clips", "epoch with the tower", "epoch on cached features", "ratio"]
    (record,) = json.loads((tmp_path / "results.json").read_text())["epochs"]
    assert record["error"] <= 1e-5 and record["clips"] == 16 and record["ratio"] > 0
    assert len(record["tower"]) == len(record["cached"]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_conversion_holds_a_small_part_of_a_file_in_memory(tmp_path):
    printed = run_documented("conversion_memory.py", "--scratch", tmp_path, "--output_dir", tmp_path / "results")
    assert columns(printed)[0][:4] == ["form", "files", "size", "largest file"]
    records = json.loads((tmp_path / "results" / "results.json").read_text())["records"]
    assert [(record["form"], record["files"]) for record in records] == [("safetensors", 2), ("bin", 2)]
    assert all(record["peak"] - record["before"] < 0.9 * record["largest"] for record in records)


def test_the_benchmark_of_drawn_actions_trains_each_model_once(tmp_path):
    quick = ["action_learning.py", "--quick", "--output_dir", tmp_path]
    printed = run(*quick, "--only", "motion", "pretraining", "teacher", "reach", "two")
    names = ["model", "top-1", "pair of actions", "direction within a right pair", "seeds"]
    assert columns(printed) == [names] * 5
    made = (tmp_path / "runs.jsonl").read_text()
    lines = [json.loads(line) for line in made.splitlines()]
    assert [(line["name"], line["seed"]) for line in lines] == [
        ("temporal_first", 0),
        ("frames shuffled", 0),
        ("CLIP tower", 0),
        ("few labels, from new weights", 0),
        ("few labels, pre-trained", 0),
        ("spatial_first", 0),
        ("spatial_first, pre-trained", 0),
        ("the narrow teacher", 0),
        ("with the teacher", 0),
        ("temporal_first, 1 tap", 0),
        *[(f"{order}, 13 taps", 0) for order in SCAN_TYPES],
        ("spatial_first, two actions", 0),
        ("temporal_first, two actions", 0),
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    (with_teacher,) = [line["scores"] for line in lines if line["name"] == "with the teacher"]
    assert results["teacher"]["with the teacher"] == [with_teacher]
    again = run(*quick, "--only", "teacher")
    assert (tmp_path / "runs.jsonl").read_text() == made
    assert columns(again) == [names]


def test_the_benchmark_of_questions_trains_each_model_once_and_masked_questions_change_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from question_learning import main

    def made_and_printed(*parts):
        words = ["question_learning.py", "--quick", "--output_dir", str(tmp_path), "--only", *parts]
        monkeypatch.setattr(sys, "argv", words)
        main()
        return (tmp_path / "runs.jsonl").read_text(), columns(capsys.readouterr().out)

    made, (one_head, two_discs) = made_and_printed("one_head", "two_discs")
    assert {"cosine", "masked: change", "shift by clip"} < set(one_head) and two_discs[1] == "right"
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(made.splitlines()) == len(results["one_head"]) + len(results["two_discs"])
    for name, (scores,) in results["one_head"].items():
        if name != "no question":
            assert scores["masked: change"] == 0 and scores["cosine"] < 1
    assert results["one_head"]["mamba, shared A"][0]["shift by clip"] < 1e-4
    assert made_and_printed("one_head") == (made, [one_head])


def test_what_a_question_alone_tells_is_known_by_construction(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from question_texts import ANNOTATION, HIDDEN, PREDICTED, best_from_question

    assert best_from_question(HIDDEN, bond=0.5, errors=0.3) == pytest.approx({"verb": 2 / 5, "noun": 1 / 5})
    assert best_from_question(ANNOTATION, bond=0.0, errors=0.3) == pytest.approx({"verb": 2 / 5, "noun": 1 / 5})
    assert best_from_question(ANNOTATION, bond=0.5, errors=0.3) == pytest.approx({"verb": 0.45, "noun": 0.6})
    assert best_from_question(PREDICTED, bond=0.0, errors=0.0) == best_from_question(ANNOTATION, bond=0.0, errors=0.0)


def test_the_benchmark_of_masked_steps_compares_blocks_and_students(tmp_path):
    printed = run("masked_step.py", "--quick", "--masked", 0.5, 0.8, "--output_dir", tmp_path)
    assert columns(printed) == [["part", "masked", "tokens", "of all", "forward + backward", "time / unmasked"]]
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    parts = ["encoder", "student"]
    assert [(r["part"], r["tokens"]) for r in records] == [(part, n) for part in parts for n in (201, 101, 41)]
    assert [r["ratio"] for r in records if r["masked"] == 0] == [1, 1]


def test_the_sweep_over_bases_tells_which_work_and_why_others_do_not():
    printed = run("vlm_bases.py", "--families", "internvl", "vipllava", "florence2")
    assert columns(printed) == [
        ["family", "model type", "sizes", "rows of pictures", "inputs about pictures"],
        ["family", "model type", "result", "why"],
    ]
    assert "| internvl | internvl | tests | Tensor | pixel_values |" in printed
    assert "| vipllava | vipllava | shrunk | Tensor | pixel_values |" in printed
    assert "| florence2 |  | refused | an encoder of texts reads its pictures" in printed
    assert "works: 2 of 3" in printed


def test_the_benchmark_of_answers_compares_both_ways_and_what_is_demanded(tmp_path, monkeypatch):
    printed = run_documented("answer_cost.py", "--output_dir", tmp_path)
    answers, memory, streams = columns(printed)
    assert answers[:5] == ["base", "frames", "tokens, own", "tokens, ours", "stream, own"]
    assert memory[2:5] == ["stream, own", "stream, ours", "stream, ratio"]
    assert streams == ["base", "frames seen", "first token", "adapter"]
    (record,) = json.loads((tmp_path / "results.json").read_text())["answers"]
    picture = 4 + 2  # with the tokens around it
    assert record["tokens"] == {
        "cold own": 2 * picture + 1,
        "cold ours": picture + 1,
    }  # its videos hold two frames each
    assert [len(times) for times in record["times"].values()] == [1] * 5
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from answer_cost import compare

    ratios = {"stream": 4.9, "cold": 1.6, "stream memory": None, "cold memory": None}
    times = [{"base": "b", "length": n, "times": {"answer": [seconds]}} for n, seconds in ((5, 1.0), (100, 1.3))]
    lines = compare([{"base": "b", "frames": 16, "ratios": ratios}], times)
    assert list(lines.values()) == [False, True, False]


def test_operations_of_answers_are_counted_on_shapes_alone():
    printed = run("answer_operations.py", "--bases", "qwen3_vl", "--divisor", 64, "--frames", 1, 4)
    (names,) = columns(printed)
    assert names[2:5] == ["stream, own", "stream, ours", "stream, ratio"]
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:]]
    assert [row[1] for row in rows] == ["1", "4"]
    assert float(rows[0][4]) < 1 < float(rows[1][4])
    assert float(rows[1][7]) < float(rows[1][4])  # the tower adds to both ways


def test_the_benchmark_of_another_base_makes_what_is_missing(tmp_path):
    scores = {"picked": 0.2, "mean_iou": 0.1, "accuracy": 0.1, "unparsed": 0.0}
    made = tmp_path / "runs-2-2-4-4.jsonl"
    made.write_text(json.dumps({"variant": "base alone", "seed": 0, **scores}) + "\n")
    printed = run("vlm_learning.py", "--quick", "--output_dir", tmp_path)
    assert "H-MBA, seed 0" in printed and "base alone, seed 0" not in printed
    assert columns(printed) == [
        ["model", "right object", "by seed", "gate at zero", "mIoU", "Acc@0.5", "unparsed", "seeds"]
    ]
    assert "| base alone | 0.200 | 0.200 |  | 0.100 | 0.100 | 0.000 | 1 |" in printed
    lines = made.read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == ["base alone", "H-MBA"]
    assert 0 <= json.loads(lines[1])["picked_without"] <= 1
    assert (tmp_path / "base" / "model.safetensors").stat().st_size < 6 * 2**20


@pytest.mark.parametrize(
    ("command", "size", "unit"),
    [
        ("train", "micro", "step"),
        ("train", "real", "step"),
        ("stream", "micro", "moment"),
        ("predict", "micro", "clip"),
    ],
)
def test_the_stages_of_a_program_add_up_to_its_whole_time(command, size, unit, tmp_path):
    printed = run("where_time_goes.py", command, "--quick", "--sizes", size, "--output_dir", tmp_path)
    assert [names[0] for names in columns(printed)] == ["stage"]
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert {record["size"] for record in records} == {size}
    for record in records:
        assert record["unit"] == unit and record["laps"] >= 1
        for clock in ("processor", "wall"):
            assert sum(record[clock].values()) == pytest.approx(record[f"{clock}, whole"])
        assert record["processor, gap"] < 0.05  # of each lap, beside readings of its own
        assert abs(record["processor"]["rest"]) < 0.3 * record["processor, whole"]
        if record["case"] != "current frame, kept":
            assert record["processor"]["adapter: scan"] > 0 and record["processor"]["adapter: in_proj"] > 0
    if size == "real" or command != "train":  # the micro-world is drawn
        assert {"decode", "convert and resize", "tower"} <= records[-1]["processor"].keys()


def test_all_readers_of_clips_give_the_same_frames(tmp_path):
    words = "--quick --codecs libx264 --keyframes 2 --clips 2 --cores 2 --workers 0 1 --turns 1".split()
    printed = run("reading_clips.py", *words, "--output_dir", tmp_path)
    names = ["reader", "clips a second", "ms a clip", "time / ours", "wall / ours", "difference"]
    assert columns(printed) == 2 * [names]
    records = json.loads((tmp_path / "results.json").read_text())
    rows = [row for record in records for row in record["rows"]]
    assert {"ours", "transformers, PyAV"} <= {row["reader"] for row in rows}
    assert all(float(row["difference"]) < 1 for row in rows)


def test_the_backward_pass_belongs_to_the_stages_that_made_its_graph(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from stage_clock import StageClock

    clock = StageClock()
    x = torch.ones(300, 300, requires_grad=True)
    with clock.stage_of("first"):
        y = x @ x
        with clock.stage_of("inner"):
            y = y.sin()
    with clock.stage_of("second"):
        loss = (y @ x).sum()
    clock.follow_backward(loss)
    with clock.stage_of("rest, backward"):
        loss.backward()
    lap = clock.lap()
    spent = lap.stages["wall"]
    forward = {"first", "inner", "second", "rest"}
    assert spent.keys() == forward | {f"{name}, backward" for name in forward}
    assert min(spent.values()) >= 0
    assert sum(spent.values()) == pytest.approx(lap.whole["wall"], rel=0.2)


def test_an_adapter_is_compared_with_that_of_a_commit(tmp_path):
    words = ("--cases", "window", "clip bfloat16", "--repeats", 1, "--quick", "--output_dir", tmp_path)
    printed = run("adapter_baseline.py", "--baseline", BENCHMARKS.parent, *words)
    assert columns(printed) == [["case", "before", "now", "before / now", "difference", "runs"]]
    window, clip = json.loads((tmp_path / "results.json").read_text())["records"]
    assert window["error"] == 0 and 0 < clip["error"] < 0.1


def test_a_servers_clients_and_cameras_get_their_own_answers(tmp_path):
    words = "--clients 3 --cameras 2 --seconds 8 --turns 1".split()
    printed = run("serving.py", *words, "--output_dir", tmp_path)
    rows = {row["what"]: row["value"] for row in json.loads((tmp_path / "results.json").read_text())}
    assert columns(printed) == [["what", "value"]]
    assert int(rows["right"]) and int(rows["strangers"])
    assert not [what for what in rows if what in ("wrong", "camera wrong") or what.startswith("lost")]


def test_a_quantised_language_model_is_measured_beside_the_plain_one(tmp_path):
    printed = run("quantised.py", "--quick", "--turns", 1, "--output_dir", tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["weights"] for row in rows] == ["bfloat16", "bnb-4bit", "bnb-8bit"]
    assert columns(printed) == [[*rows[0]]] and "equal to the bit" in printed


def test_every_way_to_a_product_with_weights_of_8_bits_is_near_the_plain_one(tmp_path):
    printed = run("int8_linear.py", "--rows", 4, "--repeats", 1, "--output_dir", tmp_path)
    records = json.loads((tmp_path / "results.json").read_text())
    assert len(records) == 7 and columns(printed)[0][:3] == ["layer", "rows", "float32"]
    assert all(error < 0.02 for record in records for error in record["errors"].values())


def test_a_layer_that_is_read_is_compared_with_a_run_of_all_layers():
    printed = run("tower_layers.py", "--frames", 1, "--repeats", 1, "--layers", 2)
    assert columns(printed) == [["frames", "all layers", "read", "ratio"]]
