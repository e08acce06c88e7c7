"""An application whose profiles travel as log records, with the real SDK, receiver and database."""

import asyncio
import os
import re
import subprocess
import sys

import pytest
from pymongo import MongoClient

from profile_store import StoreSettings, open_store
from profile_store.model import RecordQuery

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ARRIVAL_SECONDS = 60

APPLICATION = """
import time
from opentelemetry import trace
from opentelemetry.trace import SpanKind

def load_orders():
    time.sleep(0.05)

tracer = trace.get_tracer("shop")
for _ in range(3):
    with tracer.start_as_current_span(
        "GET /orders", kind=SpanKind.SERVER, attributes={"http.method": "GET", "http.route": "/orders"}
    ):
        load_orders()
"""


@pytest.fixture
def receiver_address(mongodb_url, mongodb_database):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OTLP_"))}
    settings = {
        "MONGODB_URL": mongodb_url,
        "MONGODB_DATABASE": mongodb_database,
        "OTLP_GRPC_PORT": "0",
        "OTLP_HTTP_PORT": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "collector_receiver"], env=kept | settings, stderr=subprocess.PIPE, text=True
    )
    with process:
        lines = iter(process.stderr.readline, "")
        yield next(found[1] for line in lines if (found := re.search(r"OTLP/gRPC on (\S+)$", line)))
        process.terminate()
        process.communicate(timeout=30)


async def test_profiles_sent_as_log_records_are_joined_with_their_requests(
    receiver_address, mongodb_url, mongodb_database, tmp_path
):
    # Given an application under opentelemetry-instrument with OTEL_PYINSTRUMENT_EVENT=log
    (tmp_path / "application.py").write_text(APPLICATION)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    settings = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{receiver_address}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_PYINSTRUMENT_EVENT": "log",
        "OTEL_PYINSTRUMENT_RATE": "1",
        "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
    }

    # When it serves requests and ends
    command = ["opentelemetry-instrument", sys.executable, "application.py"]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    await asyncio.to_thread(
        subprocess.run, command, env=kept | settings | {"PATH": path}, cwd=tmp_path, check=True, timeout=120
    )

    # Then each request has its call tree
    store_settings = StoreSettings(MONGODB_URL=mongodb_url, MONGODB_DATABASE=mongodb_database)
    async with open_store(store_settings) as store, asyncio.timeout(ARRIVAL_SECONDS):
        project = await store.project_for_service("shop")
        query = RecordQuery(project_id=project.id, profiled=True)
        while (page := await store.records(query)).total < 3:
            await asyncio.sleep(0.05)
        for record in page.items:
            assert record.endpoint == "GET /orders"
            tree = await store.call_tree(project.id, record.id)
            assert "load_orders" in {frame.function for frame in tree.frames}
            assert tree.duration_us / 1e6 > 0.04

    # And none of them travelled with its span
    with MongoClient(mongodb_url) as client:
        assert client[mongodb_database].profiles.count_documents({"for_record": {"$exists": True}}) == 3
