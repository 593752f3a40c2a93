"""Limits of a server as fields of a dataclass."""

from dataclasses import dataclass, fields

import pytest

from hmba_hf.limits import check_limits, limit


@dataclass
class Some:
    max_things: float = limit(3, "of a box")
    is_open: bool = limit(False, "let others in")


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_nothing_can_keep_is_refused_by_name(value):
    check_limits(Some())
    with pytest.raises(ValueError, match=f"max_things must be above zero, got {value}"):
        check_limits(Some(max_things=value))


def test_what_a_limit_is_of_stands_in_the_help():
    assert [one.metadata["help"] for one in fields(Some)] == ["of a box", "let others in"]
