import json
import sys

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from hmba_hf.data.samples import BDDX_QUESTION
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.results import format_table, format_versions, to_eval_results, to_model_index
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.installation import install_command
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.metrics.captioning import score_captions
from hmba_hf.tasks.answering import scores as answer_scores
from hmba_hf.tasks.answering.records import caption_parts

BOX = (0.25, 0.25, 0.75, 0.75)
PRINTED = "[0.250,0.250,0.750,0.750]"
QUICK = Bootstrap(draws=50)


def record(number=0, answer=f"The red van{PRINTED} is cutting in.", **changes):
    fields = {
        "index": number,
        "id": f"clip-{number}",
        "split": "test",
        "question": "Which object?",
        "reference": "The red van<box> is cutting in.",
        "boxes": [BOX],
        "size": [100, 100],
        "tags": [],
        "answer": answer,
        "error": None,
    }
    return fields | changes


def drive(number, answer, reference):
    return record(number, answer, question=BDDX_QUESTION, reference=reference, boxes=[])


def score(records, **options):
    return ScoredRecords(records, QUICK, tokenizer="words", **options).summary()


def test_boxes_and_captions_are_scored_apart_and_boxes_are_no_part_of_a_caption():
    dog = "A dog is running away."
    records = [record(0), record(1, "The red van is cutting in."), record(2, "A dog[0.1,0.2", reference=dog)]
    summary = score(records)
    assert summary["scores"]["mean_iou"] == pytest.approx(1 / 3)
    assert summary["scores"]["unparsed"] == pytest.approx(2 / 3) and summary["scores"]["count"] == 3
    expected = score_captions(
        ["The red van is cutting in.", "The red van is cutting in.", "A dog"],
        [["The red van is cutting in."], ["The red van is cutting in."], [dog]],
        "words",
    )
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider"):
        assert summary["scores"][name] == pytest.approx(getattr(expected, name)), name
    assert summary["tokenizer"] == "words" and summary["absent"].keys() == {"meteor", "spice"}
    numbers = {name for name, value in summary["scores"].items() if isinstance(value, float)}
    assert summary["intervals"].keys() == numbers
    assert json.loads(json.dumps(summary)) == summary


def test_action_and_justification_are_scored_apart():
    records = [
        drive(0, "The car stops\nbecause the light is red", "The car stops\nbecause the light is red"),
        drive(1, "The car turns left", "The car turns left\nto reach the garage"),
    ]
    summary = score(records)
    assert summary["scores"]["action_bleu_1"] == pytest.approx(1)
    assert summary["scores"]["justification_rouge_l"] == pytest.approx(0.5)
    assert "bleu_1" not in summary["scores"] and "mean_iou" not in summary["scores"]
    assert caption_parts(records[1]) == {
        "action_": ("The car turns left", "The car turns left"),
        "justification_": ("", "to reach the garage"),
    }


def test_a_caption_of_two_lines_is_one_caption():
    assert caption_parts(record(0, f"A van{PRINTED}\nstops")) == {"": ("A van\nstops", "The red van is cutting in.")}


def test_a_tag_is_a_slice_and_a_split_a_corpus_of_its_own():
    records = [
        record(0, tags=["risk: van", "night"]),
        record(1, "A dog.", tags=["risk: dog"], reference="The brown dog runs."),
        record(2, "The truck stops.", tags=["night"], reference="A truck stops ahead.", split="validation"),
        record(3, "A bus waits.", reference="The bus is waiting.", split="validation"),
    ]
    summary = score(records)
    assert {tag: group["samples"] for tag, group in summary["tags"].items()} == {
        "night": 2,
        "risk: dog": 1,
        "risk: van": 1,
    }
    assert summary["tags"]["risk: van"]["scores"]["mean_iou"] == pytest.approx(1)
    assert summary["tags"]["risk: dog"]["scores"]["unparsed"] == 1
    each = ScoredRecords(records, tokenizer="words").each()
    assert summary["tags"]["night"]["scores"]["cider"] == pytest.approx((each[0]["cider"] + each[2]["cider"]) / 2)
    assert summary["splits"].keys() == {"test", "validation"}
    assert summary["splits"]["test"] == score(records[:2])
    assert "splits" not in summary["splits"]["test"]


