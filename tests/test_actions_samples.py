from dataclasses import FrozenInstanceError

import pytest
from datasets import Dataset
from PIL import Image

from hmba_hf.data.actions.samples import ActionSample, action_features, from_action_row, to_action_row

FRAME = Image.new("RGB", (8, 6))


def test_a_sample_cannot_be_changed():
    sample = ActionSample("clip", b"video", 0)
    with pytest.raises(FrozenInstanceError):
        sample.label = 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"id": ""}, "must have an id, got id=''"),
        ({"video": ()}, "clip must have a video, got no frames"),
        ({"split": "dev"}, "clip must have a split of .*, got 'dev'"),
        ({"label": -1}, "clip must have a label from 0 on or none, got -1"),
        ({"label": "jump"}, "clip must have a label from 0 on or none, got 'jump'"),
        ({"label": True}, "clip must have a label from 0 on or none, got True"),
    ],
)
def test_a_sample_that_cannot_be_one_names_itself(values, wanted):
    with pytest.raises(ValueError, match=wanted):
        ActionSample(**{"id": "clip", "video": b"video", **values})


def test_rows_read_back_as_the_samples_written_also_without_a_class(tmp_path):
    (tmp_path / "a.webm").write_bytes(b"first")
    samples = [
        ActionSample("a", tmp_path / "a.webm", 1, "jump", "test", ("dark",)),
        ActionSample("b", b"second", None, None, "test", ("light",)),
    ]
    rows = [to_action_row(sample) for sample in samples]
    features = action_features(["run", "jump"], tags=True)
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    stored = Dataset.from_parquet(str(tmp_path / "test.parquet"))
    assert stored.features["label"].names == ["run", "jump"]
    first, second = (from_action_row(row, "test") for row in stored)
    assert first == ActionSample("a", b"first", 1, "jump", "test", ("dark",))
    assert second == samples[1]
    assert [row["video"]["path"] for row in stored] == ["a.webm", "b"]


def test_a_hidden_class_of_a_dataset_is_none():
    row = {"id": "a", "video": {"bytes": b"x", "path": None}, "label": -1}
    assert from_action_row(row).label is None


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"id": 3}, "id must be a text"),
        ({"label": "jump"}, "label must be"),
        ({"label_name": 2}, "label_name must be"),
        ({"tags": ["a", 2]}, "list of texts as tags"),
        ({"video": None}, "must hold a video, got none"),
        ({"video": {"bytes": "x", "path": None}}, "must have files with 'bytes' or a 'path'"),
    ],
)
def test_a_row_with_other_values_is_refused_by_name(values, wanted):
    row = {"id": "a", "video": {"bytes": b"x", "path": None}, "label": 0, **values}
    with pytest.raises(ValueError, match=f"row {row['id']}.*{wanted}"):
        from_action_row(row)


def test_frames_make_no_row():
    with pytest.raises(ValueError, match="clip must have a video file for a row, got frames"):
        to_action_row(ActionSample("clip", (FRAME, FRAME), 0))
