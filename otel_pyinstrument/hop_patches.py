"""Follows requests through the libraries that move work between event loop and threads.

Patched when such a library is loaded, now or later; nothing is imported for it. Without a profiled
request a call costs one look at the current span more.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial, update_wrapper, wraps
from logging import getLogger
from types import ModuleType
from typing import Any

import wrapt
from opentelemetry.trace import get_current_span

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.hop import Hop
from otel_pyinstrument.request import request_of

_logger = getLogger(__name__)
_users = 0
_registered = False
_warned: set[str] = set()
_undo: dict[str, Callable[[], None]] = {}


def install() -> None:
    """Patch what is loaded and what will be. Counted: as many `uninstall` undo it."""
    global _registered, _users
    _users += 1
    for name in _PATCHES:
        if (module := sys.modules.get(name)) is not None:
            _apply(module)
        elif not _registered:
            wrapt.register_post_import_hook(_apply, name)
    _registered = True


def uninstall() -> None:
    """Undo one `install`; the last one restores the libraries."""
    global _users
    _users = max(0, _users - 1)
    if not _users:
        while _undo:
            _undo.popitem()[1]()


def _apply(module: ModuleType) -> None:
    name = module.__name__
    if not _users or name in _undo:
        return
    try:
        _undo[name] = _PATCHES[name](module)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        _warn_once(name, error)


def _begin_hop() -> Hop | None:
    request = request_of(get_current_span())
    if request is None:
        return None
    patched = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - documented, CPython
    return request.guard.call("hop", request.begin_hop, patched)


def _patch_call(name: str, module: Any) -> Callable[[], None]:
    """A coroutine function whose first argument is what a thread is to call."""
    original = getattr(module, name)

    @wraps(original)
    async def in_thread(*arguments: Any, **options: Any) -> Any:
        hop = _begin_hop() if arguments else None
        if hop is None:
            return await original(*arguments, **options)
        function, *others = arguments
        try:
            return await original(_named_like(function, partial(hop.run, function)), *others, **options)
        finally:
            hop.end()

    return _replace(module, name, in_thread)


def _patch_asgiref(module: Any) -> Callable[[], None]:
    call_in_thread = module.SyncToAsync.__call__
    call_on_loop = module.AsyncToSync.__call__

    @wraps(call_in_thread)
    async def sync_to_async(self: Any, *arguments: Any, **options: Any) -> Any:
        hop = _begin_hop()
        if hop is None:
            return await call_in_thread(self, *arguments, **options)
        try:
            return await call_in_thread(_copy_with(self, "func", hop.run), *arguments, **options)
        finally:
            hop.end()

    @wraps(call_on_loop)
    def async_to_sync(self: Any, *arguments: Any, **options: Any) -> Any:
        hop = _begin_hop()
        if hop is None:
            return call_on_loop(self, *arguments, **options)
        try:
            return call_on_loop(_copy_with(self, "awaitable", hop.run_async), *arguments, **options)
        finally:
            hop.end()

    undo_thread = _replace(module.SyncToAsync, "__call__", sync_to_async)
    undo_loop = _replace(module.AsyncToSync, "__call__", async_to_sync)

    def undo() -> None:
        undo_thread()
        undo_loop()

    return undo


def _copy_with(callable_: Any, attribute: str, run: Callable[..., Any]) -> Any:
    """`callable_` for one call, with `run` around the function that it calls; itself if that cannot be."""
    try:
        copied = copy.copy(callable_)
        moved = getattr(callable_, attribute)
        setattr(copied, attribute, _named_like(moved, partial(run, moved)))
        return copied
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        _warn_once(type(callable_).__module__, error)
        return callable_


def _named_like(function: Any, moved: Any) -> Any:
    """`moved`, for those who ask what is handed to a thread by its name."""
    try:
        return update_wrapper(moved, function)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        return moved


def _warn_once(name: str, error: Exception) -> None:
    if name not in _warned:
        _warned.add(name)
        _logger.warning("Work that %s moves to other threads will not be seen: %s", name, error)


def _replace(owner: Any, name: str, replacement: Any) -> Callable[[], None]:
    original = owner.__dict__[name]

    def undo() -> None:
        if owner.__dict__.get(name) is replacement:
            setattr(owner, name, original)

    setattr(owner, name, replacement)
    return undo


_PATCHES: dict[str, Callable[[Any], Callable[[], None]]] = {
    "anyio.to_thread": partial(_patch_call, "run_sync"),
    "asyncio": partial(_patch_call, "to_thread"),
    "asgiref.sync": _patch_asgiref,
}
