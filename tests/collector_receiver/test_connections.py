"""Connections that are of no use are ended, and as many are let in as the system allows."""

import asyncio

import grpc
import pytest

from collector_receiver import server

resource = pytest.importorskip("resource")


@pytest.mark.anyio
async def test_a_grpc_connection_without_calls_is_ended_and_made_again(start_receiver, make, monkeypatch):
    # Given a client that has sent something
    monkeypatch.setattr(server, "MAX_IDLE_MILLISECONDS", 500)
    receiver = await start_receiver()
    channel = receiver.client.channel
    await receiver.client.export(make.request(make.span()))

    # When it pauses
    async with asyncio.timeout(20):
        while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)

    # Then its connection is over, and the next request makes another
    assert state is grpc.ChannelConnectivity.IDLE
    await receiver.client.export(make.request(make.span()))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="asks for the limits of another process")
def test_the_process_takes_all_the_open_files_that_it_may_have(start_process):
    # Given a system that lets a process have more than it has at first
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_024, hard - 1), hard))

    # When the receiver starts
    try:
        process = start_process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    process.wait_for_address()

    # Then it has the most
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
