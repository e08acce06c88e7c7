"""What is left of a body after its refusal is taken, but not without end."""

import asyncio

import pytest

from collector_receiver import http_body
from collector_receiver.http_body import IncomingBody

pytestmark = pytest.mark.anyio

CHUNK = b"x" * 1_000


async def test_a_body_without_end_is_given_up_after_the_bound(monkeypatch):
    # Given a sender that never ends
    monkeypatch.setattr(http_body, "MAX_DISCARDED_BYTES", 10_000)
    taken = []

    async def receive():
        taken.append(CHUNK)
        await asyncio.sleep(0)
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    body = IncomingBody(receive)

    # When the rest of its body is discarded
    async with asyncio.timeout(20):
        await body.discard_rest()

    # Then no more than the bound is taken of it, and its connection cannot take another request
    assert len(taken) == 11
    assert not body.complete


async def test_a_body_that_ends_before_the_bound_is_taken_to_its_end():
    chunks = [CHUNK] * 3

    async def receive():
        return {"type": "http.request", "body": chunks.pop(), "more_body": bool(chunks)}

    body = IncomingBody(receive)
    await body.discard_rest()

    assert (chunks, body.complete) == ([], True)
