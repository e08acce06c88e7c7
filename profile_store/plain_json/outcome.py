"""What became of the records of one body, for the answer to its sender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from profile_store.contracts import WriteResult
from profile_store.plain_json.problems import Reason
from profile_store.plain_json.translation import Translated


@dataclass(frozen=True, slots=True)
class Accepted:
    """One record that is stored: its place in the body, its id, and its trace id as 32 digits."""

    index: int
    record_id: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that is not stored: its place in the body, and why."""

    index: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """In the order of the body."""

    accepted: Sequence[Accepted]
    rejected: Sequence[Rejected]
    is_single: bool


def settle(translated: Translated, result: WriteResult) -> Outcome:
    """Who is stored, after the store has written `translated.batch`.

    A record whose call tree alone was refused is stored, as everywhere.
    """
    lost = {span_id: refusal for refusal in result.refusals for span_id in refusal.span_ids}
    accepted: list[Accepted] = []
    rejected = [
        Rejected(place, problem.reason, str(problem)) for place, problem in translated.refused.items()
    ]
    for place, item in zip(translated.places, translated.batch.records, strict=True):
        record = item.record
        if refusal := lost.get(record.span_id):
            rejected.append(Rejected(place, "record_format", refusal.message))
        else:
            accepted.append(Accepted(place, record.id, record.trace_id.hex()))
    return Outcome(accepted, sorted(rejected, key=lambda item: item.index), translated.is_single)
