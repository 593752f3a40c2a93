"""Limits of a server as fields of a dataclass."""

from dataclasses import dataclass, fields

import pytest

from hmba_hf.limits import check_limits, limit
from hmba_hf.serving.limits import ServingLimits


@dataclass
class Some:
    max_things: float = limit(3, "of a box")
    max_seconds: float = limit(60.0, "of a wait")
    is_open: bool = limit(False, "let others in")


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_nothing_can_keep_is_refused_by_name(value):
    check_limits(Some())
    with pytest.raises(ValueError, match=f"max_things must be above zero, got {value}"):
        check_limits(Some(max_things=value))


@pytest.mark.parametrize("value", [1e10, float("inf")])
def test_a_time_that_no_clock_can_wait_is_refused_by_name(value):
    check_limits(Some(max_seconds=10_000_000))
    with pytest.raises(ValueError, match=f"max_seconds must be at most 10000000, got {value:g}".replace("+", ".")):
        check_limits(Some(max_seconds=value))


def test_a_length_that_nobody_waits_for_may_be_without_end():
    assert ServingLimits(max_clip_seconds=float("inf")).of_sources.max_video_seconds == float("inf")
    with pytest.raises(ValueError, match="max_idle_seconds must be at most 10000000, got inf"):
        ServingLimits(max_idle_seconds=float("inf"))


def test_what_a_limit_is_of_stands_in_the_help():
    assert [one.metadata["help"] for one in fields(Some)] == ["of a box", "of a wait", "let others in"]
