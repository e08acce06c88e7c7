"""Values of the model with plausible content; a test names only what it is about."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from profile_store.model import ChildSpan, Record, RecordDetail

START = 1_763_720_000_000_000_000


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "project_id": "6b017725f553b3b44d161362",
        "trace_id": b"t" * 16,
        "span_id": b"r" * 8,
        "parent_span_id": None,
        "endpoint": "GET /orders",
        "method": "GET",
        "path": "/orders",
        "status_code": 200,
        "failed": False,
        "duration": 0.5,
        "timestamp": datetime.fromtimestamp(START / 1e9, UTC),
        "start_time_unix_nano": START,
    }
    return Record(**values | changes)


def child_span(number: int = 1, **changes: Any) -> ChildSpan:
    """A client span of 20 ms that starts `number` ms after the request."""
    start = START + number * 1_000_000
    values: dict[str, Any] = {
        "trace_id": b"t" * 16,
        "span_id": number.to_bytes(8, "big"),
        "parent_span_id": b"r" * 8,
        "name": "SELECT",
        "kind": 3,
        "start_time_unix_nano": start,
        "end_time_unix_nano": start + 20_000_000,
        "failed": False,
        "scope": "opentelemetry.instrumentation.sqlite3",
        "attributes": {},
    }
    return ChildSpan(**values | changes)


def detail(*spans: ChildSpan, **changes: Any) -> RecordDetail:
    return RecordDetail(record=record(**changes), call_tree=None, child_spans=spans)


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(record=record, child_span=child_span, detail=detail)


@pytest.fixture
def interrupted() -> Callable[..., tuple[int, str]]:
    """Exit code and stderr of a module that is interrupted while a server at `{host}` does not answer it."""

    def interrupt(module: str, *arguments: str, **variables: str) -> tuple[int, str]:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = f"127.0.0.1:{silent.getsockname()[1]}"
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=os.environ | {name: value.format(host=host) for name, value in variables.items()},
                stderr=subprocess.PIPE,
                text=True,
                # Whoever runs these tests in the background may have it ignored.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )
            silent.accept()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=30)
        return process.returncode, told

    return interrupt
