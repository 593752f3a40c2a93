"""A file that somebody else has written is read as it is wanted, or refused with its name and its line."""

import pytest

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.preparing.parquet_shards import ShardFolder
from hmba_hf.evaluation.prediction_files import PredictionFolder
from hmba_hf.files import parse_json, read_json_object, split_lines


def test_lines_end_where_bytes_say_so_and_empty_ones_are_passed_over(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('\ufeff"a\u2028b"\r\n\n \n"c"'.encode())
    assert [(number, parse_json(line)) for number, line in split_lines(path)] == [(1, "a\u2028b"), (4, "c")]


DOUBLED = (b'{"a": 1, "a": 2}', b'[{"b": {"a": 1, "a": 1}}]')


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff\xfe", b"{'a': 1}", b"", b"9" * 10_000, *DOUBLED])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rows": 1', r"file.json must be a JSON file, got one that cannot be read: "),
        ("[1]", r"file.json must be a JSON object, got a list"),
        ('{"row": 1}', r"file.json must be an object with 'rows', got \['row'\]"),
        ('{"rows": "1"}', r"file.json: rows must be a whole number, got '1'"),
        ('{"rows": true}', r"file.json: rows must be a whole number, got True"),
        ('{"rows": 1.5}', r"file.json: rows must be a whole number, got 1.5"),
    ],
)
def test_an_object_of_something_else_is_refused_with_its_file(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json_object(path, rows=int)


@pytest.mark.parametrize("line", ["5", "[]", '{"sample": 1, "reason": "gone"}', '{"sample": "a"}'])
def test_a_record_of_skipped_samples_that_tells_of_none_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "bad_samples.jsonl"
    path.write_text(f'\n{{"sample": "a", "reason": "gone"}}\n\n{{"samp\n{line}\n')
    with pytest.raises(ValueError, match="bad_samples.jsonl, line 5(:| must) "):
        BadSamples("skip", path).skipped()


@pytest.mark.parametrize(
    "line", ["5", "null", "[]", '{"index": "0", "error": null}', '{"index": 0, "error": 3}', "{}"]
)
@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions-1.jsonl"])
def test_answers_that_are_none_are_refused_with_their_line(tmp_path, line, name):
    (tmp_path / name).write_text(f'{{"index": 0, "error": null}}\n{{"ind\n{line}\n{{"index": 9')
    with pytest.raises(ValueError, match=f"{name}, line 3(:| must) "):
        PredictionFolder(tmp_path).read()


@pytest.mark.parametrize("text", ["[]", "{}", '{"rows": 1, "dropped": [{"name": 1}], "notes": []}', '{"rows": 1'])
def test_what_became_of_records_is_read_whole_or_refused_with_its_file(tmp_path, text):
    shards = ShardFolder(tmp_path)
    for folder in (shards.state, tmp_path / "data"):
        folder.mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").touch()
    (shards.state / "train-00000-of-00001.json").write_text(text)
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.json"):
        shards.result("train-00000-of-00001")
