import pytest
from datasets import ClassLabel, Dataset, Value
from PIL import Image

from hmba_hf.data.actions.questioned import (
    Question,
    QuestionedSample,
    from_questioned_row,
    head_names,
    questioned,
    questioned_features,
    to_questioned_row,
)
from hmba_hf.data.actions.samples import ActionSample, action_features
from hmba_hf.data.loading import load_samples

FRAME = Image.new("RGB", (8, 6))
HEADS = {"verb": ["take", "put"], "noun": ["tap", "spoon", "plate"]}
ASKED = (
    Question("verb", "annotation", "What is done with the plate?"),
    Question("noun", "annotation", "What is taken?"),
    Question("noun", "predicted", "What is put down?"),
)
SAMPLE = QuestionedSample(
    id="P01_11_0",
    video=b"video",
    labels={"verb": 0, "noun": 2},
    label_names={"verb": "take", "noun": "plate"},
    questions=ASKED,
    split="validation",
    tags=("unseen", "tail_noun"),
)


def changed(**values):
    return QuestionedSample(**{**vars(SAMPLE), **values})


def test_rows_of_the_hub_read_back_as_the_samples_written(tmp_path):
    unlabelled = QuestionedSample(
        "P01_12_0", b"x", {"verb": None, "noun": None}, {"verb": None, "noun": None}, split="validation"
    )
    (tmp_path / "data").mkdir()
    rows = [to_questioned_row(sample) for sample in (SAMPLE, unlabelled)]
    stored = Dataset.from_list(rows, features=questioned_features(HEADS))
    stored.to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    samples = load_samples(str(tmp_path), "validation")
    assert list(samples) == [SAMPLE, unlabelled]
    assert list(samples[0].labels) == ["verb", "noun"]  # the order of the heads is that of the columns
    assert head_names(samples.rows.features) == HEADS
    assert samples.ids() == ["P01_11_0", "P01_12_0"]
    empty, files = samples.without_pictures(0)
    assert empty == changed(video=b"") and files == [{"bytes": b"video", "path": "P01_11_0"}]
    assert list(load_samples(str(tmp_path), "validation", streaming=True)) == [SAMPLE, unlabelled]


def test_sources_of_questions_are_kept_apart():
    assert SAMPLE.questions_from("annotation") == {"verb": ASKED[0].text, "noun": ASKED[1].text}
    assert SAMPLE.questions_from("predicted") == {"noun": ASKED[2].text}
    assert SAMPLE.questions_from("generic") == {}
    with pytest.raises(ValueError, match="source must be one of .*got 'label'"):
        SAMPLE.questions_from("label")


def test_a_video_of_one_class_is_one_with_the_head_action():
    action = ActionSample("clip", (FRAME,), 1, "jump", "test", ("dark",))
    assert questioned(action) == QuestionedSample(
        "clip", (FRAME,), {"action": 1}, {"action": "jump"}, (), "test", ("dark",)
    )
    assert questioned(SAMPLE) is SAMPLE
    assert head_names(action_features(["run", "jump"])) == {"action": ["run", "jump"]}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"id": ""}, "must have an id, got id=''"),
        ({"video": ()}, "P01_11_0 must have a video, got no frames"),
        ({"split": "dev"}, "P01_11_0 must have a split of .*, got 'dev'"),
        ({"labels": {}}, "must have a label or none for each head, got no head"),
        ({"labels": {"verb": 0, "noun": -1}}, "must have a label of noun from 0 on or none, got -1"),
        ({"labels": {"verb": True, "noun": 2}}, "must have a label of verb from 0 on or none, got True"),
        ({"label_names": {"adverb": "now"}}, r"names of classes of its heads .*got those of \['adverb'\]"),
        ({"questions": (Question("adverb", "annotation", "How?"),)}, "questions of its heads .* got one of 'adverb'"),
        ({"questions": (Question("verb", "label", "How?"),)}, "questions from .* got 'label'"),
        ({"questions": (Question("verb", "predicted", " "),)}, "a text as predicted question of verb, got ' '"),
        ({"questions": (ASKED[0], ASKED[0])}, "one question of a head and a source, got more of .*annotation"),
    ],
)
def test_a_sample_that_cannot_be_one_names_itself(values, wanted):
    with pytest.raises(ValueError, match=wanted):
        changed(**values)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"id": 3}, "id must be a text"),
        ({"labels": None}, "labels must be"),
        ({"labels": {"verb": "take"}}, "a label of verb from 0 on or none, got 'take'"),
        ({"label_names": ["take"]}, "label_names must be"),
        ({"label_names": {"verb": 2}}, "the name of the class of verb must be a text, got 2"),
        ({"questions": "Why?"}, "must have a list of questions, got 'Why"),
        ({"questions": [{"head": "verb", "source": "predicted"}]}, "a question must be an object with 'text'"),
        ({"questions": [Question("verb", "generic", "Why?")._asdict()]}, "generic questions in a processor.*'Why"),
        ({"tags": ["a", 2]}, "list of texts as tags"),
        ({"video": None}, "must hold a video, got none"),
    ],
)
def test_a_row_with_other_values_is_refused_by_name(values, wanted):
    row = {"id": "a", "video": {"bytes": b"x", "path": None}, "labels": {"verb": 0}, **values}
    with pytest.raises(ValueError, match=f"{row['id']}.*{wanted}"):
        from_questioned_row(row)


def test_a_row_needs_no_more_than_its_labels():
    row = {"id": "a", "video": {"bytes": b"x", "path": None}, "labels": {"verb": -1, "noun": 3}}
    assert from_questioned_row(row) == QuestionedSample("a", b"x", {"verb": None, "noun": 3}, {})


def test_generic_questions_and_frames_make_no_row():
    with pytest.raises(ValueError, match="generic questions in a processor, not in a row, got 'What'"):
        to_questioned_row(changed(questions=(Question("verb", "generic", "What"),)))
    with pytest.raises(ValueError, match="must have a video file for a row, got frames"):
        to_questioned_row(changed(video=(FRAME,)))


def test_classes_without_names_are_refused():
    for features in ({"labels": {"verb": Value("int64")}}, {"labels": ClassLabel(names=["a"])}, {}):
        with pytest.raises(ValueError, match="a dataset must"):
            head_names(features)
