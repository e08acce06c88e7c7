"""Parts of one trace arrive late, out of order, split over requests and twice; what is read is the same."""

import os
import random

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.anyio

SECOND = 10**9


def trace_of(make):
    """A request with queries below a function, and another request below one of the queries."""
    trace_id, now = os.urandom(16), 1_763_720_000 * SECOND

    def span(number, parent, kind, **more):
        times = {"start_time_unix_nano": now + number * SECOND, "end_time_unix_nano": now + 100 * SECOND}
        ids = {"trace_id": trace_id, "span_id": bytes([number]) * 8, "parent_span_id": parent}
        return make.span({"http.route": "/orders"}, kind=kind, **ids, **times, **more)

    server = span(1, b"\x99" * 8, Span.SPAN_KIND_SERVER)
    work = span(2, server.span_id, Span.SPAN_KIND_INTERNAL)
    queries = [span(number, work.span_id, Span.SPAN_KIND_CLIENT) for number in range(3, 8)]
    below = span(8, queries[0].span_id, Span.SPAN_KIND_SERVER)
    return server, [server, work, *queries, below]


@pytest.mark.parametrize("seed", range(6))
async def test_the_order_and_grouping_of_arrival_do_not_matter(receiver, make, store, seed):
    # Given the spans of a trace in any order, some of them twice, and the profile of its first request
    dice = random.Random(seed)
    server, spans = trace_of(make)
    parts = [*spans, *dice.sample(spans, 3), "profile"]
    dice.shuffle(parts)

    # When they come in requests of any size
    while parts:
        size = dice.randint(1, 4)
        together, parts = parts[:size], parts[size:]
        arrived = [part for part in together if part != "profile"]
        answer = await receiver.client.export(
            make.request(*arrived, resource={"service.name": "shop", "service.version": "1.2"})
        )
        assert not answer.HasField("partial_success")
        if "profile" in together:
            await receiver.client.export_logs(make.logs(make.profile_log(server)))

    # Then the request has its version, its call tree, and each of its spans once, in their own order
    project = await store.project_for_service("shop")
    detail = await store.record(project.id, (server.trace_id + server.span_id).hex())
    assert detail.record.version == "1.2"
    assert detail.call_tree.duration_us == 250_000
    assert [span.span_id[0] for span in detail.child_spans] == [2, 3, 4, 5, 6, 7]
