"""The environment variables of this package.

Registered as `opentelemetry_environment_variables`, so that `opentelemetry-instrument` offers each as an
option too: `OTEL_PYINSTRUMENT_RATE` is `--pyinstrument_rate`. The defaults stand in `settings.py`.
"""

from __future__ import annotations

OTEL_PYINSTRUMENT_ENABLED = "OTEL_PYINSTRUMENT_ENABLED"
"""
.. envvar:: OTEL_PYINSTRUMENT_ENABLED

`false` switches profiling off: nothing is installed in the application.
"""

OTEL_PYINSTRUMENT_RATE = "OTEL_PYINSTRUMENT_RATE"
"""
.. envvar:: OTEL_PYINSTRUMENT_RATE

Share of requests that are profiled, from 0 (none) to 1 (all).
"""

OTEL_PYINSTRUMENT_MAX_CONCURRENT = "OTEL_PYINSTRUMENT_MAX_CONCURRENT"
"""
.. envvar:: OTEL_PYINSTRUMENT_MAX_CONCURRENT

How many requests of one process may be profiled at the same moment.
"""

OTEL_PYINSTRUMENT_INTERVAL = "OTEL_PYINSTRUMENT_INTERVAL"
"""
.. envvar:: OTEL_PYINSTRUMENT_INTERVAL

Milliseconds between two samples of a profiled request.
"""

OTEL_PYINSTRUMENT_MAX_DURATION = "OTEL_PYINSTRUMENT_MAX_DURATION"
"""
.. envvar:: OTEL_PYINSTRUMENT_MAX_DURATION

Seconds after which sampling of a request stops; the part recorded until then is kept.
"""

OTEL_PYINSTRUMENT_MASK = "OTEL_PYINSTRUMENT_MASK"
"""
.. envvar:: OTEL_PYINSTRUMENT_MASK

Parts of names, separated by commas, of headers and query parameters whose values are hidden besides secrets.
"""

OTEL_PYINSTRUMENT_EVENT = "OTEL_PYINSTRUMENT_EVENT"
"""
.. envvar:: OTEL_PYINSTRUMENT_EVENT

How a profile travels: `span` as an event of its span, `log` as a log record of its own.
"""

OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES = "OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES"
"""
.. envvar:: OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES

Batches whose encoded size is larger are exported in several requests.
"""

OTEL_PYINSTRUMENT_SPOOL_DIR = "OTEL_PYINSTRUMENT_SPOOL_DIR"
"""
.. envvar:: OTEL_PYINSTRUMENT_SPOOL_DIR

Directory where requests wait that could not be delivered. Without it they are lost.
"""

OTEL_PYINSTRUMENT_SPOOL_MAX_BYTES = "OTEL_PYINSTRUMENT_SPOOL_MAX_BYTES"
"""
.. envvar:: OTEL_PYINSTRUMENT_SPOOL_MAX_BYTES

How much may wait in the spool directory; the oldest is dropped above that.
"""

OTEL_PYINSTRUMENT_SPOOL_MAX_AGE = "OTEL_PYINSTRUMENT_SPOOL_MAX_AGE"
"""
.. envvar:: OTEL_PYINSTRUMENT_SPOOL_MAX_AGE

Seconds after which a request that waits in the spool directory is dropped.
"""
