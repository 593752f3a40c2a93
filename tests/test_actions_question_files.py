import json

import pytest

from hmba_hf.data.actions.question_files import read_questions
from hmba_hf.data.actions.questioned import Question

HEADS = ("verb", "noun")
WANTED = {
    "a": (Question("verb", "predicted", "How?"), Question("noun", "predicted", "What?")),
    "b": (Question("noun", "predicted", "Which?"),),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "narration_id,verb_question,noun_question\na,How?,What?\nb, ,Which?\n"),
        ("q.csv", ",narration_id,noun question,verb question\n0,a,What?,How?\n1,b,Which?,\n"),
        (
            "q.json",
            '[{"narration_id": "a", "verb_question": "How?", "noun_question": "What?"},'
            ' {"narration_id": "b", "noun_question": "Which?", "verb_question": null}]',
        ),
        ("q.json", '{"a": {"verb_question": "How?", "noun_question": "What?"}, "b": {"noun_question": "Which?"}}'),
    ],
)
def test_questions_are_read_by_id_and_head_and_keep_their_source(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    read = read_questions([tmp_path / name], "predicted", HEADS)
    assert read.questions == WANTED and read.found == 2 and read.dropped == []


def test_each_entry_is_a_question_or_is_named_with_the_reason(tmp_path):
    (tmp_path / "q.csv").write_text("narration_id,verb_question\na,How?\na,Why?\nb,\n,How?\nc,How?,more\n")
    entries = [{"narration_id": "d", "noun_question": "What?"}, {"narration_id": 5}, "e", {"verb_question": "How?"}]
    (tmp_path / "q.json").write_text(json.dumps([*entries, {"narration_id": "a", "verb_question": "Once more?"}]))
    read = read_questions([tmp_path / "q.csv", tmp_path / "q.json"], "annotation", HEADS)
    assert {name: questions[0].text for name, questions in read.questions.items()} == {"a": "How?", "d": "What?"}
    assert [(item.id, item.reason) for item in read.dropped] == [
        ("q.csv, line 6", "malformed_entry"),
        ("q.csv, line 3", "doubled_id"),
        ("q.csv, line 4", "malformed_entry"),
        ("q.csv, line 5", "malformed_entry"),
        ("q.json, entry 1", "malformed_entry"),
        ("q.json, entry 2", "malformed_entry"),
        ("q.json, entry 3", "malformed_entry"),
        ("q.json, entry 4", "doubled_id"),
    ]
    assert read.found == len(read.questions) + len(read.dropped)


@pytest.mark.parametrize("text", [5, 0, False, True, ["How?"], {"text": "How?"}])
@pytest.mark.parametrize("column", ["verb_question", "verb question"])
def test_a_question_that_is_no_text_is_named_and_not_left_out(tmp_path, text, column):
    entries = [{"narration_id": "a", column: text, "noun_question": "What?"}, {"narration_id": "b", column: None}]
    entries.append({"narration_id": "c", column: "How?", "other": 5})
    (tmp_path / "q.json").write_text(json.dumps(entries))
    read = read_questions([tmp_path / "q.json"], "predicted", HEADS)
    assert list(read.questions) == ["c"] and read.found == 3
    assert [item.id for item in read.dropped] == ["q.json, entry 0", "q.json, entry 1"]
    assert f"entry 0, a: {column} must be a text or null, got {text!r}" in str(read.dropped[0])


def test_a_question_with_half_a_letter_is_named_with_the_reason(tmp_path):
    entries = {"a": {"verb_question": "How\ud800?"}, "\udfff": {"verb_question": "How?"}}
    entries |= {"b": {"verb_question": "How?", "noun question": None, "other": "\ud800"}}
    (tmp_path / "q.json").write_text(json.dumps(entries))
    read = read_questions([tmp_path / "q.json"], "predicted", HEADS)
    assert list(read.questions) == ["b"] and read.found == 3
    assert [(item.id, item.reason, item.detail) for item in read.dropped] == [
        ("q.json, entry 0", "text_is_no_unicode", r"'How\ud800?'"),
        ("q.json, entry 1", "text_is_no_unicode", r"'\udfff'"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "narration_id,verb_question\n a ,How?\n a,Why?\n  ,How?\n"),
        (
            "q.json",
            '[{"narration_id": " a ", "verb_question": "How?"}, {"narration_id": "a", "verb_question": "Why?"},'
            ' {"narration_id": "  ", "verb_question": "How?"}]',
        ),
        (
            "q.json",
            '{" a ": {"verb_question": "How?"}, "a": {"verb_question": "Why?"}, "  ": {"verb_question": "How?"}}',
        ),
    ],
)
def test_spaces_around_an_id_are_none_of_it(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    read = read_questions([tmp_path / name], "predicted", HEADS)
    assert read.questions == {"a": (Question("verb", "predicted", "How?"),)}
    assert [item.reason for item in read.dropped] == ["doubled_id", "malformed_entry"]


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("q.csv", "narration_id,question\na,How?\n", "must have one or more of verb_question, noun_question, got"),
        ("q.csv", "id,verb_question\na,How?\n", "must have the columns narration_id, got"),
        ("q.json", "[{", "must be a JSON file, got one that cannot be read"),
        ("q.json", '{"a": {"verb_question": "1?"}, "a": {"verb_question": "2?"}}', "each name once, got 'a' twice"),
        ("q.csv", "narration_id,verb_question,verb question\na,1?,2?\n", r"two names of \['verb_question'\]"),
        ("q.json", '"How?"', "must be a JSON list or object of questions, got str"),
        ("q.json", "[]", r"must have one or more of verb_question, noun_question, got \[\]"),
        ("q.pkl", "", "got a pickle, which can run any code and is not read"),
    ],
)
def test_a_file_without_questions_is_refused(tmp_path, name, text, wanted):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=wanted):
        read_questions([tmp_path / name], "predicted", HEADS)
