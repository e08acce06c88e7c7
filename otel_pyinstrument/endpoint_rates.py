"""Rates of single endpoints as the settings have them: `GET /orders/{id}=0.5`, `/health=0`."""

from __future__ import annotations

import re
from typing import NamedTuple

from otel_pyinstrument.http_methods import METHODS

# Not compiled here: most settings have no such rates.
_PARAMETER = r"<[^<>]*>|\{[^{}]*\}"
_WITHOUT_PARAMETERS = r"(?:([A-Z]+) +)?/[^\s*?=,;<>{}]*"
_REGULAR_EXPRESSION = r"(?:([A-Z]+) +)?\S*(?:\^|\(\?P)\S*"
"""A route of Django's `re_path`. Compared as text, so that nothing in it is a pattern."""


class EndpointRate(NamedTuple):
    """`endpoint` is a method and a route or path, or the latter alone, which stands for all methods."""

    endpoint: str
    rate: float
    """Share of its requests, 0 to 1."""


def read_endpoint_rate(entry: str) -> EndpointRate:
    """One entry. What follows its last `=` is the rate.

    Raises:
        ValueError: it is none. A pattern (`*`), a query, several entries, and what names a method that
        spans never have are none either.
    """
    endpoint, _, text = entry.strip().rpartition("=")
    endpoint = endpoint.strip()
    named = re.fullmatch(_WITHOUT_PARAMETERS, re.sub(_PARAMETER, "", endpoint)) or re.fullmatch(
        _REGULAR_EXPRESSION, endpoint
    )
    if named is None or named[1] not in {None, *METHODS}:
        raise ValueError("no endpoint and its rate")
    rate = float(text)
    if not 0 <= rate <= 1:
        raise ValueError("no rate from 0 to 1")
    return EndpointRate(endpoint, rate)
