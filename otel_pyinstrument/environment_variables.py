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

OTEL_PYINSTRUMENT_ENDPOINT_RATES = "OTEL_PYINSTRUMENT_ENDPOINT_RATES"
"""
.. envvar:: OTEL_PYINSTRUMENT_ENDPOINT_RATES

The same for single endpoints, separated by commas: `GET /orders/{id}=0.5,/health=0`.
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

OTEL_PYINSTRUMENT_CPU_BUDGET = "OTEL_PYINSTRUMENT_CPU_BUDGET"
"""
.. envvar:: OTEL_PYINSTRUMENT_CPU_BUDGET

Share of the process's CPU time that profiling may cost, from 0 (nothing) to 1 (no limit).
"""

OTEL_PYINSTRUMENT_SLOW_THRESHOLD = "OTEL_PYINSTRUMENT_SLOW_THRESHOLD"
"""
.. envvar:: OTEL_PYINSTRUMENT_SLOW_THRESHOLD

Seconds from which on a request counts as slow.
"""

OTEL_PYINSTRUMENT_SLOW_RATE = "OTEL_PYINSTRUMENT_SLOW_RATE"
"""
.. envvar:: OTEL_PYINSTRUMENT_SLOW_RATE

Share of requests that are profiled of an endpoint that was slow in one of its last 20 requests.
"""

OTEL_PYINSTRUMENT_ERROR_RATE = "OTEL_PYINSTRUMENT_ERROR_RATE"
"""
.. envvar:: OTEL_PYINSTRUMENT_ERROR_RATE

Share of requests that are profiled of an endpoint that failed in one of its last 20 requests.
"""

OTEL_PYINSTRUMENT_INCLUDE = "OTEL_PYINSTRUMENT_INCLUDE"
"""
.. envvar:: OTEL_PYINSTRUMENT_INCLUDE

Patterns separated by commas, like `/api/*` or `GET /orders/*`: only these requests are profiled.
"""

OTEL_PYINSTRUMENT_EXCLUDE = "OTEL_PYINSTRUMENT_EXCLUDE"
"""
.. envvar:: OTEL_PYINSTRUMENT_EXCLUDE

Patterns separated by commas, like `/health` or `OPTIONS`: these requests are never profiled.
"""

OTEL_PYINSTRUMENT_CONFIG_FILE = "OTEL_PYINSTRUMENT_CONFIG_FILE"
"""
.. envvar:: OTEL_PYINSTRUMENT_CONFIG_FILE

A JSON or YAML file with these settings, named by their last part in lower case.
"""

OTEL_PYINSTRUMENT_PLATFORM_URL = "OTEL_PYINSTRUMENT_PLATFORM_URL"
"""
.. envvar:: OTEL_PYINSTRUMENT_PLATFORM_URL

Address of the platform, whose rules for the project then hold beside the settings.
"""

OTEL_PYINSTRUMENT_PROJECT_KEY = "OTEL_PYINSTRUMENT_PROJECT_KEY"
"""
.. envvar:: OTEL_PYINSTRUMENT_PROJECT_KEY

The project's key on the platform.
"""
