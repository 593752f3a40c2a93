import pytest

from hmba_hf.data.schemas import ACTIONS, BDDX, DRAMA, SCHEMAS, name_of_row, schema_of_columns, schema_of_row


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_dataset_is_of_the_schema_whose_columns_it_has(schema):
    assert schema_of_columns({*schema.columns, "another"}) is schema


def test_columns_of_no_schema_are_refused_with_those_that_are_wanted():
    with pytest.raises(
        ValueError, match=r"must have the columns of DRAMA \['answer'.* BDD-X.*or actions.*got \['text'"
    ):
        schema_of_columns({"text"})


def test_a_row_of_a_mixture_is_of_the_schema_whose_files_it_holds():
    row = dict.fromkeys(BDDX.columns | DRAMA.columns)
    assert schema_of_row({**row, "frames": [{}]}) is DRAMA
    assert schema_of_row({**row, "video": {}}) is BDDX
    assert schema_of_row({"id": "clip", "video": {}, "label": 0}) is ACTIONS


def test_a_row_without_its_files_is_of_the_schema_that_it_has_a_column_of():
    assert schema_of_row(dict.fromkeys(BDDX.columns)) is BDDX
    assert schema_of_row(dict.fromkeys(DRAMA.columns)) is DRAMA
    assert schema_of_row(dict.fromkeys(ACTIONS.columns)) is ACTIONS


def test_a_row_is_named_by_the_columns_of_its_schema():
    assert name_of_row({"video": {}, "video_id": "drive", "segment": 3}) == "drive_3"
    assert name_of_row({"frames": [], "id": "clip"}) == "clip"
    assert name_of_row({"frames": [], "id": None}) is None
    assert name_of_row({"video": {}, "id": "clip", "label": None}) == "clip"
