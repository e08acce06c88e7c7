"""The names of methods that spans may have."""

from __future__ import annotations

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
"""Of RFC 9110, RFC 5789 and QUERY, as semantic conventions have them; anything else may be hostile."""

OTHER_METHOD = "_OTHER"
"""What semantic conventions give for one that is not known."""