def test_a_record_that_names_a_tag_twice_is_in_its_slice_once():
    records = [record(0, tags=["night", "night"]), record(1, "A dog.", tags=["night"])]
    once = [records[0] | {"tags": ["night"]}, records[1]]
    assert score(records)["tags"] == score(once)["tags"]
    assert score(records)["tags"]["night"]["scores"]["mean_iou"] == pytest.approx(0.5)


def test_a_slice_without_boxes_has_no_score_of_boxes():
    records = [record(0, tags=["box"]), record(1, boxes=[], size=None, reference="A van stops.", tags=["none"])]
    summary = score(records)
    assert "mean_iou" in summary["tags"]["box"]["scores"] and "mean_iou" not in summary["tags"]["none"]["scores"]
    assert summary["samples"] == {"answered": 2, "skipped": 0, "with_box": 1, "with_reference": 2}


def test_the_right_object_is_picked_where_others_are_named():
    others = [[0.0, 0.0, 0.2, 0.2]]
    records = [record(0, others=others), record(1, "A[0.000,0.000,0.200,0.200]", others=others), record(2)]
    assert score(records)["scores"]["picked"] == 0.5
    assert score(records)["intervals"]["picked"] == [0.0, 1.0]
    assert "picked" not in score([record(2)])["scores"]


def test_skipped_samples_are_counted_and_not_scored():
    skipped = {"index": 1, "id": None, "answer": None, "error": "OSError: no picture"}
    summary = score([record(0), skipped])
    assert summary["samples"] == {"answered": 1, "skipped": 1, "with_box": 1, "with_reference": 1}
    assert summary["scores"]["mean_iou"] == pytest.approx(1) and "splits" not in summary
    apart = score([record(0, split="test"), {**skipped, "split": "validation"}])["splits"]
    assert {split: group["samples"]["skipped"] for split, group in apart.items()} == {"test": 0, "validation": 1}
    assert apart["validation"]["scores"] == {}, "of a split that could not be read"


@pytest.mark.parametrize("reference", ["", " \n", "...", "<box>"])
def test_a_reference_without_a_word_is_left_out_and_nothing_to_score_is_no_error(reference):
    summary = score([record(0, reference=reference, boxes=[])])
    assert (summary["scores"], summary["intervals"], summary["tokenizer"]) == ({}, {}, None)
    assert summary["samples"]["answered"] == 1 and summary["samples"]["with_reference"] == 0
    mixed = score([record(0, reference=reference, boxes=[]), record(1)])
    assert mixed["samples"]["with_reference"] == 1 and mixed["scores"]["rouge_l"] == pytest.approx(1)


def test_references_that_the_tokenizer_empties_are_named_and_the_others_scored(monkeypatch):
    monkeypatch.setattr(
        answer_scores, "tokenize_captions", lambda texts, _: [text.replace("ⴰⵣ", "").strip() for text in texts]
    )
    records = [
        record(0),
        record(1, reference="ⴰⵣ"),
        record(2, "A dog.", reference="A dog."),
        record(3, reference="ⴰⵣ"),
    ]
    summary = score(records)
    assert summary["absent"]["references"] == (
        "captions were left out: the tokenizer finds no word in the reference of clip-1, clip-3"
    )
    assert summary["samples"]["with_reference"] == 2 and summary["scores"]["rouge_l"] == pytest.approx(1)
    assert ScoredRecords(records, tokenizer="words").each()[1].keys() == {"index", "id", "iou"}


