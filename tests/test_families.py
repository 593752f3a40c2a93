"""A family may have models for several tasks: its rows are told apart by the classes of models."""

from types import SimpleNamespace

import pytest

from hmba_hf.evaluation.results import card_results
from hmba_hf.families import FAMILIES, TASKS, auto_class, family_of, load_model, register_family
from hmba_hf.hub import CardDetails
from hmba_hf.hub.cards import compose_card
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForImageClassification, VideoMambaForVideoClassification

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": 16, "num_frames": 1}
PAIR = [
    FAMILIES[0]._replace(model_type="bird", architectures=("BirdThatSings",), name="singing"),
    FAMILIES[0]._replace(model_type="bird", architectures=("BirdThatFlies",), name="flying", task="flight"),
]


@pytest.fixture
def birds(monkeypatch):
    before = list(FAMILIES)
    monkeypatch.setitem(TASKS, "flight", object())
    for family in PAIR:
        register_family(family)
    yield
    FAMILIES[:] = before


def config(*architectures):
    named = VideoMambaConfig(**SMALL, architectures=list(architectures) or None)
    named.model_type = "bird"
    return named


def test_a_configuration_is_of_the_row_for_the_class_that_it_names(birds):
    assert family_of(config("BirdThatFlies")).name == "flying"
    assert family_of(config("BirdThatSings")).name == "singing"
    assert family_of(config()).name == "singing"


def test_a_task_chooses_the_row_whatever_class_a_configuration_names(birds):
    assert family_of(config("BirdThatSings"), task="flight").name == "flying"
    with pytest.raises(ValueError, match=r"task must be one that 'bird' has models for, .*, got"):
        family_of(config("BirdThatSings"), task="retrieval")


def test_the_class_of_a_model_counts_more_than_the_checkpoint_that_it_was_loaded_from():
    named = VideoMambaConfig(**SMALL, architectures=["VideoMambaForVideoClassification"])
    family = family_of(VideoMambaForImageClassification(named))
    assert family.auto_class == "AutoModelForImageClassification"
    assert family_of(VideoMambaForVideoClassification(named)).auto_class == "AutoModelForVideoClassification"
    named.architectures = ["VideoMambaForImageClassification"]
    assert auto_class(family_of(named)).__name__ == "AutoModelForImageClassification"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "nonsense"}, "dtype must be auto or a floating point dtype, such as bfloat16, got 'nonsense'"),
        ({"dtype": "int8"}, "dtype must be auto or a floating point dtype, such as bfloat16, got 'int8'"),
        ({"dtype": "Tensor"}, "dtype must be auto or a floating point dtype, such as bfloat16, got 'Tensor'"),
        (
            {"device_map": "nonsense"},
            "device_map must be one of auto, .*, or a device of this machine, got 'nonsense'",
        ),
        ({"device_map": "hpu"}, "device_map must be one of auto, .*, or a device of this machine, got 'hpu'"),
        ({"device_map": "cuda:99"}, "device_map must be one of auto, .*, or a device of this machine, got 'cuda:99'"),
    ],
)
def test_a_dtype_and_a_device_that_are_not_there_are_named_before_a_model_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        load_model("a folder that is not there", **options)


def test_every_parameter_of_a_classifier_is_of_one_part():
    model = VideoMambaForVideoClassification(VideoMambaConfig(**SMALL, distillation_size=8))
    family = family_of(model)
    parts = {name: family.part_of(name) for name, _ in model.named_parameters()}
    assert None not in parts.values() and {*parts.values()} == {*family.parts}


def test_two_rows_for_one_class_are_refused(birds):
    with pytest.raises(ValueError, match=r"architectures must be ones that no family has, got \['BirdThatFlies'\]"):
        register_family(PAIR[0]._replace(architectures=("BirdThatFlies",)))
    with pytest.raises(ValueError, match="model_type must be one that no family has, got 'bird'"):
        register_family(PAIR[0]._replace(architectures=()))


@pytest.mark.parametrize(
    ("model_class", "tag"),
    [
        (VideoMambaForImageClassification, "image-classification"),
        (VideoMambaForVideoClassification, "video-classification"),
    ],
)
def test_results_on_a_card_are_of_the_task_of_its_model(model_class, tag):
    scores = {
        "task": "classification",
        "dataset": "org/clips",
        "split": "test",
        "scores": {"top_1": 0.5},
        "intervals": {"top_1": [0.4, 0.6]},
        "samples": {"answered": 4, "skipped": 0},
        "bootstrap": {"draws": 10, "confidence": 0.95},
        "arguments": {},
        "versions": {},
        "command": "hmba evaluate",
        "absent": {},
    }
    run = SimpleNamespace(metrics=scores, recipe={}, results=card_results(scores))
    data = compose_card(model_class(VideoMambaConfig(**SMALL)), CardDetails(), [run]).data
    assert {result.task_type for result in data.eval_results} == {data.pipeline_tag} == {tag}
