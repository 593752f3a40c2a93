"""Which time each picture gets from the stamps of its container, whatever these are worth."""

from fractions import Fraction

import pytest

from hmba_hf.models.decoding_timeline import Timeline, in_order

STEP = Fraction(1, 25)


def placed(stamps, step=STEP):
    """Times in milliseconds and recordings that frames with these stamps, in milliseconds, get; and the warnings."""
    warnings = []
    timeline = Timeline(lambda frame: None if frame is None else Fraction(frame, 1000), step, warnings.append)
    moments = list(timeline.place(stamps, Fraction(0)))
    return [round(1000 * moment.time) for moment in moments], [moment.recording for moment in moments], warnings


def test_frames_are_shown_at_their_stamps():
    for stamps in ([0, 40, 80, 120], [5000, 5033, 5067, 5100], [0, 2000, 4000, 6000], [0, 100, 500, 600, 9400, 9500]):
        assert placed(stamps) == (stamps, [0] * len(stamps), [])


def test_a_frame_that_comes_late_keeps_its_stamp():
    stamps = [80, 0, 120, 40, 240, 160, 280, 200]
    assert placed(stamps) == (stamps, [0] * 8, [])


def test_frames_without_stamps_are_counted_on():
    assert placed([None, None, None])[0] == [0, 40, 80]
    assert placed([0, None, None, 120, None])[0] == [0, 40, 80, 120, 160]


@pytest.mark.parametrize("step", [20, 133, 500, 3000])
def test_frames_without_stamps_are_counted_at_the_rate_that_those_before_have_shown(step):
    stamps = [step * index for index in range(12)]
    assert placed([*stamps[:10], None, None])[0] == stamps
    assert placed([*stamps[:8], None, *stamps[9:]])[0] == stamps
    assert placed([0, None, 80, None, 160, None, 240, None, 320, None])[0] == [40 * index for index in range(10)]


def test_stamps_that_stand_still_are_counted_on_and_times_ascend():
    assert placed([0, 0, 80, 80, 160])[0] == [0, 40, 80, 120, 160]
    assert placed([0, 0, 0, 0])[0] == [0, 40, 80, 120]
    times, recordings, _ = placed([0, 40, 40, 80, 120])
    assert times == sorted(times) and len(recordings) == 5 and set(recordings) == {0}


@pytest.mark.parametrize("back", [61, 100, 120, 3000, 86_400_000])
@pytest.mark.parametrize("before", [3, 12, 150])
def test_where_the_clock_goes_back_another_recording_begins(back, before):
    first = [200_000_000 + 40 * index for index in range(before)]
    second = [stamp - back + 40 * before for stamp in first]
    times, recordings, warnings = placed([*first, *second])
    earlier = max(first[0] - second[0], 0)  # a recording that begins before the first one begins with it
    assert times == [*first, *(stamp + earlier for stamp in second)]
    if before > 8:  # among the first frames, a frame may as well come late
        assert recordings == [0] * before + [1] * before
        assert len(warnings) == 1 and "a clock that goes back after" in warnings[0]


@pytest.mark.parametrize("stray", [-900_000, 3_000, 900_000])
def test_a_stray_stamp_of_the_first_frame_is_not_believed(stray):
    stamps = [40 * index for index in range(20)]
    times, recordings, warnings = placed([stray, *stamps[1:]])
    assert times == stamps and set(recordings) == {0}
    assert warnings == ["has a wrong first timestamp, which is not believed"]
    for steady in ([0, 2000, 4000], [0, 40], [5], []):
        assert placed(steady) == (steady, [0] * len(steady), [])


@pytest.mark.parametrize("seconds", [2, 5, 40])
def test_a_first_frame_may_stand_for_seconds(seconds):
    stamps = [0, *range(1000 * seconds, 1000 * seconds + 800, 40)]
    assert placed(stamps) == (stamps, [0] * len(stamps), [])