def test_a_score_that_is_undefined_is_absent_with_a_reason_wherever_it_stands():
    alike = [record(0, tags=["a"]), record(1, tags=["a"]), record(2, tags=["b"])]
    summary = score(alike)
    assert not {"cider"} & {*summary["scores"], *summary["intervals"]}
    assert summary["absent"]["cider"].startswith("cider was left out: every n-gram of the references")
    assert "CIDEr" not in {result.metric_name for result in to_eval_results(summary, "org/drama", "test")}
    assert not any(line.split()[:1] == ["cider"] for line in format_table(summary).splitlines()[:-3])
    assert [one["cider"] for one in ScoredRecords(alike, tokenizer="words").each()] == [None] * 3
    mixed = score([*alike, record(3, "A dog.", reference="The car stops for a dog.", tags=["c"])])
    assert mixed["scores"]["cider"] > 0 and "cider" not in mixed["absent"]
    short = score([drive(0, "a b\nc d e f", "a b\nc d e f"), drive(1, "x\ny", "a\ny z u v")])
    assert {name for name in short["absent"] if "bleu" in name} == {"action_bleu_3", "action_bleu_4"}
    assert short["absent"]["action_bleu_4"] == "action_bleu_4 was left out: no caption and no reference has 4 words"
    tags = score([record(0, "It.", reference="It.", tags=["short"]), record(1, tags=["long"])])["tags"]
    assert tags["long"].keys() == {"samples", "scores", "intervals"}, "as stored runs of 0.1 have it"
    assert "bleu_4" not in tags["short"]["scores"] and tags["short"]["absent"].keys() == {"bleu_2", "bleu_3", "bleu_4"}


def test_a_score_that_is_defined_in_no_resampled_corpus_is_there_without_an_interval():
    records = [record(n, "It.", reference="It.") for n in range(9)] + [record(9, "A dog runs by.", reference="A dog.")]
    for seed, has_interval in ((0, False), (1, True)):  # the first draws none of four words
        summary = ScoredRecords(records, Bootstrap(draws=1, seed=seed), tokenizer="words").summary()
        assert summary["scores"]["bleu_4"] < 1e-3 and summary["scores"]["cider"] > 0
        results = {one.metric_name: one for one in to_eval_results(summary, "org/drama", "test")}
        for name, title in (("bleu_4", "BLEU-4"), ("bleu_1", "BLEU-1")):
            held = has_interval or name == "bleu_1"
            assert (name in summary["intervals"]) == ("interval" in results[title].metric_args) == held


def test_a_box_without_the_size_of_its_frame_is_an_error_that_names_the_record():
    with pytest.raises(ValueError, match="record clip-7: scoring its box needs size"):
        score([record(7, size=None)])


def test_without_the_caption_benchmark_boxes_are_scored_and_a_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    summary = score([record(0)])
    assert summary["scores"]["mean_iou"] == pytest.approx(1) and "bleu_1" not in summary["scores"]
    assert summary["absent"] == {
        "captions": f"captions were left out: caption metrics need `{install_command('eval')}`"
    }
    assert summary["absent"]["captions"] in format_table(summary)


def test_every_record_has_its_own_scores():
    first, second, third = ScoredRecords(
        [record(0), record(1, "A dog."), drive(2, "a\nb", "a\nb")], tokenizer="words"
    ).each()
    assert (first["id"], first["iou"], first["bleu_1"]) == ("clip-0", 1.0, pytest.approx(1))
    assert (second["iou"], second["rouge_l"]) == (0.0, 0.0)
    assert third.keys() >= {"action_bleu_1", "justification_cider"} and "iou" not in third


