"""How much of the receiver one request may have, alone and beside others."""

import pytest

from collector_receiver.admission import MAX_BYTES_IN_FLIGHT, SLOW_SECONDS, SLOW_SHARE, Admission
from collector_receiver.refusals import TryAgain


def slow(admission):
    """Requests have taken long for a while."""
    for _ in range(100):
        admission.took(2 * SLOW_SECONDS)
    return admission


def test_a_request_that_is_alone_is_taken_while_answers_are_slow_however_large_it_is():
    admission = slow(Admission())

    place = admission.enter(MAX_BYTES_IN_FLIGHT // SLOW_SHARE + 1)

    assert admission.bytes_in_flight == place.size


def test_beside_another_one_such_a_request_is_refused_while_answers_are_slow():
    admission = slow(Admission())
    admission.enter(1)

    with pytest.raises(TryAgain):
        admission.enter(MAX_BYTES_IN_FLIGHT // SLOW_SHARE)


def test_a_request_that_is_alone_may_grow_above_what_is_taken_of_all():
    admission = Admission(1_000)
    place = admission.enter(10)

    place.grow(2_000)

    assert admission.bytes_in_flight == 2_000
