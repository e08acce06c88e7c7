"""Every instant of a window is answered once, whatever waits to be rolled up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from profile_store.rollups.windows import HOUR, MINUTE, Window, ceil_to, floor_to, plan

START = datetime(2026, 11, 21, 10, 30, 15, tzinfo=UTC)

offsets = st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=9))
minutes = st.sets(st.integers(min_value=0, max_value=540), max_size=20)


@given(offsets, offsets, minutes, st.integers(min_value=0, max_value=8), st.booleans())
def test_the_parts_cover_the_window_exactly_once(one, other, waiting_minutes, max_live, whole_hours):
    # Given a window, and minutes in and around it that wait
    window = Window(*sorted((START + one, START + other)))
    waiting = {floor_to(START, MINUTE) + n * MINUTE for n in waiting_minutes}
    # When it is divided
    parts = plan(window, waiting, max_live=max_live, whole_hours=whole_hours)
    # Then the parts lie side by side from its start to its end
    ordered = sorted([*parts.hours, *parts.minutes, *parts.live])
    assert [part.end for part in ordered[:-1]] == [part.start for part in ordered[1:]]
    if window.start < window.end:
        assert (ordered[0].start, ordered[-1].end) == window
    # And hours and minutes are whole ones
    assert all(floor_to(time, HOUR) == time for part in parts.hours for time in part)
    assert all(floor_to(time, MINUTE) == time for part in parts.minutes for time in part)
    assert whole_hours or not parts.hours
    # And what waits is neither in an hour nor, but for the `behind` oldest, in a stored minute
    inside = sorted(m for m in waiting if ceil_to(window.start, MINUTE) <= m < floor_to(window.end, MINUTE))
    assert not any(part.start <= minute < part.end for minute in inside for part in parts.hours)
    stored = [m for m in inside if any(part.start <= m < part.end for part in parts.minutes)]
    assert stored == inside[: parts.behind]
    assert parts.behind == max(0, len(inside) - max_live)


def test_a_quiet_day_is_read_as_hours_with_minutes_at_both_ends():
    window = Window(START, START + timedelta(hours=24))
    parts = plan(window, set(), max_live=10)
    eleven = datetime(2026, 11, 21, 11, tzinfo=UTC)
    assert parts.hours == (Window(eleven, eleven + 23 * HOUR),)
    assert sum((part.end - part.start for part in parts.minutes), timedelta()) == timedelta(minutes=59)
    assert sum((part.end - part.start for part in parts.live), timedelta()) == MINUTE


def test_a_window_within_one_minute_is_read_from_the_records():
    window = Window(START, START + timedelta(seconds=20))
    assert plan(window, set(), max_live=10).live == (window,)


@given(st.datetimes(timezones=st.just(UTC)), st.sampled_from([MINUTE, HOUR, timedelta(hours=24)]))
def test_steps_begin_at_multiples_since_1970(time, step):
    # 9999-12-31T23:59 has no next step that a datetime could hold.
    if time.year in (1, 9999):
        return
    assert floor_to(time, step) <= time <= ceil_to(time, step)
    assert (floor_to(time, step) - datetime(1970, 1, 1, tzinfo=UTC)) % step == timedelta(0)
    assert ceil_to(time, step) - floor_to(time, step) in (timedelta(0), step)
