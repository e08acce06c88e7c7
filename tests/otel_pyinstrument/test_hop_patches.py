"""The libraries that move work are patched when they are loaded, whenever that is, and nothing is loaded."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
from otel_pyinstrument import PyinstrumentInstrumentor

# When profiling is on, then none of the libraries is loaded for it
PyinstrumentInstrumentor().instrument()
assert not {"anyio", "asgiref", "greenlet", "gevent"} & set(sys.modules), sorted(sys.modules)

# When they are loaded later, then they are followed
import anyio.to_thread
import asgiref.sync
import asyncio
places = [(anyio.to_thread, "run_sync"), (asyncio, "to_thread"), (asgiref.sync.SyncToAsync, "__call__"),
          (asgiref.sync.AsyncToSync, "__call__")]
def patched():
    return [getattr(owner, name).__code__.co_filename.endswith("hop_patches.py") for owner, name in places]
assert patched() == [True] * 4, patched()

# When profiling goes off and on again, then they are restored and followed again
PyinstrumentInstrumentor().uninstrument()
assert patched() == [False] * 4, patched()
PyinstrumentInstrumentor().instrument()
assert patched() == [True] * 4, patched()
print("done")
"""


def test_libraries_are_followed_from_the_moment_they_are_loaded() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)

    assert (run.stdout, run.stderr) == ("done\n", "")
