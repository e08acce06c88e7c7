"""What profiling costs in CPU time, estimated from what requests cost with and without it."""

from __future__ import annotations

_PRIOR_SLOWDOWN = 1.8
_STEPS_SLOWDOWN = 3.0
_PRIOR_SECONDS = 0.02
_MEMORY = 0.99
_MAX_RATIO = 8.0
_MAX_SLOWDOWN = 5.0
_OTHER_THREADS_SLOWDOWN = 1.8
_FIRST_GUESS_SECONDS = 0.005
_IN_PLACE = 6.0
_ROOT_SPANS = 70
_PASSAGE_SPANS = 40


class CostEstimate:
    """Not thread-safe: the gate holds its lock.

    The hook's cost per call cannot be seen, but its effect can: over all profiled requests,
    slowdown = sum of their CPU time / sum of what requests of the same endpoints usually take. Of the CPU
    time under the hook, 1 - 1/slowdown is then the cost. Until there are enough requests to compare, a
    slowdown of 1.8 is assumed (Django and Flask pages: 1.7 to 2.0).

    On an event loop a request is hardly ever alone, so that there is nothing to compare: for its steps a
    slowdown of 3 is assumed (a FastAPI page 2.3, steps that do nothing but call 4 to 6).

    From Python 3.12 on the hook slows all threads: there the CPU time of the other threads while any hook
    is installed (`OtherThreads`) counts too, at a slowdown of 1.8 (call-heavy loops: 1.5 to 1.8 on 3.13, 2.3
    on 3.12).
    """

    def __init__(self) -> None:
        self._profiled_seconds = _PRIOR_SECONDS * _PRIOR_SLOWDOWN
        self._usual_seconds = _PRIOR_SECONDS
        self._covered: dict[int, float] = {}
        self.usual_cost_seconds = _FIRST_GUESS_SECONDS

    @property
    def slowdown(self) -> float:
        """CPU time of a profiled request / CPU time of the same request otherwise."""
        return min(max(self._profiled_seconds / self._usual_seconds, 1.0), _MAX_SLOWDOWN)

    def compare(self, profiled_seconds: float, usual_seconds: float) -> None:
        """A profiled request took so much CPU time, its endpoint usually takes the other."""
        if usual_seconds <= 0:
            return
        self._profiled_seconds = self._profiled_seconds * _MEMORY + min(
            profiled_seconds, _MAX_RATIO * usual_seconds
        )
        self._usual_seconds = self._usual_seconds * _MEMORY + usual_seconds

    def hook_begins(self, thread: int, thread_seconds: float, *, others_here: bool) -> None:
        """A hook goes in on `thread` and stays. `others_here`: it had one.

        `thread_seconds` is what its clock of CPU time says, also below.
        """
        if not others_here:
            self._covered[thread] = thread_seconds

    def hook_ends(self, thread: int, thread_seconds: float, *, others_here: bool) -> float:
        """CPU seconds of `thread` under hooks that no earlier call has told of.

        Where several requests are profiled on one thread at once, as by greenlets, each counts once.
        """
        covered = self._covered.pop(thread, thread_seconds)
        if others_here:
            self._covered[thread] = thread_seconds
        return max(thread_seconds - covered, 0.0)

    def cost_of(
        self, hooked_seconds: float, others_seconds: float = 0.0, *, held_thread: bool = True
    ) -> float:
        """The cost of a profile whose threads used `hooked_seconds` of CPU time under the hook.

        `others_seconds` is what threads without a hook used meanwhile that it slowed; `held_thread`: it was
        there all the time, and not for the turns of a task alone.
        """
        slowdown = self.slowdown if held_thread else _STEPS_SLOWDOWN
        return hooked_seconds * (1 - 1 / slowdown) + others_seconds * (1 - 1 / _OTHER_THREADS_SLOWDOWN)

    def learn_usual(self, cost_seconds: float) -> None:
        """A profile has cost so much in all: `usual_cost_seconds` moves towards that."""
        self.usual_cost_seconds += (cost_seconds - self.usual_cost_seconds) * 0.1


class StandingCost:
    """What requests pay because profiling is on, whether they are profiled or not. Not thread-safe, as above.

    Too little to be measured where it happens. So the handling of one span is measured in a loop at the
    start; between the work of an application, with nothing in the caches, it takes about six times that, the
    start and end of a request as much as 70 spans, of one that is only counted 40 (docs/adr/009). How many
    spans a request has is known of those that were profiled, by endpoint.
    """

    def __init__(self, span_seconds: float) -> None:
        """`span_seconds`: CPU time for one span in a loop, of no request that is profiled."""
        self._span_seconds = span_seconds
        self._spans = 0

    def add(self, child_spans: int) -> None:
        """A request has ended that has usually so many spans below its root."""
        self._spans += _ROOT_SPANS + child_spans

    def add_passages(self, count: int, child_spans: int) -> None:
        """As `add`, of so many requests that were only counted."""
        self._spans += count * (_PASSAGE_SPANS + child_spans)

    @property
    def seconds(self) -> float:
        """CPU seconds of all requests so far."""
        return self._spans * _IN_PLACE * self._span_seconds
