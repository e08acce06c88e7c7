"""Why a record is refused, and how a value from a stranger is shown in the reason."""

from __future__ import annotations

from typing import Literal, TypeAlias

Reason: TypeAlias = Literal[
    "record_format",
    "too_large",
    "bad_timestamp",
    "call_stack_too_deep",
    "expired",
    "unknown_project_key",
]
"""What is wrong, in the words of the API's error codes."""

_SHOWN_CHARACTERS = 60


class BadRecord(Exception):
    """One record cannot be stored. The message names the field, the value and the remedy."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def wrong(field: str, value: object, remedy: str, *, reason: Reason = "record_format") -> BadRecord:
    """`duration is "fast": send seconds as a number of 0 or more`."""
    return BadRecord(reason, f"{field} is {shown(value)}: {remedy}")


def shown(value: object) -> str:
    """A value from JSON as one short printable line; of an object or array only what it is."""
    match value:
        case None:
            return "missing"
        case True | False:
            return str(value).lower()
        case dict():
            return "an object"
        case list():
            return "an array"
        case str():
            return ascii(value[:_SHOWN_CHARACTERS]) + ("…" if len(value) > _SHOWN_CHARACTERS else "")
        case _:
            # What is too long to be a number of this world comes as text already.
            return str(value)[:_SHOWN_CHARACTERS]
