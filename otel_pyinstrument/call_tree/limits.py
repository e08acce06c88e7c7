"""The version and the bounds of the wire format (docs/wire-format.md)."""

from __future__ import annotations

from typing import NamedTuple

FORMAT_VERSION = 1
"""Value of `pyinstrument.format` and of `v` in the payload that this package writes and reads."""

MAX_TEXT_BYTES = 512
"""Function and file names are cut to this many bytes of UTF-8."""


class Limits(NamedTuple):
    """What `decode` accepts. A payload beyond a limit is refused; only text is cut instead."""

    max_compressed_bytes: int = 1 << 20
    max_json_bytes: int = 32 << 20
    max_nodes: int = 200_000
    max_frames: int = 100_000
    max_depth: int = 10_000
    max_order_runs: int = 200_000
    max_text_bytes: int = MAX_TEXT_BYTES
    max_sum: int = 2**43 - 1
    """Largest sum of `self_us` (101 days) and of `samples`. 1,024 such trees still merge into a valid one,
    which takes a larger limit to read back."""


DEFAULT_LIMITS = Limits()
