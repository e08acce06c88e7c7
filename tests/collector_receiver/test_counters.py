"""Refusals are logged together, at most once a minute."""

import logging
from collections import Counter

from collector_receiver.counters import RefusalLog


def test_refusals_are_logged_at_once_then_at_most_once_a_minute(caplog):
    now = [0.0]
    log = RefusalLog(clock=lambda: now[0])

    # When refusals arrive within a minute
    with caplog.at_level(logging.WARNING, logger="collector_receiver"):
        log.note(Counter({"undecodable": 1}))
        now[0] = 30
        log.note(Counter({"overloaded": 2}))
        now[0] = 59.9
        log.note(Counter({"overloaded": 3}))
        first_minute = [record.getMessage() for record in caplog.records]
        now[0] = 60
        log.note(Counter({"undecodable": 1}))

    # Then there is one line at once and one for the rest
    assert len(first_minute) == 1
    assert "undecodable 1" in first_minute[0]
    assert len(caplog.records) == 2
    assert "overloaded 5, undecodable 1" in caplog.records[1].getMessage()


def test_what_waits_is_logged_at_the_end_and_only_then(caplog):
    log = RefusalLog(clock=lambda: 0.0)
    log.note(Counter({"undecodable": 1}))
    log.note(Counter({"overloaded": 1}))
    caplog.clear()

    with caplog.at_level(logging.WARNING, logger="collector_receiver"):
        log.flush()
        log.flush()

    assert ["overloaded 1" in record.getMessage() for record in caplog.records] == [True]
