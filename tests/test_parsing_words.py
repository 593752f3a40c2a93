import ast
import csv
import re

import pytest

from hmba_hf.models.parsing_words import forms_of, hide_words, spoken

# The main verbs of EPIC-KITCHENS whose forms break the rules of spelling or lengthen their last consonant.
FORMS = """
take takes took taken taking; put puts putting; cut cuts cutting; open opened; close closes closed closing;
get gets got getting; dry dries dried drying; tie ties tied tying; throw threw; break broke broken; stir stirring;
shake shook shaken shaking; hold held; hang hung; pat patted; peel peeled peeling; season seasoned; layer layered;
squeeze squeezing; pour pours pouring; mix mixes mixed mixing; wash washes washed; eat ate eaten; find found;
rebuild rebuilt; unroll unrolled; bend bent; see saw seen; freeze froze; go goes went; quit quitting; mimic mimicked
"""
PLURALS = """
knife knives; leaf leaves; shelf shelves; half halves; loaf loaves; potato potatoes; glass glasses; dish dishes;
cherry cherries; tray trays; box boxes; kiwi kiwis; chilli chillies; child children; foot feet; quiz quizzes; bus buses
"""
STRANGERS = [
    ("plan", "planed"),
    ("tap", "taped"),
    ("see", "seed"),
    ("seed", "see"),
    ("bed", "be"),
    ("toes", "to"),
    ("pan", "pancake"),
    ("take", "steak"),
    ("put", "input"),
    ("cut", "cute"),
    ("string", "str"),
]
HIDDEN = [
    ("What does she take?", "take", "What does she _?"),
    ("TAKING, Took or taken; takes", "take", "_, _ or _; _"),
    ("What is cut with the knife's blade?", "knives", "What is cut with the _'s blade?"),
    ("Where does he put down the plate?", "put-down", "Where does he _ the plate?"),
    ("Is she putting it down?", "put down", "Is she _ it _?"),
    ("He puts the big red plate down", "put_down", "He _ the big red plate _"),
    ("He puts it there. Down he sits", "put-down", "He puts it there. Down he sits"),
    ("Put, down", "put-down", "Put, down"),
    ("What is put on?", "put-down", "What is put on?"),
    ("Where are the chopping boards?", "board:chopping", "Where are the _?"),
    ("Which board, chopping-board or Board:Chopping?", "board:chopping", "Which _, _ or _?"),
    ("Is he chopping on the wooden board?", "board:chopping", "Is he chopping on the wooden _?"),
    ("tea towels and a tea-towel, teatowels, tea, towel", "tea towel", "_ and a _, _, tea, towel"),
    ("a pancake in an expandable pan", "pan", "a pancake in an expandable _"),
    ("the _ of a mask", "mask", "the _ of a _"),
    ("What is he doing?", "take", "What is he doing?"),
    ("Purées of pure\u0301e", "pur\u00e9e", "_ of _"),
]


def families(text):
    return [entry.split() for entry in text.split(";")]


@pytest.mark.parametrize("forms", families(FORMS) + families(PLURALS), ids=lambda forms: forms[0])
def test_each_form_of_a_word_leads_to_all_others(forms):
    for form in forms:
        assert forms_of(form).issuperset(forms)


@pytest.mark.parametrize(("word", "stranger"), STRANGERS)
def test_another_word_is_no_form(word, stranger):
    assert stranger not in forms_of(word)


@pytest.mark.parametrize(("text", "name", "expected"), HIDDEN, ids=lambda value: value)
def test_a_name_is_hidden_in_every_form_and_nothing_else_is(text, name, expected):
    assert hide_words(text, [name], "_") == expected


def test_several_names_are_hidden_at_once_and_one_within_another_as_one():
    names = ["turn-on", "turn-off", "tap", "tap water"]
    assert hide_words("Tap water: she turns the tap on, then off", names, "<mask>") == (
        "<mask>: she <mask> the <mask> <mask>, then <mask>"
    )


def test_a_mask_in_the_text_is_no_word():
    assert hide_words("the <mask> is a mask", ["mask"], "<mask>") == "the <mask> is a <mask>"


def test_a_name_without_letters_is_refused():
    with pytest.raises(ValueError, match="a word to hide must have letters or digits, got '-'"):
        hide_words("a - b", ["-"], "_")


def test_names_of_classes_are_said_as_people_do():
    assert [spoken(name) for name in ("put-down", "board:chopping", "tap", "cream:ice:vanilla")] == [
        "put down",
        "chopping board",
        "tap",
        "vanilla ice cream",
    ]


@pytest.mark.parametrize("kind", ["verb", "noun"])
def test_no_class_of_epic_kitchens_shows_through(shared_data, kind):
    folder = shared_data / "epic100_head"
    names = []
    for row in csv.DictReader((folder / f"EPIC_100_{kind}_classes.csv").open()):
        names += [row["key"], *ast.literal_eval(row["instances"])]
    assert len(names) > 700
    for name in names:
        words = re.findall(r"\w+", name)
        question = f"Is it {' '.join(words)}, {name.upper()} or {spoken(name)}?"
        hidden = hide_words(question, [name], "_")
        assert not {*re.findall(r"\w+", hidden)} & ({*words} - {"it", "or", "Is"}), name
