"""What we inherit of transformers is listed, argument by argument, and what is said to be tested has its test."""

import re

import pytest
import transformers

import inherited_arguments
from inherited_arguments import TABLES, TESTS, VERDICTS, inherited, our_classes, read_table

CLASSES = our_classes()
PINNED = re.search(r"^transformers==(\S+)", (TESTS.parent / "constraints.txt").read_text(), re.MULTILINE)[1]
SUITES = TESTS.parent / ".cache" / f"transformers-{PINNED}-tests"


@pytest.mark.skipif(transformers.__version__ != PINNED, reason="the tables are those of the pinned transformers")
@pytest.mark.parametrize("name", CLASSES)
def test_every_override_and_every_inherited_argument_is_listed_once(name):
    pairs = [row[:2] for row in read_table(name)]
    assert len(pairs) == len(set(pairs)), sorted(pair for pair in set(pairs) if pairs.count(pair) > 1)
    wanted = inherited(CLASSES[name])
    assert not wanted - set(pairs) and not set(pairs) - wanted, (wanted - set(pairs), set(pairs) - wanted)


def test_there_is_no_table_without_a_class():
    assert {path.stem for path in TABLES.iterdir()} == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_said_to_be_shown_has_its_test(name):
    for row in read_table(name):
        assert row.verdict in VERDICTS and row.shown_by, row
        if row.verdict == "open":
            continue
        file, test = row.shown_by.split("::")
        text = suites() if file == "transformers" else (TESTS / file).read_text()
        assert text is None or re.search(rf"def {test}\b", text), f"{row} names a test that is not there"


def suites():
    """The suites of transformers as text, if a test that runs them has fetched them."""
    return "".join(path.read_text() for path in sorted(SUITES.glob("test_*.py"))) if SUITES.is_dir() else None


def test_the_tool_counts_and_finds_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(inherited_arguments, "our_classes", lambda: {"pipeline": CLASSES["pipeline"]})
    monkeypatch.setattr(inherited_arguments, "read_table", lambda name: [*read_table(name)][1:])
    with pytest.raises(SystemExit, match="True"):
        inherited_arguments.main()
    first = next(read_table("pipeline"))
    assert f"missing: {first.method}: {first.argument}" in capsys.readouterr().out
