"""Which requests are under way on which thread: whether one had its thread to itself."""

from __future__ import annotations

from otel_pyinstrument import native


class Presence:
    """Of one thread. Not thread-safe: the gate holds its lock."""

    __slots__ = ("begun", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self.begun = 0
        """Since the thread has its first."""

    def begin(self) -> None:
        """A request begins. Its end is `under_way -= 1`, from any thread."""
        self.begun += 1
        self.under_way += 1


class Presences:
    """One for each thread, gone with it."""

    def __init__(self) -> None:
        self._of_thread = native.local()

    def here(self) -> Presence:
        """That of the running thread."""
        try:
            return self._of_thread.presence
        except AttributeError:
            presence = self._of_thread.presence = Presence()
            return presence
