"""Typed reading of the fields of one record. Every refusal names the field, its value and the remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from profile_store.plain_json.problems import BadRecord, wrong

MAX_SECONDS = 100 * 24 * 60 * 60
"""Longer durations are refused: `otel_pyinstrument.call_tree` bounds what the times of a tree sum to."""

_MAX_PAIRS_CHARACTERS = 65_536
_MAX_COUNT = 2**53 - 1  # what every reader of JSON can hold exactly
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Fields:
    """The members of one object. `where` is the path to it, with a dot at its end, "" for the record."""

    def __init__(self, members: Mapping[str, Any], where: str = "") -> None:
        self._members = members
        self._where = where

    def object(self, name: str) -> Fields:
        """An object; an empty one when it is absent or null."""
        value = self._members.get(name)
        if value is None:
            return Fields({}, f"{self._where}{name}.")
        if not isinstance(value, dict):
            raise wrong(self._where + name, value, "send an object, or leave it out")
        return Fields(cast("dict[str, Any]", value), f"{self._where}{name}.")

    def text(self, *names: str, limit: int) -> str:
        """The first of the names that is there, without white space around it; "" when none is."""
        name, value = self._first(names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise wrong(name, value, "send text")
        return checked_text(name, value, limit).strip()

    def seconds(self, *names: str) -> float | None:
        """A number from 0 to 100 days."""
        return self.number(*names, highest=MAX_SECONDS, remedy="send seconds as a number from 0 to 8640000")

    def number(self, *names: str, highest: float, remedy: str) -> float | None:
        """A finite number from 0 to `highest`."""
        name, value = self._first(names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
            raise wrong(name, value, remedy)
        return float(value)

    def count(self, *names: str, highest: int = _MAX_COUNT) -> int | None:
        """A whole number from 0 to `highest`, maybe written as 3.0."""
        name, value = self._first(names)
        if value is None:
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not 0 <= value <= highest or value != int(value):
            raise wrong(name, value, f"send a whole number from 0 to {highest}")
        return int(value)

    def flag(self, name: str) -> bool | None:
        """true or false."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(self._where + name, value, "send true or false")
        return value

    def time(self, name: str) -> datetime | None:
        """A time with zone after RFC 3339, in UTC."""
        value = self._members.get(name)
        if value is None:
            return None
        remedy = "send a time with zone such as 2026-11-21T10:30:00Z"
        if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
            raise wrong(self._where + name, value, remedy, reason="bad_timestamp")
        try:
            moment = datetime.fromisoformat(value.upper().replace(" ", "T")).astimezone(UTC)
        except (ValueError, OverflowError):
            raise wrong(self._where + name, value, remedy, reason="bad_timestamp") from None
        if not 1970 < moment.year < 2262:
            raise wrong(self._where + name, value, "send a time after 1970", reason="bad_timestamp")
        return moment

    def array(self, name: str, *, limit: int) -> list[Any]:
        """An array of at most `limit` items; an empty one when it is absent or null."""
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self._where + name, value, "send an array, or leave it out")
        items = cast("list[Any]", value)
        if len(items) > limit:
            raise BadRecord("too_large", f"{self._where}{name} has {len(items)} items: send at most {limit}")
        return items

    def raw(self, name: str) -> Any:
        """The value as it is; None when it is absent."""
        return self._members.get(name)

    def path(self, name: str) -> str:
        """How a message names a member."""
        return self._where + name

    def pairs(self, name: str, *, limit: int, value_limit: int) -> dict[str, list[str]]:
        """An object whose values are texts, numbers or lists of them, as lists of text; values are cut.

        At most `limit` members and 64 KiB in all.
        """
        members = self.object(name)._members
        if len(members) > limit:
            raise BadRecord(
                "too_large", f"{self.path(name)} has {len(members)} members: send at most {limit}"
            )
        pairs: dict[str, list[str]] = {}
        size = 0
        for key, value in members.items():
            field = f"{self.path(name)}.{key[:100]}"
            checked_text(field, key, value_limit)
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            pairs[key] = [
                _scalar_text(field, item)[:value_limit] for item in values[:limit] if item is not None
            ]
            size += len(key) + sum(map(len, pairs[key]))
            if size > _MAX_PAIRS_CHARACTERS:
                remedy = f"send at most {_MAX_PAIRS_CHARACTERS} characters"
                raise BadRecord("too_large", f"{self.path(name)} is too long: {remedy}")
        return pairs

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if self._members.get(name) is not None:
                return self._where + name, self._members[name]
        return self._where + names[0], None


def checked_text(field: str, value: str, limit: int) -> str:
    """`value` when it can be stored and is not too long.

    Raises:
        BadRecord: NUL, half a surrogate pair, or more than `limit` characters.
    """
    if _UNSTORABLE.search(value):
        raise wrong(field, value, "remove NUL characters and lone surrogates")
    if len(value) > limit:
        raise wrong(field, value, f"send at most {limit} characters, it has {len(value)}")
    return value


def _scalar_text(field: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise wrong(field, value, "send text, a number, or a list of them")
    if _UNSTORABLE.search(value):
        raise wrong(field, value, "remove NUL characters and lone surrogates")
    return value
