"""One batch as several, each small enough for the limit of the receiver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from otel_pyinstrument.guard import came_from_signal_handler
from otel_pyinstrument.transport.sizes import envelope_bytes


def split(
    batch: Sequence[Any],
    *,
    max_bytes: int,
    size_of: Callable[[Any], int],
    without_profile: Callable[[Any, int], Any],
) -> list[Sequence[Any]]:
    """`batch` cut into parts of at most `max_bytes` of encoded size, in the order given, nothing left out.

    `size_of` is an upper bound of one item. An item that is too large by itself becomes a part of its own, as
    `without_profile(item, max_bytes)`. That part may still be too large: the item is the user's, and the
    receiver decides. An item that cannot be read is a part of its own too, so that its exporter loses nothing
    else.
    """
    room = max_bytes - envelope_bytes(batch)
    sizes = [_size_or(room + 1, size_of, item) for item in batch]
    if sum(sizes) <= room:
        return [batch]
    parts: list[Sequence[Any]] = []
    current: list[Any] = []
    filled = 0
    for item, size in zip(batch, sizes, strict=True):
        kept = item
        if size > room:
            kept = _stripped(without_profile, item, max_bytes)
            size = _size_or(room + 1, size_of, kept)
        if current and filled + size > room:
            parts.append(current)
            current, filled = [], 0
        current.append(kept)
        filled += size
    parts.append(current)
    return parts


def _size_or(unreadable: int, size_of: Callable[[Any], int], measured: Any) -> int:
    try:
        return size_of(measured)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        return unreadable


def _stripped(without_profile: Callable[[Any, int], Any], item: Any, max_bytes: int) -> Any:
    try:
        return without_profile(item, max_bytes)
    except Exception as error:
        if came_from_signal_handler(error):
            raise
        return item
