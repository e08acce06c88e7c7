"""Profiles of functions and blocks that the application chooses itself: scripts, tasks, consumers."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial, wraps
from logging import getLogger
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType, TracebackType
from typing import ParamSpec, TypeVar, cast, overload

from opentelemetry import trace
from opentelemetry.context import set_value
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from otel_pyinstrument import installed
from otel_pyinstrument.facts.usage import memory_bytes
from otel_pyinstrument.guard import came_from_signal_handler

_logger = getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

_UNNAMED = "profile"
_MEMORY_DELTA = "pyinstrument.memory_delta"
# It cannot wait: the coroutine may be awaited in another task, where the span is not current, or never.
_RUNS_LATER = (
    "@profile: %s returns a coroutine, and its profile ends before that runs; put @profile on the "
    "`async def` itself, or `async with profile(...):` around the await"
)


@overload
def profile(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def profile(
    name: str | None = None, /, *, tags: Mapping[str, AttributeValue] | None = None, memory: bool = False
) -> Profile: ...
def profile(
    name: Callable[_P, _R] | str | None = None,
    /,
    *,
    tags: Mapping[str, AttributeValue] | None = None,
    memory: bool = False,
) -> Callable[_P, _R] | Profile:
    """Profile a function or a block: `@profile`, `@profile("name")`, `with profile("name"):`, also `async`.

    Outside any request each run is a root span of kind INTERNAL with a profile of its own, whatever the
    rate but within the limits and the CPU budget: it costs about twice the CPU time. Inside a request it is
    a child span, and the request's profile, if it has one, shows the function anyway. Does nothing while
    tracing is not set up.

    `tags` become attributes of the span. `memory` adds `pyinstrument.memory_delta` in bytes: of what Python
    allocated while `tracemalloc` runs, else of the resident memory of the process.

    Raises:
        TypeError: for what cannot be profiled as one run: generators, classes, `classmethod` objects.
    """
    if name is None or isinstance(name, str):
        return Profile(name, tags, memory=memory)
    return Profile(None, tags, memory=memory)(name)


class Profile:
    """What `profile(...)` makes: a context manager (sync and async) that yields the span, and a decorator.

    One object may be entered again inside itself, but not by several threads or tasks at once; a decorated
    function may.
    """

    def __init__(self, name: str | None, tags: Mapping[str, AttributeValue] | None, *, memory: bool) -> None:
        self._name = name
        self._tags = tags
        self._memory = memory
        self._runs: list[_Run] = []

    def __enter__(self) -> Span:
        run = _Run(self._name or _UNNAMED, self._tags, memory=self._memory)
        self._runs.append(run)
        return run.span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runs.pop().end(error)

    async def __aenter__(self) -> Span:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R]:
        """`function`, profiled at each call; a coroutine function from its first step to its result."""
        _refuse_what_has_no_single_run(function)
        body = _body_of(function)
        named = _without_partials(function)
        if not hasattr(named, "__qualname__"):
            named = body
        name = self._name or getattr(named, "__qualname__", _UNNAMED)
        tags = {"code.function.name": _full_name(named), **(self._tags or {})}
        memory = self._memory
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(body):
            asynchronous = cast("Callable[_P, Awaitable[object]]", function)

            @wraps(function)
            async def coroutine(*args: _P.args, **kwargs: _P.kwargs) -> object:
                with Profile(name, tags, memory=memory):
                    return await asynchronous(*args, **kwargs)

            return cast("Callable[_P, _R]", coroutine)

        said = False

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            nonlocal said
            with Profile(name, tags, memory=memory) as span:
                result = function(*args, **kwargs)
                # By its own type: to ask some lazy objects for their class is to ask for their value.
                if not said and issubclass(type(result), CoroutineType) and span.is_recording():
                    said = True
                    _logger.warning(_RUNS_LATER, name)
            return result

        return call


class _Run:
    """One run, from the span's start to its end. What fails in here is logged and the application goes on."""

    def __init__(self, name: str, tags: Mapping[str, AttributeValue] | None, *, memory: bool) -> None:
        self.span: Span = INVALID_SPAN
        self._current: AbstractContextManager[Span] | None = None
        self._memory_before: int | None = None
        try:
            self.span = installed.tracer().start_span(
                name, set_value(installed.FORCED_KEY, True), SpanKind.INTERNAL, attributes=tags
            )
            self._current = trace.use_span(self.span, end_on_exit=True)
            self._current.__enter__()
            self._memory_before = memory_bytes() if memory and self.span.is_recording() else None
        except BaseException as error:
            if not isinstance(error, Exception) or came_from_signal_handler(error):
                # The block will not run, and nobody else would end what has begun.
                self._leave(error)
                raise
            _logger.warning("%s is not profiled: its span could not be started", name, exc_info=True)

    def end(self, error: BaseException | None) -> None:
        try:
            try:
                after = memory_bytes() if self._memory_before is not None else None
                if after is not None and self._memory_before is not None:
                    self.span.set_attribute(_MEMORY_DELTA, after - self._memory_before)
            finally:
                self._leave(error)
        except Exception as failure:
            if failure is not error:
                if came_from_signal_handler(failure):
                    raise
                _logger.warning("A profile was lost: its span could not be ended", exc_info=True)

    def _leave(self, error: BaseException | None) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


def _body_of(function: object) -> object:
    """What runs when `function` is called: the function of a partial, `__call__` of an object."""
    function = _without_partials(function)
    if isinstance(function, (FunctionType, MethodType, BuiltinFunctionType, type)) or not callable(function):
        return function
    return type(function).__call__


def _without_partials(function: object) -> object:
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function


def _refuse_what_has_no_single_run(function: object) -> None:
    body = _body_of(function)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError(
            f"profile: {function!r} is a generator, which runs in parts between others' work; "
            "put `with profile(...):` around the work inside it, or around the loop that uses it"
        )
    if inspect.isclass(function) or isinstance(function, (classmethod, staticmethod)):
        raise TypeError(
            f"profile: {function!r} is no function; put @profile on the methods, "
            "below @classmethod and @staticmethod"
        )
    if not callable(function):
        raise TypeError(f"profile: expected a function or a name, not {function!r}")


def _full_name(function: object) -> str:
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    return f"{module}.{name}" if module and name else str(name)