def test_records_are_read_line_by_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(
        '{"id": "a", "answer": "A\u2028car.", "reference": "A van."}\n{"error": "gone"}\n', encoding="utf-8"
    )
    records = read_records(path)
    assert [one.get("id") for one in records] == ["a", None]
    assert score(records)["scores"]["bleu_1"] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold at least one record, got none"),
        ("{}\n", r"line 1: a record must have \('id', 'answer', 'reference'\), got '{}'"),
        ('{"id": 1, "answer": "", "reference": ""}\n[1]\n', "line 2: a record must have"),
        ('{"id": "a", "ans', "line 1: a record must be a JSON object, got "),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_records(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "line 2: record clip-1: answer must be a text, got None"),
        ({"reference": 3}, "line 2: record clip-1: reference must be a text, got 3"),
        ({"boxes": [[100, 100, 500, 400]]}, "line 2: sample clip-1: a box must have 0 <= x1 < x2 <= 1"),
        ({"boxes": [[0.5, 0.1, 0.2, 0.4]]}, "line 2: sample clip-1: a box must have 0 <= x1 < x2 <= 1"),
        ({"boxes": [0.1, 0.1, 0.5, 0.5]}, r"line 2: record clip-1: a box must be \[x1, y1, x2, y2\], got 0.1"),
        ({"others": [[0, 1]]}, "line 2: sample clip-1: a box must be four finite numbers"),
        (
            {"size": [0, 100]},
            r"line 2: record clip-1: size must be \[height, width\] of at least one pixel, got \[0, 100\]",
        ),
        ({"size": [3, 100, 100]}, r"line 2: record clip-1: size must be \[height, width\]"),
        ({"tags": "night"}, "line 2: record clip-1: tags must be a list of texts, got 'night'"),
        ({"tags": [1]}, r"line 2: record clip-1: tags must be a list of texts, got \[1\]"),
        ({"id": ["clip"]}, r"line 2: record \['clip'\]: id must be a text or a whole number, got \['clip'\]"),
        ({"id": True}, "line 2: record True: id must be a text or a whole number"),
        ({"id": None}, "line 2: record None: id must be a text or a whole number"),
        ({"split": 3}, "line 2: record clip-1: split must be a text or null, got 3"),
        ({"split": {}}, "line 2: record clip-1: split must be a text or null"),
        ({"question": []}, "line 2: record clip-1: question must be a text or null"),
        ({"error": 5}, "line 2: record clip-1: error must be a text or null, got 5"),
        ({"error": {"a": 1}}, "line 2: record clip-1: error must be a text or null"),
        ({"error": "gone", "split": 3}, "line 2: record clip-1: split must be a text or null, got 3"),
        ({"index": "1"}, "line 2: record clip-1: index must be a whole number or null"),
        ({"boxes": 5}, "line 2: record clip-1: boxes must be a list or null, got 5"),
        ({"boxes": {"x": 1}}, "line 2: record clip-1: boxes must be a list or null"),
        ({"others": "none"}, "line 2: record clip-1: others must be a list or null"),
        ({"boxes": [["0", 0, 1, 1]]}, r"line 2: record clip-1: a box must be \[x1, y1, x2, y2\]"),
        ({"boxes": [[0, 0, 1, True]]}, r"line 2: record clip-1: a box must be \[x1, y1, x2, y2\]"),
        ({"boxes": [[0, 0, 1, 10**400]]}, r"line 2: record clip-1: a box must be \[x1, y1, x2, y2\]"),
        ({"boxes": [[0, 0, 1, float("nan")]]}, r"line 2: record clip-1: a box must be \[x1, y1, x2, y2\]"),
        ({"size": ["9", "9"]}, r"line 2: record clip-1: size must be \[height, width\]"),
        ({"size": [9, float("inf")]}, r"line 2: record clip-1: size must be \[height, width\]"),
        ({"size": [[9], [9]]}, r"line 2: record clip-1: size must be \[height, width\]"),
    ],
)
def test_a_record_that_would_score_wrongly_is_refused_with_its_line(tmp_path, changes, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(record(0)) + "\n" + json.dumps(record(1, **changes)) + "\n")
    with pytest.raises(ValueError, match=message):
        read_records(path)


def test_a_sample_of_a_split_counts_once(tmp_path):
    path = tmp_path / "predictions.jsonl"
    unread = {"id": None, "split": "test", "error": "OSError: gone"}
    apart = [record(0), record(0, split="validation"), record(0, split=None), record(0, id=0), unread, unread]
    path.write_text("".join(json.dumps(one) + "\n" for one in apart))
    assert len(read_records(path)) == 6
    for again in (record(0, "another answer"), {"id": "clip-0", "split": "test", "error": "OSError: gone"}):
        path.write_text("".join(json.dumps(one) + "\n" for one in (record(0), record(1), again)))
        with pytest.raises(ValueError, match="line 3: a .* must be once .*, got 'clip-0' of 'test' in line 1, too"):
            read_records(path)


def test_a_split_without_a_name_is_none(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(record(0, split=split)) + "\n" for split in (None, "")))
    with pytest.raises(ValueError, match="line 2: a sample must be once in a split, got 'clip-0' of None in line 1"):
        read_records(path)


def test_an_id_is_a_text_also_where_it_is_written_as_a_number(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(record(0, id=name)) + "\n" for name in (7, 8, "7")))
    with pytest.raises(ValueError, match="line 3: a .* must be once in a split, got '7' of 'test' in line 1, too"):
        read_records(path)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"id": "\xff"}', b"9" * 5000])
