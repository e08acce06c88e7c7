"""Primitives of the real threads, also where gevent has replaced them by those of greenlets.

The profile hook belongs to a thread, and what runs inside it must never switch to another greenlet.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def original(module: str, name: str) -> Any:
    """`module.name` as it was before gevent patched it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(import_module(module), name)
    return monkey.get_original(module, name)


RLock = original("_thread", "RLock")
"""Written in C: no signal handler finds it half taken, as it may `threading.RLock` under gevent."""
thread_id = original("_thread", "get_ident")
"""The identity of the running thread, not of the running greenlet."""
local = original("_thread", "_local")