@pytest.mark.parametrize("stray", [8, 200, 900_000, 800, 0])
def test_one_stray_stamp_is_not_believed(stray):
    stamps = [40 * index for index in range(4, 40)]
    wild = [*stamps[:20], stray, *stamps[21:]]
    times, recordings, warnings = placed(wild)
    assert times == stamps and set(recordings) == {0} and len(warnings) == 1
    assert "a wrong timestamp" in warnings[0]


@pytest.mark.parametrize("stray", [8, 900_000, 90_000_000, 3000])
def test_two_stray_stamps_in_a_row_are_not_believed(stray):
    stamps = [40 * index for index in range(4, 60)]
    wild = [*stamps[:40], stray, stray + 40, *stamps[42:]]
    times, recordings, warnings = placed(wild)
    assert times == stamps and set(recordings) == {0} and len(warnings) == 2
    assert all("a wrong timestamp" in warning for warning in warnings)
    assert placed([*stamps[:20], stray + 999_999, 7, *stamps[22:]])[0] == stamps


@pytest.mark.parametrize("stray", [7, 500_000, 900_000_000])
def test_a_stray_stamp_of_the_last_frame_does_not_lose_it(stray):
    assert placed([*range(4000, 4800, 40), stray])[0][-2:] == [4760, 4800]


def test_a_last_frame_may_come_after_a_gap():
    for stamps in ([*range(0, 800, 40), 10_000], [0, 40, 80, 500_000], [0, 40, 100, 500, 520, 700, 900_000]):
        assert placed(stamps) == (stamps, [0] * len(stamps), [])


def test_a_clock_that_wraps_is_one_that_goes_back():
    stamps = [0, 40, 80, 95_443_717 - 5000, 95_443_717 - 4960, 95_443_717 - 4920]
    times, recordings, warnings = placed(stamps)
    assert (times, recordings) == ([0, 40, 80, 0, 40, 80], [0, 0, 0, 1, 1, 1])
    assert "a clock that leaps after 0.080 s, to 95438.717 s" in warnings[0]


def test_a_frame_waits_for_the_next_only_where_its_stamp_contradicts_the_order():
    taken = []

    def camera():
        for stamp in (0, 40, 80, 5000, 5040, 5080):
            taken.append(stamp)
            yield stamp

    timeline = Timeline(lambda frame: Fraction(frame, 1000), STEP, lambda what: None)
    assert [taken[-1] for _ in timeline.place(camera())] == [40, 40, 80, 5080, 5080, 5080]


def test_errors_stay_between_their_frames():
    timeline = Timeline(lambda frame: Fraction(frame, 1000), STEP, lambda what: None)
    first, second, third = (ValueError(name) for name in ("a", "b", "c"))
    found = [moment.frame for moment in timeline.place([first, 0, 40, second, 80, 9_000, third, 160, 200])]
    assert found == [first, 0, 40, second, 80, 9_000, third, 160, 200]


def test_moments_are_put_in_order_only_where_the_first_ones_are_not():
    def ordered(stamps):
        timeline = Timeline(lambda frame: Fraction(frame, 1000), STEP, lambda what: None)
        return [round(1000 * moment.time) for moment in in_order(timeline.place(stamps))]

    shuffled = [40 * (index // 4 * 4 + (2, 0, 3, 1)[index % 4]) for index in range(40)]
    assert ordered(shuffled) == sorted(shuffled)
    assert ordered(range(0, 4000, 40)) == [*range(0, 4000, 40)]


def test_a_clock_that_begins_after_counted_pictures_goes_on_from_them():
    said = []
    stamps = [None, None, None, Fraction(0), Fraction(1, 10), Fraction(2, 10)]
    timeline = Timeline(lambda index: stamps[index], Fraction(1, 10), said.append)

    times = [float(moment.time) for moment in timeline.place(range(6), Fraction(0))]

    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5]) and len(said) == 1
