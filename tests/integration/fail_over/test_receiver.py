"""The receiver is killed again and again under load, behind a standard Collector with its queue on disk."""

import random
import time
import urllib.parse

import pytest
from pymongo import MongoClient

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

KILLS, KILLS_AT_FULL_SCALE = 2, 50


def test_everything_the_collector_acknowledged_is_stored_once_however_often_the_receiver_is_killed(
    start_receiver, start_collector, mongodb_url, mongodb_database, fail_over, full_scale
):
    # Given senders whose data goes through a standard Collector to the receiver
    receiver = start_receiver(mongodb_url, mongodb_database)
    collector = start_collector(receiver.address)
    targets = [(collector.grpc_endpoint, urllib.parse.urlsplit(collector.http_endpoint).netloc)]
    moments = random.Random(20_261_121)
    kills = KILLS_AT_FULL_SCALE if full_scale else KILLS
    with MongoClient(mongodb_url) as client, fail_over.Load(targets, poison=False) as load:
        records = client[mongodb_database].performance_records

        # When the receiver is killed at moments of no meaning while it works
        for _ in range(kills):
            load.begin("receiver killed")
            stored = records.count_documents({})
            load.wait_until(lambda stored=stored: records.count_documents({}) > stored, "spans are stored")
            time.sleep(moments.uniform(0, 1))
            receiver.kill()
            time.sleep(moments.uniform(0, 0.5))
            receiver.start()
        load.end()

        # Then everything arrives
        sent = sum(len(batch.traces) for batch in load.batches())
        load.wait_until(
            lambda: records.count_documents({"has_profile": True}) >= sent * 2 // 3, "all profiles are there"
        )
        load.wait_until(lambda: records.count_documents({}) >= sent, "all requests are there")

    # And once; the Collector itself never refused anything
    assert not load.refusals()
    fail_over.assert_exactly_once(load, mongodb_url, mongodb_database)
    assert receiver.stop() == 0
