"""What sampling leaves behind: raw trees, the facts about them, and the one tree made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import NamedTuple

from otel_pyinstrument.base import without_base
from otel_pyinstrument.call_tree import CallTree, CallTreeBuilder, Frame
from otel_pyinstrument.frames import identifier_of, identifier_of_code
from otel_pyinstrument.grafting import graft


class RecordingFacts(NamedTuple):
    """`truncated`: a limit or a failure ended sampling early. `interrupted`: another profiler did.

    `cpu_seconds` is what the request itself used, `hooked_cpu_seconds` what its threads used under the hook,
    `switching_cpu_seconds` what it took to install and remove the hook around the steps of an event loop.
    """

    duration_seconds: float
    cpu_seconds: float
    hooked_cpu_seconds: float
    switching_cpu_seconds: float
    sample_count: int
    truncated: bool
    interrupted: bool
    failure: Exception | None

    def with_part(self, part: RecordingFacts) -> RecordingFacts:
        """These facts of a request, with those of a part of it that ran elsewhere."""
        return self._replace(
            cpu_seconds=self.cpu_seconds + part.cpu_seconds,
            hooked_cpu_seconds=self.hooked_cpu_seconds + part.hooked_cpu_seconds,
            switching_cpu_seconds=self.switching_cpu_seconds + part.switching_cpu_seconds,
            sample_count=self.sample_count + part.sample_count,
            truncated=self.truncated or part.truncated,
            interrupted=self.interrupted or part.interrupted,
            failure=self.failure or part.failure,
        )


class HopTree(NamedTuple):
    """The raw tree of what ran elsewhere (`builder`) while the stack `path` of `parent` waited for it."""

    parent: CallTreeBuilder
    path: tuple[str, ...]
    builder: CallTreeBuilder


class Recording:
    """The raw trees of one request, and what is known about them."""

    def __init__(
        self,
        builder: CallTreeBuilder,
        base: Sequence[CodeType],
        facts: RecordingFacts,
        hops: Sequence[HopTree] = (),
    ) -> None:
        self._builder = builder
        self._base = base
        self.facts = facts
        self._hops = hops

    def with_hops(self, hops: Sequence[HopTree], parts: Sequence[RecordingFacts]) -> Recording:
        """This recording of a request, together with the work it waited for (outer hops first)."""
        facts = self.facts
        for part in parts:
            facts = facts.with_part(part)
        return Recording(self._builder, self._base, facts, hops)

    @property
    def node_count(self) -> int:
        return self._builder.node_count + sum(hop.builder.node_count for hop in self._hops)

    def build(self, describe: Callable[[str], Frame]) -> CallTree:
        """The call tree, without the calls around the request. Not for the request's thread."""
        grafts: dict[int, list[tuple[list[Frame], CallTree]]] = {}
        for hop in reversed(self._hops):
            tree = graft(hop.builder.build(describe), grafts.pop(id(hop.builder), []))
            path = [describe(identifier_of(call)) for call in hop.path]
            grafts.setdefault(id(hop.parent), []).append((path, tree))
        tree = self._builder.build(describe)
        if not tree.duration_us:
            # Shorter than one interval: the time is known, the place is not.
            tree.self_us[0] = round(self.facts.duration_seconds * 1e6)
        tree = graft(tree, grafts.pop(id(self._builder), [])[::-1])
        return without_base(tree, (describe(identifier_of_code(code)) for code in self._base))
