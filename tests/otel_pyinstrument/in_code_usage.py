"""How applications call us, as a type checker sees it. Read by pyright with the packages, never run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, assert_type

from opentelemetry.trace import Span

from otel_pyinstrument import ASGIMiddleware, PyinstrumentInstrumentor, WSGIMiddleware, profile

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@profile
def bare(a: int, *, b: str = "") -> float:
    return a + len(b)


@profile("named")
def named(a: int) -> list[int]:
    return [a]


@profile(tags={"queue": "mail", "size": 3}, memory=True)
async def asynchronous(a: int) -> str:
    return str(a)


class Orders:
    @profile
    def load(self, number: int) -> bytes:
        return b"" * number

    @staticmethod
    @profile("static")
    def count() -> int:
        return 1

    @classmethod
    @profile
    def make(cls) -> int:
        return 2


def check_functions() -> None:
    assert_type(bare(1, b="x"), float)
    assert_type(named(1), list[int])
    assert_type(Orders().load(2), bytes)
    assert_type(Orders.count(), int)
    assert_type(Orders.make(), int)
    bare("one")  # pyright: ignore[reportArgumentType] - the parameters stay those of the function
    assert_type(profile(len)([]), int)


async def check_blocks() -> None:
    assert_type(await asynchronous(1), str)
    with profile("block", tags={"a": True}, memory=False) as span:
        assert_type(span, Span)
    async with profile("block") as span:
        assert_type(span, Span)
    keep: Callable[[int], Coroutine[Any, Any, str]] = asynchronous
    await keep(1)


def check_wrappers(wsgi: WSGIApplication, asgi: Any) -> None:
    wrapped: WSGIApplication = WSGIMiddleware(wsgi)
    ASGIMiddleware(asgi)
    PyinstrumentInstrumentor().instrument(rate=1.0)
    del wrapped
