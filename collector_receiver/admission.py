"""How many bytes of requests may be in the receiver at one time, whatever protocol brought them."""

from __future__ import annotations

from collector_receiver.refusals import TryAgain

MAX_BYTES_IN_FLIGHT = 48 * 1024 * 1024
MIN_WEIGHT_BYTES = 16_384  # what even an empty request occupies while it waits: call, task, documents
# Python's exporter gives up after 10 s, a Collector after 5: what is answered later is sent again in vain.
SLOW_SECONDS = 3.0
SLOW_SHARE = 4  # of the bytes in flight that are taken while answers are slow
OVERLOAD_RETRY_SECONDS = 1.0
STOPPING_RETRY_SECONDS = 1.0


class Admission:
    """Counts bytes in flight and refuses what is too much. Used on one loop."""

    def __init__(self, max_bytes: int = MAX_BYTES_IN_FLIGHT) -> None:
        self.max_bytes = max_bytes
        self.closed = False
        self._bytes_in_flight = 0
        self._usual_seconds = 0.0

    @property
    def bytes_in_flight(self) -> int:
        """What the places of all requests have together."""
        return self._bytes_in_flight

    def enter(self, size: int, *, announced: int = 0) -> Place:
        """Room for `size` bytes, until `Place.leave`.

        `announced` is what the sender says that it will send: there must be room for that too, but it is not
        taken, because it may come slowly or never.

        Raises:
            TryAgain: there is too much at the moment, or nothing is taken any more.
        """
        if self.closed:
            raise stopping()
        self._require_room(max(size, announced), others=self._bytes_in_flight)
        self._bytes_in_flight += size
        return Place(self, size)

    def grow(self, place: Place, size: int) -> None:
        """Let a place have `size` bytes if it has less. A request that is alone is never too much.

        Raises:
            TryAgain: there is too much at the moment; the place stays as it was.
        """
        if size > place.size:
            self._require_room(size - place.size, others=self._bytes_in_flight - place.size)
            self._bytes_in_flight += size - place.size
            place.size = size

    def leave(self, place: Place) -> None:
        """Give the room back; once is enough."""
        self._bytes_in_flight -= place.size
        place.size = 0

    def took(self, seconds: float) -> None:
        """A request was worked on for so long, most of it behind others when there is much to do."""
        self._usual_seconds += (seconds - self._usual_seconds) / 16

    def too_late(self) -> TryAgain:
        """The refusal of a body that did not arrive within its time."""
        if self.closed:
            return stopping()
        return TryAgain("slow_body", "the request did not arrive in time", OVERLOAD_RETRY_SECONDS)

    def _require_room(self, size: int, *, others: int) -> None:
        limit = self.max_bytes if self._usual_seconds < SLOW_SECONDS else self.max_bytes // SLOW_SHARE
        if others and self._bytes_in_flight + size > limit:
            raise overloaded()


class Place:
    """The room of one request."""

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self.size = size

    def grow(self, size: int) -> None:
        """See `Admission.grow`."""
        self._admission.grow(self, size)

    def leave(self) -> None:
        """See `Admission.leave`."""
        self._admission.leave(self)


def overloaded() -> TryAgain:
    """The refusal of what is too much at the moment."""
    return TryAgain("overloaded", "the receiver is busy", OVERLOAD_RETRY_SECONDS)


def stopping() -> TryAgain:
    """The refusal of what comes while the receiver stops."""
    return TryAgain("stopping", "the receiver is stopping", STOPPING_RETRY_SECONDS)
