"""The sample cards in docs/ are what the templates write today, and hold nothing of the machine that wrote them."""

import re

import pytest
from huggingface_hub import DatasetCard, ModelCard

from sample_cards import CARDS, RUN, SAMPLES

AGAIN = "write it again: python tests/sample_cards.py"


@pytest.mark.parametrize("name", CARDS)
def test_a_sample_card_is_what_its_template_writes_today(name):
    assert (SAMPLES / name).read_text() == CARDS[name](), AGAIN


def test_sample_cards_are_cards_that_the_hub_can_read():
    dataset = DatasetCard.load(SAMPLES / "dataset_card.md")
    assert dataset.data.pretty_name == "DRAMA" and dataset.data.license_name == "drama"
    model = ModelCard.load(SAMPLES / "model_card.md")
    assert model.data.library_name == "transformers" and model.data.eval_results
    assert {"micro-world", "custom_code"} <= {*model.data.tags}


def test_samples_name_no_folder_of_a_machine():
    paths = re.compile(r"/(home|root|tmp|work|Users|var)/")
    for file in [*SAMPLES.glob("*.md"), *RUN.iterdir()]:
        assert not paths.search(file.read_text()), file.name


def test_pictures_of_samples_are_here():
    for page in SAMPLES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (SAMPLES / target).exists(), f"{page.name} shows {target}, which does not exist"