def test_a_line_that_cannot_be_read_is_named(tmp_path, line):
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(json.dumps(record(0)).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match="predictions.jsonl, line 2: a record must be a JSON object, got "):
        read_records(path)


def test_results_go_to_a_model_card_and_come_back():
    summary = score([record(0), record(1, "A dog.", reference="The dog<box> runs.")])
    results = to_eval_results(summary, "org/drama", "test", "0" * 40)
    found = {result.metric_name: result for result in results}
    assert found.keys() >= {"mIoU", "Acc@0.5", "BLEU-4", "CIDEr", "ROUGE-L"} and "METEOR" not in found
    assert found["mIoU"].metric_value == pytest.approx(0.5) and "tokenizer" not in found["mIoU"].metric_args
    arguments = found["BLEU-4"].metric_args
    assert arguments["tokenizer"] == "words" and arguments["draws"] == 50 and len(arguments["interval"]) == 2
    assert (arguments["answered"], arguments["skipped"]) == (2, 0)
    assert {(one.dataset_name, one.dataset_split, one.dataset_revision) for one in results} == {
        ("drama", "test", "0" * 40)
    }
    index = json.loads(json.dumps(to_model_index("hmba-drama", results)))
    name, again = model_index_to_eval_results(index["model-index"])
    assert name == "hmba-drama" and again == results
    card = ModelCard.from_template(
        ModelCardData(model_name=name, eval_results=again), template_str="---\n{{ card_data }}\n---\n"
    )
    assert ModelCard(str(card)).data.eval_results == results


def test_a_card_tells_versions_and_nothing_else_that_java_has_said():
    told = {
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "java": 'openjdk version "17.0.15" 2025-04-15',
        "evaluate": None,
    }
    assert format_versions(told) == 'python 3.11.7, torch 2.13.0+cpu, java openjdk version "17.0.15" 2025-04-15'
    of_an_older_run = "Picked up JAVA_TOOL_OPTIONS: -Dhttp.proxyPassword=swordfish"
    assert format_versions({**told, "java": of_an_older_run}) == "python 3.11.7, torch 2.13.0+cpu"


def test_results_of_actions_and_justifications_have_names_of_their_own():
    records = [drive(0, "a b c d\ne f", "a b c d\ne f"), drive(1, "a b", "a c d e\ng h")]
    results = to_eval_results(score(records), "org/bddx", "test")
    assert {result.metric_name for result in results} >= {"action BLEU-4", "justification CIDEr"}
    assert {result.metric_type for result in results} == {"bleu", "rouge", "cider"}
    assert to_model_index("none", []) == {"model-index": []}


def test_the_table_has_a_line_for_each_score_and_one_for_each_reason():
    summary = score([record(0, tags=["night"]), record(1, "A dog.")])
    lines = format_table(summary).splitlines()
    names = [line.split()[0] for line in lines[: len(summary["scores"])]]
    assert names == list(summary["scores"])
    assert any(line.split()[:3] == ["mean_iou", "0.500", "0.000"] for line in lines)
    assert "night: 1 of 2 samples" in lines and "95 % intervals of 50 resampled corpora" in lines
    assert summary["absent"].keys() == {"meteor", "spice", "cider"}
    assert lines[-3:] == list(summary["absent"].values())


def test_a_reworded_question_keeps_the_parts_of_its_answer_apart():
    record = {"id": "0", "question": "What happens, and why?", "parts": ["action", "justification"]}
    record |= {"answer": "It stops.\nA light is red.", "reference": "It halts.\nThe light is red."}
    parts = caption_parts(record)
    assert parts == {
        "action_": ("It stops.", "It halts."),
        "justification_": ("A light is red.", "The light is red."),
    }


def test_a_record_of_version_0_1_that_names_no_parts_is_told_by_its_question():
    record = {"id": "0", "question": BDDX_QUESTION, "answer": "It stops.", "reference": "It halts.\nRed light."}
    assert caption_parts(record) == {"action_": ("It stops.", "It halts."), "justification_": ("", "Red light.")}
