"""Call trees of one request or many: build, encode, decode, prune, merge, ask. Standard library only.

The encoded form is public and versioned: docs/wire-format.md.
"""

from __future__ import annotations

from otel_pyinstrument.call_tree.builder import CallTreeBuilder
from otel_pyinstrument.call_tree.decoder import InvalidPayload, InvalidReason, decode
from otel_pyinstrument.call_tree.encoder import Encoded, encode
from otel_pyinstrument.call_tree.frame import OTHER, ROOT, Frame
from otel_pyinstrument.call_tree.hot_functions import HotFunction, hot_functions, summary
from otel_pyinstrument.call_tree.limits import DEFAULT_LIMITS, FORMAT_VERSION, Limits
from otel_pyinstrument.call_tree.merge import merge
from otel_pyinstrument.call_tree.prune import prune
from otel_pyinstrument.call_tree.tree import CallTree, InvalidCallTree

__all__ = [
    "DEFAULT_LIMITS",
    "FORMAT_VERSION",
    "OTHER",
    "ROOT",
    "CallTree",
    "CallTreeBuilder",
    "Encoded",
    "Frame",
    "HotFunction",
    "InvalidCallTree",
    "InvalidPayload",
    "InvalidReason",
    "Limits",
    "decode",
    "encode",
    "hot_functions",
    "merge",
    "prune",
    "summary",
]
