"""Requests told in plain JSON, by senders without OpenTelemetry, as a batch for the store. No I/O.

    sent = read(body)
    projects = await store.projects_for_keys(sent.project_keys)
    destinations = {key: Destination.of(project) for key, project in projects.items()}
    translated = translate(sent, destinations, arrival=now, path_template=path_template)
    outcome = settle(translated, await store.write(translated.batch))

`read` and `translate` take up to some seconds for the largest bodies: call them in a thread. The fields are
described in docs/plain-json.md.
"""

from __future__ import annotations

from profile_store.plain_json.body import BadBody, Sent, read
from profile_store.plain_json.outcome import Outcome, Rejected, settle
from profile_store.plain_json.problems import Reason
from profile_store.plain_json.translation import Destination, Translated, translate

__all__ = [
    "BadBody",
    "Destination",
    "Outcome",
    "Reason",
    "Rejected",
    "Sent",
    "Translated",
    "read",
    "settle",
    "translate",
]
