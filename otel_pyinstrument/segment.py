"""Sampling of one execution unit for one request, from the profile hook to a recording."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import TypeAlias

from otel_pyinstrument import native, private_names
from otel_pyinstrument.base import shared_calls
from otel_pyinstrument.call_tree import CallTreeBuilder
from otel_pyinstrument.classification import AWAIT, Classifier
from otel_pyinstrument.classification.threads import ThreadClassifier
from otel_pyinstrument.frames import identifier_of
from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.other_threads import OTHER_THREADS
from otel_pyinstrument.recording import Recording, RecordingFacts
from otel_pyinstrument.shared_wait import SharedWait

MAX_NODES = 20_000
MAX_DEPTH = 2_000
MAX_TURNS = 2_000
"""Steps of a request on an event loop: beyond that it streams, and tiny steps cost more than they tell."""

_SHORTEST_INTERVAL_SECONDS = 1e-4
_WALL_CLOCK_STEP_SECONDS = time.get_clock_info("time").resolution
_NEARLY = 0.9
_FIRST_TURN_INTERVAL_SECONDS = 1e-3
"""What was waiting for the thread when a segment began has its turns before the first `pause` comes."""

SpanEnded: TypeAlias = Callable[[], bool | None]
"""None: the span was dropped, so that nobody can end it any more."""


def never() -> bool:
    return False


def new_builder() -> CallTreeBuilder:
    """A builder for what a segment samples."""
    return CallTreeBuilder(max_nodes=MAX_NODES, max_depth=MAX_DEPTH, key=identifier_of)


class Segment:
    """Samples the execution unit that calls `open`, until `close`, which may come from any thread.

    The wall time between two samples belongs to the stack of the later one, what is left at the end to
    the stack of the last one: the tree sums to the wall time between `open` and `close`.

    Where the classifier tells of the unit's turns, the hook is there for these alone, the time between them
    is credited exactly where the unit waits, and the interval between samples is running time.

    `clock`, in seconds, is that of what waits for this segment. `builder` may already hold the samples of
    earlier segments. Of the stacks only what is below `entry` is recorded, and nothing once `span_ended` says
    so; where the span was dropped, sampling ends. When that happens before `close`, `ended_early` is called,
    under the hook perhaps, with the CPU seconds under the hook and those of installing and removing it around
    turns.
    """

    def __init__(
        self,
        *,
        interval_seconds: float,
        max_duration_seconds: float,
        classifier: Classifier | None = None,
        builder: CallTreeBuilder | None = None,
        entry: FrameType | None = None,
        span_ended: SpanEnded = never,
        ended_early: Callable[[float, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._max_duration_seconds = max_duration_seconds
        self._classifier: Classifier = ThreadClassifier() if classifier is None else classifier
        self.builder = new_builder() if builder is None else builder
        self._entry = entry
        self.clock = self._clock = clock
        self._clock_is_real = clock is time.perf_counter
        self._shared_wait: SharedWait | None = None
        self._span_ended = span_ended
        self._ended_early = ended_early
        # Reentrant: a sample, a signal handler or a finalizer may run inside `close` on the same thread.
        self._lock = native.RLock()
        self._open = self._closed = self._hooked = self._busy = False
        self._truncated = self._interrupted = False
        self._failure: Exception | None = None
        self._sample_count = 0
        self._pending: tuple[list[str], float] | None = None
        self._waiting_below: Sequence[str] | None = None
        self._waiting_since = 0.0
        self._waits_for_pause_only = False
        self._awaiting_codes: list[CodeType] = []
        self._awaiting: list[str] = [AWAIT]
        self._paused_since = 0.0
        self._ended_at: float | None = None
        self._first_turn = self._classifier.knows_turns
        self._seen_in_first_turn: tuple[list[str], float] | None = None
        self._unfollow: Callable[[], None] = lambda: None
        self._cpu_seconds = self._hooked_cpu_seconds = self._switching_cpu_seconds = 0.0
        self._turns = 0
        self._turn_is_ours = True
        """Its CPU time is counted here: not once its rest was given away, to a hop or to another part, and as
        far as samples tell, because a task may go over to another trace.
        """
        self.place_without_samples: Sequence[str] = ()
        """Where the time goes when the segment is too short for a sample."""

    @property
    def is_open(self) -> bool:
        """Whether this segment still samples, or its hook is still there."""
        return (self._open or self._hooked) and not self._classifier.is_gone

    @property
    def owner(self) -> int:
        """The thread that is sampled, by its native identity."""
        return self._owner

    @property
    def shares_thread(self) -> bool:
        return self._classifier.shares_thread

    @property
    def holds_thread(self) -> bool:
        """Whether the hook is there from `open` to the end, and not for the turns of the unit alone."""
        return not self._classifier.knows_turns

    def open(self) -> None:
        """Install the hook on the calling thread, which owns the segment from now on."""
        self._owner = native.thread_id()
        self._sampler = private_names.stack_sampler()
        calls = self._classifier.calls()
        self._skip = calls.index(self._entry) + 1 if self._entry in calls else 0
        self._entry = None
        self._start_codes = [call.f_code for call in calls]
        self._start = self._last = self._clock()
        self._opened = time.perf_counter()
        self._open = True
        try:
            self._hook(time.thread_time())
            self._unfollow = self._classifier.follow(self, self._max_duration_seconds)
        except BaseException:
            self.stop()
            raise

    def close(self, span_ended_ns: int | None = None) -> Recording | None:
        """End sampling and hand over what was recorded; None when that has happened before. Any thread.

        The hook can only be removed by the thread it is on: when that is another one, at its next sample.
        `span_ended_ns`, since the epoch: what is later is left out, except before the last sample.
        """
        with self._lock:
            if self._closed:
                return None
            ran_to_the_end = self._open
            paused = self._open and not self._hooked
            if paused and native.thread_id() == self._owner and self._classifier.is_running():
                # Nobody has told of this turn, nor of who knows how many before.
                self._interrupted, paused = True, False
            self._open = False  # from here on a sample takes the hook away
            self._closed = True
            end = self._end_now(span_ended_ns, paused=paused)
            if paused:
                self._add_pause(end)
        self._unfollow()
        base: Sequence[CodeType] = self._start_codes
        if native.thread_id() == self._owner:
            if ran_to_the_end and self._hooked:
                self._count_cpu(ours=self._waiting_below is None and self._classifier.is_running())
            self._unhook()
            base = shared_calls(base, [call.f_code for call in self._classifier.calls()]) or base
        if not ran_to_the_end or self._interrupted:
            # Who knows where the time went after a limit was reached, or without the hook.
            end = self._last if self._ended_at is None or self._interrupted else self._ended_at
        if self._failure is None:
            self._add_rest(end)
        facts = RecordingFacts(
            duration_seconds=end - self._start,
            # Read a moment after the end. Of a wait that it shares, a part may have less than it used.
            cpu_seconds=min(self._cpu_seconds, end - self._start)
            if self._clock_is_real
            else self._cpu_seconds,
            hooked_cpu_seconds=max(self._hooked_cpu_seconds, self._cpu_seconds),
            switching_cpu_seconds=self._switching_cpu_seconds,
            sample_count=self._sample_count,
            truncated=self._truncated or self.builder.truncated,
            interrupted=self._interrupted,
            failure=self._failure,
        )
        # The innermost of the shared calls stays: its own time is time of the request.
        return Recording(self.builder, base[:-1], facts)

    def stop(self) -> None:
        """End sampling and lose what was recorded. Any thread; also in a forked child."""
        self._lock = native.RLock()  # the parent's thread that held it does not exist in a child
        self._open = False
        self._closed = True
        self._unfollow()
        if native.thread_id() == self._owner:
            self._unhook()

    def _end_now(self, span_ended_ns: int | None, *, paused: bool) -> float:
        # First the coarser clock: a turn lost between the two makes the end late, and cuts nothing off.
        late_seconds = 0.0 if span_ended_ns is None else (time.time_ns() - span_ended_ns) / 1e9
        now = self._clock()
        if not _WALL_CLOCK_STEP_SECONDS < late_seconds < now - self._start:
            return now  # before the beginning: the application gave its span a time of its own
        credited = self._last
        if self._waiting_below is not None:
            credited = self._waiting_since
        elif paused:
            credited = self._paused_since
        return max(now - late_seconds, credited)

    # --- turns of the unit ---------------------------------------------------------------------------

    def resume(self) -> None:
        """The unit's turn begins: sample it, and credit the wait. Own thread."""
        began = time.thread_time()
        try:
            with self._lock:
                if not self._open or self._hooked:
                    return
                self._turns += 1
                self._turn_is_ours = True
                now = self._clock()
                waiting = self._add_pause(now)
                self._share_wait(False, now)
                if self._has_lasted(now) or self._turns > MAX_TURNS:
                    self._end_early(None, at=now)
                elif private_names.hook_is_ours_to_share():
                    self._hook(began)
                    if waiting is not None and self._open:
                        # The unit waits for its hook too: the first thing that it does is not to blame.
                        self._add_wait(waiting, self._clock() - now, samples=0)
                    self._cpu = self._hooked_cpu = time.thread_time()
                    self._switching_cpu_seconds += self._cpu - began
                else:
                    self._give_way()
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._end_early(error)

    def pause(self) -> None:
        """The unit's turn is over. Own thread."""
        try:
            with self._lock:
                self._first_turn = False
                if not self._hooked:
                    return
                ended = time.thread_time()
                if self._open:
                    self._count_cpu(ended, ours=self._turn_is_ours)
                    self._paused_since = self._clock()
                    if self._waits_for_pause_only:
                        self._end_hand_over(self._paused_since)
                    self._share_wait(self._waiting_below is None, self._paused_since)
                self._unhook(ended)
                self._switching_cpu_seconds += time.thread_time() - ended
                if self._interrupted:
                    self._give_way()
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._end_early(error)

    def reach_limit(self) -> None:
        """The maximum duration is over, while the unit waits perhaps. Own thread."""
        try:
            with self._lock:
                if self._open:
                    now = self._clock()
                    if not self._hooked:
                        self._add_pause(now)
                    self._end_early(None, at=now)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._end_early(error)

    def _has_lasted(self, now: float) -> bool:
        """Whether it is open for the maximum duration, also when it has but a share of that time."""
        seconds = now - self._start if self._clock_is_real else time.perf_counter() - self._opened
        return seconds >= self._max_duration_seconds

    def _give_way(self) -> None:
        """Another profiler has taken the thread."""
        self._interrupted = True
        self._open = False
        self._unfollow()
        self._tell_of_early_end()

    def _add_pause(self, now: float) -> Sequence[str] | None:
        """Credit the time since `pause` where the unit waits: for a hop, or else at what is returned."""
        if self._waiting_below is not None:
            self._add_waiting(now, samples=0)
            return None
        calls = self._classifier.calls()[self._skip :]
        codes = [call.f_code for call in calls]
        if codes != self._awaiting_codes:
            # Most turns end at the same await as the one before.
            self._awaiting_codes = codes
            self._awaiting = [*private_names.frame_identifiers(calls), AWAIT]
        waiting = self._awaiting
        self._add_wait(waiting, now - self._paused_since, samples=0)
        self._paused_since = now
        return waiting

    # --- waiting for work elsewhere ------------------------------------------------------------------

    def calls_of_running(self) -> Sequence[FrameType] | None:
        """The calls below the entry when this unit is running and does not wait; else None. Own thread."""
        if not self._open or self._waiting_below is not None:
            return None
        return self._classifier.calls()[self._skip :] if self._classifier.is_running() else None

    def calls_of_request(self) -> Sequence[FrameType]:
        """The await of this unit and the calls of another task of the request. Own thread."""
        return self._classifier.calls()[self._skip :]

    def begin_waiting(self, path: Sequence[str]) -> None:
        """From now on, until `end_waiting`, the unit waits in `path`, whatever else runs. Own thread."""
        with self._lock:
            self._busy = True
            try:
                self._give_turn_away()
                self._waiting_since = self._clock()
                self._waiting_below = path
            finally:
                self._busy = False

    def shared_wait(self) -> SharedWait | None:
        """What hops of other tasks of the request share; None where nobody tells of turns. Own thread."""
        with self._lock:
            if self._shared_wait is None and self._classifier.knows_turns:
                self._shared_wait = SharedWait(self._clock)
            return self._shared_wait

    def _share_wait(self, waits: bool, now: float) -> None:
        if self._shared_wait is not None:
            self._shared_wait.set_waits(waits, now)

    def hand_over(self) -> None:
        """The rest of this step of another task of the request is part of the unit's wait. Own thread.

        That task is about to wait for work elsewhere, which may have begun while this thread does not get
        its turn; or it has a segment of its own from now on.
        """
        with self._lock:
            if not self._hooked or self._first_turn or not self._classifier.has_step_alone():
                return
            if self._waiting_below is None:
                self._waits_for_pause_only = True
                self.begin_waiting(self._awaiting[:-1])
                self._share_wait(True, self._waiting_since)
            else:
                self._give_turn_away()

    def take_back(self) -> None:
        """That task goes on in the same step: nothing was to wait for, or it has failed. Own thread."""
        with self._lock:
            if self._waits_for_pause_only:
                self._end_hand_over(self._clock())
                self._turn_is_ours = True
                self._share_wait(False, self._waiting_since)

    def _end_hand_over(self, now: float) -> None:
        self._add_waiting(now, samples=0)
        self._waiting_below = None
        self._waits_for_pause_only = False

    def end_waiting(self) -> None:
        with self._lock:
            self._busy = True
            try:
                if self._open:
                    self._add_waiting(self._clock(), samples=0)
                    if self._hooked and native.thread_id() == self._owner:
                        self._count_cpu(ours=False)
                self._waiting_below = None
                self._turn_is_ours = True
            finally:
                self._busy = False

    def _give_turn_away(self) -> None:
        """What the thread does from now on is not counted as CPU time of the request, or by others."""
        if self._hooked:
            self._count_cpu(ours=self._turn_is_ours)
        self._turn_is_ours = False

    def _add_waiting(self, now: float, *, samples: int) -> None:
        if self._waiting_below is None or now <= self._waiting_since:
            return
        waited = now - self._waiting_since
        self._waiting_since = now
        self._add_wait([*self._waiting_below, AWAIT], waited, samples=samples)

    def _add_wait(self, stack: Sequence[str], seconds: float, *, samples: int) -> None:
        """Credit a wait, exactly. What lies between the last sample and the wait is left to the next."""
        self._last += seconds
        self.builder.add(stack, seconds, samples=samples)

    # --- samples -------------------------------------------------------------------------------------

    def _on_sample(self, stack: list[str], _elapsed: float, _state: object) -> None:
        """Called by the profile hook in the middle of the user's code: must not raise, log or block."""
        try:
            if self._busy or private_names.sampler_is_changing(stack):
                return
            if not self._open:
                self._unhook()
                return
            now = self._clock()
            # A faster profiler of the user's may drive the hook; the time then goes to our next sample.
            if (
                not self._first_turn
                and now - self._last < self._interval_seconds
                and private_names.sampling_interval_seconds(self._sampler) < self._asked_interval_seconds
            ):
                return
            with self._lock:
                if self._open:
                    self._sample(stack, now)
        except Exception as error:
            if came_from_signal_handler(error):
                raise
            self._end_early(error)

    def _sample(self, stack: list[str], now: float) -> None:
        ended = self._span_ended()
        if ended is None:
            self._end_early(None)
            return
        if ended:
            # Until `close` other span processors run, or other threads.
            if self._has_lasted(now):
                self._end_early(None)
            return
        if self._waiting_below is None:
            place = self._classifier.place(stack)
            ours = place.ours
            if self._first_turn and ours and now - self._last < self._interval_seconds:
                self._seen_in_first_turn = place.stack, now - self._last
                self._count_cpu(ours=True)
                return
            if place.nobodys and not self._first_turn:
                # Inside `resume` or `pause`, or after an exception that has ended the loop.
                if self._has_lasted(now):
                    self._end_early(None)
                return
            self._turn_is_ours = ours
            over = self._first_turn and not ours and not self._classifier.is_in_turn()
            if over:
                self._add_end_of_first_turn(place.stack, now)
            else:
                self._set_pending(place.stack, now)
                self._count_cpu(ours=ours)
            self._seen_in_first_turn = None
        else:
            over = self._first_turn and not self._classifier.is_running()
            self._add_waiting(now, samples=1)
            self._count_cpu(ours=self._is_others_turn_ours(stack))
        self._sample_count += 1
        asked_early = self._asked_interval_seconds < _NEARLY * self._interval_seconds
        if self._has_lasted(now) or self.builder.node_count >= MAX_NODES:
            self._end_early(None)
        elif over:
            self.pause()
        elif self._hooked and not self._first_turn and asked_early:
            self._ask_for_sample()  # after what was left, the whole interval; never inside `_unhook`

    def _is_others_turn_ours(self, stack: list[str]) -> bool:
        """While the unit waits, other tasks of the request may have their turns, and tasks of others."""
        if self._turn_is_ours:
            self._turn_is_ours = self._classifier.place(stack).ours
        return self._turn_is_ours

    def _add_end_of_first_turn(self, waiting: Sequence[str], now: float) -> None:
        """The unit waits since some moment after it was last seen, or since `now` at the latest.

        Half of what it could have run without being seen again is the best guess.
        """
        stack, ran_seconds = self._seen_in_first_turn or (None, 0.0)
        seen_at = self._last + ran_seconds
        ended_at = seen_at + min(now - seen_at, self._asked_interval_seconds) / 2
        if stack is not None:
            self._set_pending(stack, ended_at)
        self._add_wait(waiting[self._skip :], now - ended_at, samples=int(stack is None))
        self._count_cpu(ours=False)

    def _set_pending(self, stack: list[str], now: float) -> None:
        self._add_pending(0.0)
        self._pending = (stack[self._skip :], now - self._last)
        self._last = now

    def _count_cpu(self, cpu: float | None = None, *, ours: bool) -> None:
        """Own thread, whose CPU time is `cpu` seconds, now or a moment ago."""
        cpu = time.thread_time() if cpu is None else cpu
        if ours:
            self._cpu_seconds += cpu - self._cpu
        self._cpu = cpu

    def _add_pending(self, more_seconds: float) -> None:
        # The builder is one sample behind, so that `close` can add its rest without counting a sample.
        if self._pending is not None:
            stack, seconds = self._pending
            self.builder.add(stack, seconds + more_seconds)

    def _add_rest(self, end: float) -> None:
        self._add_waiting(end, samples=0)
        if self._pending is not None:
            self._add_pending(end - self._last)
        else:
            self.builder.add(list(self.place_without_samples), end - self._last, samples=0)

    def _end_early(self, failure: Exception | None, at: float | None = None) -> None:
        """Sampling ends with the last sample, or `at` a time until which all is credited but running time."""
        self._truncated = True
        self._ended_at = at
        self._open = False
        self._failure = failure
        try:
            self._unfollow()
            self._unhook()
            self._tell_of_early_end()
        except Exception as error:
            self._failure = failure or error
            if came_from_signal_handler(error):
                raise

    def _tell_of_early_end(self) -> None:
        if self._ended_early is not None:
            self._ended_early(max(self._hooked_cpu_seconds, self._cpu_seconds), self._switching_cpu_seconds)

    def _hook(self, cpu: float) -> None:
        """Own thread, whose CPU time is `cpu` seconds."""
        self._cpu = self._hooked_cpu = cpu
        self._hooked = True
        OTHER_THREADS.hook_begins(self)
        self._ask_for_sample()

    def _ask_for_sample(self) -> None:
        """The hook fires when what is left of the interval has been running time. Own thread."""
        # A coarse clock may have let more than an interval pass. Its sample is not due at once: what a turn
        # begins with would be blamed for the end of the turn before.
        left = self._interval_seconds - (self._clock() - self._last) % self._interval_seconds
        longest = _FIRST_TURN_INTERVAL_SECONDS if self._first_turn else self._interval_seconds
        self._asked_interval_seconds = max(min(left, longest), _SHORTEST_INTERVAL_SECONDS)
        private_names.subscribe(self._sampler, self._on_sample, interval_seconds=self._asked_interval_seconds)
        if not self._hooked:  # a finalizer or a signal handler has ended the request in the middle
            self._hooked = True
            self._unhook()

    def _unhook(self, cpu: float | None = None) -> None:
        """Own thread, whose CPU time is `cpu` seconds."""
        if not self._hooked:
            return
        self._hooked = False  # before the work: a sample may come here in the middle of it
        try:
            cpu = time.thread_time() if cpu is None else cpu
            self._hooked_cpu_seconds += cpu - self._hooked_cpu
            self._hooked_cpu = cpu
            OTHER_THREADS.hook_ends(self)  # first: the rest can be done again when a signal breaks in
            intact = private_names.unsubscribe(self._sampler, self._on_sample)
        except BaseException:
            self._hooked = True  # the next sample tries again
            raise
        self._interrupted = self._interrupted or not intact
