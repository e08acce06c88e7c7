"""One minute or hour of a project: its requests by endpoint, method, version and environment."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from profile_store.rollups.measures import Measures

MAX_GROUPS = 1_000
"""So many groups a bucket tells apart; the rarest beyond them are counted together as `OTHER`."""

_COMPRESSION_LEVEL = 6


class GroupKey(NamedTuple):
    """What requests are told apart by."""

    endpoint: str
    method: str
    version: str
    environment: str


OTHER = GroupKey("[other]", "", "", "")
"""Requests of the groups beyond `MAX_GROUPS`."""


@dataclass(slots=True)
class Bucket:
    """`total` is exact whatever happens to the groups, whose sum it is."""

    total: Measures = field(default_factory=Measures)
    groups: dict[GroupKey, Measures] = field(default_factory=dict[GroupKey, Measures])

    def add(self, key: GroupKey, measures: Measures) -> None:
        """Count requests of one group."""
        self.total.merge(measures)
        self._add_group(key, measures)

    def merge(self, other: Bucket) -> None:
        """Add another bucket to this one; the number of groups is not bounded here, see `cap`."""
        self.total.merge(other.total)
        for key, measures in other.groups.items():
            self._add_group(key, measures)

    def cap(self, max_groups: int = MAX_GROUPS) -> None:
        """Keep the groups with the most requests, first by name among equals, and count the rest as `OTHER`.

        May be called while complete groups are still being added: what it drops could not have stayed.
        """
        if len(self.groups) - (OTHER in self.groups) <= max_groups:
            return
        other = self.groups.pop(OTHER, Measures())
        ranked = sorted(self.groups.items(), key=lambda item: (-item[1].count, item[0]))
        for _, measures in ranked[max_groups:]:
            other.merge(measures)
        self.groups = dict(ranked[:max_groups])
        self.groups[OTHER] = other

    def measures_of(self, key: GroupKey) -> Measures:
        """The group's own measures, or those of `OTHER` when the group is not told apart."""
        if key in self.groups:
            return self.groups[key]
        return self.groups.setdefault(OTHER, Measures())

    def _add_group(self, key: GroupKey, measures: Measures) -> None:
        mine = self.groups.get(key)
        if mine is None:
            mine = self.groups[key] = Measures()
        mine.merge(measures)


def merged(buckets: Iterable[Bucket]) -> Bucket:
    """All buckets together, with at most `MAX_GROUPS` groups. The order of the buckets does not matter."""
    whole = Bucket()
    for bucket in buckets:
        whole.merge(bucket)
    whole.cap()
    return whole


def pack_total(bucket: Bucket) -> bytes:
    """What a window without groups and filters reads."""
    return _pack(bucket.total.as_row())


def unpack_total(packed: bytes) -> Measures:
    """The inverse of `pack_total`.

    Raises:
        ValueError: damaged.
    """
    return _unpacked_row(_unpack(packed))


def pack_groups(bucket: Bucket) -> bytes:
    """All groups in the order of their keys, so that equal buckets are equal bytes."""
    return _pack([[*key, bucket.groups[key].as_row()] for key in sorted(bucket.groups)])


def unpack_groups(
    packed: bytes, keep: Callable[[GroupKey], bool] = lambda _: True
) -> dict[GroupKey, Measures]:
    """The inverse of `pack_groups`, for the groups that `keep` accepts: the others cost little.

    Raises:
        ValueError: damaged.
    """
    try:
        return {key: _unpacked_row(row) for *names, row in _unpack(packed) if keep(key := GroupKey(*names))}
    except TypeError as error:
        raise ValueError(f"groups are damaged: {error}") from None


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _COMPRESSION_LEVEL)


def _unpack(packed: bytes) -> Any:
    try:
        return json.loads(zlib.decompress(packed))
    except (zlib.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"a rollup is damaged: {error}") from None


def _unpacked_row(row: Any) -> Measures:
    try:
        return Measures.from_row(row)
    except TypeError as error:
        raise ValueError(f"a rollup is damaged: {error}") from None
