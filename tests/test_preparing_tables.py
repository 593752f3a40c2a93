import pytest

from hmba_hf.data.preparing.tables import read_table


def test_columns_are_read_by_name_and_rows_of_other_lengths_are_counted(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("\ufeffverb, id ,words\ntake,a,\"['one', 'two']\"\n\nput,b\nwash,\"c\nd\",x\n", "utf-8")
    table = read_table(path, ["id", "verb"])
    assert table.columns == ["verb", "id", "words"]
    assert table.rows == [
        ("list.csv, line 2", {"verb": "take", "id": "a", "words": "['one', 'two']"}),
        ("list.csv, line 6", {"verb": "wash", "id": "c\nd", "words": "x"}),
    ]
    (bad,) = table.dropped
    assert (bad.id, bad.reason, bad.detail) == ("list.csv, line 4", "malformed_entry", "2 cells for 3 columns")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", r"must have the columns id, verb, got \[\] without id, verb"),
        (b"id,noun\na,b\n", r"must have the columns id, verb, got \['id', 'noun'\] without verb"),
        (b"id,verb,id\na,b,c\n", "must name each column once"),
        (b'id,verb\na,"take\n', "must be a CSV file in UTF-8, got one that cannot be read"),
        (b"id,verb\na,\xff\n", "must be a CSV file in UTF-8, got one that cannot be read"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, content, wanted):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=wanted):
        read_table(tmp_path / "list.csv", ["id", "verb"])


@pytest.mark.parametrize("name", ["list.pkl", "list.PICKLE"])
def test_a_pickle_is_not_even_opened(tmp_path, name):
    with pytest.raises(ValueError, match="got a pickle, which can run any code and is not read.*to_csv"):
        read_table(tmp_path / name, ["id"])
