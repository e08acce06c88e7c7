"""What the spans below a request did is counted once, whichever names and instrumentations told of it."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import AbstractContextManager

import pytest
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.instrumentation.jinja2 import Jinja2Instrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_pyinstrument.facts import child_spans
from otel_pyinstrument.facts.child_spans import MAX_GROUPS
from otel_pyinstrument.gate import Gate
from otel_pyinstrument.request import request_of

OLD = {"db.system": "sqlite", "db.statement": "SELECT * FROM items WHERE order_id = 7"}
NEW = {"db.system.name": "sqlite", "db.query.text": "SELECT * FROM items WHERE order_id = 7"}


@pytest.mark.parametrize("attributes", [OLD, NEW, OLD | NEW], ids=["old names", "new names", "both"])
def test_a_query_counts_once_under_old_and_new_names(attributes, traced, child, facts_of) -> None:
    def work() -> None:
        with child(attributes):
            time.sleep(0.01)

    database = facts_of(traced.request(work))["database"]

    (group,) = database["groups"]
    assert (group["name"], group["system"]) == ("SELECT * FROM items WHERE order_id = ?", "sqlite")
    assert database["count"] == group["count"] == 1
    assert database["duration"] == group["duration"] == group["max_duration"] >= 0.01


@pytest.mark.parametrize("name", [None, 7, b"find"])
@pytest.mark.parametrize(
    ("attributes", "category"),
    [
        ({"db.system": "mongodb", "db.collection.name": "users"}, "database"),
        ({"db.system": "redis"}, "cache"),
        ({"rpc.system": "grpc"}, "external"),
        ({"jinja2.template_name": "page.html"}, "template"),
    ],
)
def test_a_span_whose_name_is_no_text_is_counted(name, attributes, category, traced, child, facts_of) -> None:
    def work() -> None:
        with child(attributes, name=name):
            pass

    assert facts_of(traced.request(work))[category]["count"] == 1


def test_a_query_without_a_name_has_the_one_of_its_collection(traced, child, facts_of) -> None:
    def work() -> None:
        with child({"db.system": "mongodb", "db.collection.name": "users"}, name=None):
            pass

    (group,) = facts_of(traced.request(work))["database"]["groups"]

    assert group["name"] == "users"


def test_a_query_whose_caller_cannot_be_found_is_counted(
    traced, child, facts_of, monkeypatch, caplog
) -> None:
    # Given a search for callers that fails
    def fail() -> None:
        raise OSError("too many open files")

    def work() -> None:
        with child(OLD):
            pass

    monkeypatch.setattr(child_spans, "nearest_caller", fail)

    # When a request makes two queries
    (group,) = facts_of(traced.request(lambda: (work(), work())))["database"]["groups"]

    # Then both are counted, and one line says that something is missing
    assert (group["count"], "callers" in group) == (2, False)
    assert [record.getMessage() for record in caplog.records] == [
        "A profile is incomplete: counting a child span failed"
    ]


def test_queries_are_found_when_somebody_else_keeps_the_context(traced, child, facts_of, monkeypatch) -> None:
    # Given an application that replaces OpenTelemetry's runtime context after we have been switched on
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", ContextVarsRuntimeContext())

    def work() -> None:
        with child(OLD):
            pass

    assert facts_of(traced.request(work))["database"]["count"] == 1


def test_the_queries_of_an_n_plus_1_page_are_one_group_with_the_line_that_issued_them(
    traced, facts_of
) -> None:
    # Given a page that asks for each order's items, with the value in the statement
    def query(statement: str) -> AbstractContextManager[object]:
        return traced.tracer.start_as_current_span(
            "SELECT", kind=SpanKind.CLIENT, attributes={"db.system": "sqlite", "db.statement": statement}
        )

    def load_items(order: int) -> None:
        with query(f"SELECT * FROM items WHERE order_id = {order}"):
            pass

    def page() -> None:
        with query("SELECT * FROM orders"):
            pass
        for order in range(100):
            load_items(order)

    # When it is served
    database = facts_of(traced.request(page))["database"]

    # Then the hundred are one group, and one line stands for them
    groups = {group["name"]: group for group in database["groups"]}
    assert database["count"] == 101
    group = groups["SELECT * FROM items WHERE order_id = ?"]
    assert group["count"] == 100
    (caller,) = group["callers"]
    assert caller["function"] == "load_items"
    assert caller["file"].endswith("tests/otel_pyinstrument/facts/test_child_spans.py")
    assert load_items.__code__.co_firstlineno < caller["line"] <= load_items.__code__.co_firstlineno + 2
    # And only a few of the calls paid for finding it
    assert 3 <= caller["seen"] <= 10


def test_sqlalchemy_and_the_driver_below_it_are_one_query(traced, facts_of) -> None:
    # Given both instrumentations on, which make two sibling spans for each query
    from sqlalchemy import create_engine, text

    SQLite3Instrumentor().instrument(tracer_provider=traced.provider)
    engine = create_engine("sqlite://")
    SQLAlchemyInstrumentor().instrument(engine=engine, tracer_provider=traced.provider)
    try:

        def work() -> None:
            with engine.connect() as connected:
                for number in range(5):
                    connected.execute(text("SELECT :n"), {"n": number})

        span = traced.request(work)
    finally:
        SQLite3Instrumentor().uninstrument()
        SQLAlchemyInstrumentor().uninstrument()
        engine.dispose()

    # Then five queries are five queries, in the time of the outer spans
    spans = [
        s for s in traced.exporter.get_finished_spans() if s.attributes.get("db.statement") == "SELECT ?"
    ]
    assert len(spans) == 10
    database = facts_of(span)["database"]
    group = next(group for group in database["groups"] if group["name"] == "SELECT ?")
    assert group["count"] == 5
    # And taking a connection counts as nothing, what the driver asked on its own does
    assert [group["name"] for group in database["groups"]] == ["SELECT ?", "PRAGMA read_uncommitted"]
    outer = [s for s in spans if "sqlalchemy" in s.instrumentation_scope.name]
    assert group["duration"] == pytest.approx(sum(s.end_time - s.start_time for s in outer) / 1e9, abs=1e-5)


def test_concurrent_queries_of_one_instrumentation_stay_apart(traced, facts_of) -> None:
    # Given two queries of the same statement, one inside the other's time, by one instrumentation
    def work() -> None:
        options = {"kind": SpanKind.CLIENT, "attributes": OLD}
        first = traced.tracer.start_span("SELECT", **options)
        traced.tracer.start_span("SELECT", **options).end()
        first.end()

    assert facts_of(traced.request(work))["database"]["groups"][0]["count"] == 2


def test_a_request_of_a_cloud_library_and_the_http_call_inside_are_one_call(traced, child, facts_of) -> None:
    outer = {"rpc.system": "aws-api", "rpc.service": "S3", "rpc.method": "PutObject"}

    def work() -> None:
        with (
            child(outer, scope="botocore", name="S3.PutObject"),
            child({"http.method": "PUT", "http.url": "https://u:pw@s3.example/bucket"}, scope="urllib3"),
        ):
            pass

    external = facts_of(traced.request(work))["external"]

    assert [group["name"] for group in external["groups"]] == ["S3/PutObject"]
    assert external["count"] == 1


OLD_CALL = {"http.method": "GET", "http.url": "https://supplier/stock"}
NEW_CALL = {
    "http.request.method": "GET",
    "url.full": "https://supplier/stock",
    "server.address": "supplier",
    "server.port": 443,
}


@pytest.mark.parametrize("outer", [OLD_CALL, NEW_CALL], ids=["old names above", "new names above"])
@pytest.mark.parametrize("inner", [OLD_CALL, NEW_CALL], ids=["old names below", "new names below"])
def test_a_call_and_what_the_library_below_tells_of_it_are_one_call(
    outer, inner, traced, child, facts_of
) -> None:
    # Given a call that two instrumentations see, the lower one twice: it was redirected
    def work() -> None:
        with child(outer, scope="requests", name="GET") as span:
            for _ in range(2):
                with child(inner, scope="urllib3", name="GET") as below:
                    below.set_status(Status(StatusCode.ERROR))
                    time.sleep(0.005)
            span.set_status(Status(StatusCode.ERROR))

    span = traced.request(work)

    # Then it counts once, in the time of the outer span
    external = facts_of(span)["external"]
    (group,) = external["groups"]
    assert group["name"] == ("GET supplier" if outer is OLD_CALL else "GET supplier:443")
    assert (external["count"], external["failed"]) == (group["count"], group["failed"]) == (1, 1)
    (above,) = [s for s in traced.exporter.get_finished_spans() if "requests" in s.instrumentation_scope.name]
    assert external["duration"] == pytest.approx((above.end_time - above.start_time) / 1e9, abs=1e-5)


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"http.method": "GET", "http.url": "http://u:pw@supplier:81/stock?token=x"}, "GET supplier:81"),
        (
            {"http.request.method": "GET", "url.full": "http://x/", "server.address": "x", "server.port": 80},
            "GET x:80",
        ),
    ],
)
def test_an_external_call_is_named_without_its_path(attributes, name, traced, child, facts_of) -> None:
    def work() -> None:
        with child(attributes, scope="requests") as span:
            span.set_status(Status(StatusCode.ERROR))

    external = facts_of(traced.request(work))["external"]

    assert external["groups"][0]["name"] == name
    assert (external["count"], external["failed"]) == (1, 1)


def test_redis_counts_as_cache_and_hits_only_if_spans_tell(traced, child, facts_of) -> None:
    # Given what today's instrumentation writes, and spans that tell of hits
    def work() -> None:
        for hit in (True, True, False):
            with child({"db.system": "redis", "db.statement": "GET ?", "cache.hit": hit}, scope="redis"):
                pass
        with child({"db.system": "redis", "db.statement": "SET ? ?"}, scope="redis"):
            pass

    facts = facts_of(traced.request(work))

    assert "database" not in facts
    assert (facts["cache"]["count"], facts["cache"]["hits"], facts["cache"]["misses"]) == (4, 2, 1)
    assert {group["name"] for group in facts["cache"]["groups"]} == {"GET", "SET"}


def test_hits_are_absent_when_no_span_tells(traced, child, facts_of) -> None:
    def work() -> None:
        with child({"db.system": "redis", "db.statement": "GET ?"}, scope="redis"):
            pass

    assert "hits" not in facts_of(traced.request(work))["cache"]


def test_templates_count_by_name_and_the_time_of_nested_work_once(traced, facts_of, tmp_path) -> None:
    # Given a template that includes another, which is loaded while the first is rendered
    import jinja2

    (tmp_path / "page.html").write_text("{% include 'part.html' %}")
    (tmp_path / "part.html").write_text("{% for n in range(2000) %}{{ n }}{% endfor %}")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path), autoescape=True)
    Jinja2Instrumentor().instrument(tracer_provider=traced.provider)
    try:
        span = traced.request(lambda: environment.get_template("page.html").render())
    finally:
        Jinja2Instrumentor().uninstrument()

    template = facts_of(span)["template"]
    names = {(group["system"], group["name"]) for group in template["groups"]}
    assert {("jinja2.render", "page.html"), ("jinja2.load", "part.html")} <= names
    assert template["duration"] <= (span.end_time - span.start_time) / 1e9


def test_statements_of_other_languages_show_only_names(traced, child, facts_of) -> None:
    attributes = {
        "db.system": "mongodb",
        "db.statement": '{"find": "users", "mail": "ada@example.org"}',
        "db.operation": "find",
        "db.mongodb.collection": "users",
    }

    def work() -> None:
        with child(attributes):
            pass

    assert facts_of(traced.request(work))["database"]["groups"][0]["name"] == "find users"


def test_taking_a_connection_from_the_pool_is_no_query(traced, child, facts_of) -> None:
    def work() -> None:
        with child({"db.system": "sqlite"}, name="connect"):
            pass

    assert "database" not in facts_of(traced.request(work))


def test_spans_that_are_no_calls_are_not_counted(traced, child, facts_of) -> None:
    def work() -> None:
        with child({"db.system": "sqlite"}, kind=SpanKind.INTERNAL), child({}, name="something"):
            pass

    assert not {"database", "cache", "external", "template"} & facts_of(traced.request(work)).keys()


def test_a_child_span_that_outlives_the_request_is_ignored(traced, child, facts_of) -> None:
    # Given a query that ends after its request
    left = []

    def work() -> None:
        span = traced.tracer.start_span("SELECT", kind=SpanKind.CLIENT, attributes=OLD)
        left.append(span)
        with child(OLD):
            pass

    span = traced.request(work)
    left[0].end()

    assert facts_of(span)["database"]["count"] == 1


def test_spans_of_other_threads_of_the_request_are_counted(traced, child, facts_of) -> None:
    # Given queries of several threads that carry the request's context
    from opentelemetry import context

    def work() -> None:
        current = context.get_current()

        def query() -> None:
            token = context.attach(current)
            for _ in range(50):
                with child(OLD):
                    pass
            context.detach(token)

        threads = [threading.Thread(target=query) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert facts_of(traced.request(work))["database"]["count"] == 200


def test_a_request_of_endless_different_statements_stays_bounded(traced, child, facts_of) -> None:
    # Given more different statements than are kept apart
    def work() -> None:
        for number in range(MAX_GROUPS + 50):
            with child({"db.system": "sqlite", "db.statement": f"SELECT a{number} FROM t"}):
                pass

    database = facts_of(traced.request(work))["database"]

    # Then all are counted and few are named
    assert database["count"] == MAX_GROUPS + 50
    assert len(database["groups"]) <= 20
    assert 200 < database["groups_left_out"] <= MAX_GROUPS


def test_no_more_texts_of_statements_are_kept_than_groups(traced, child, facts_of) -> None:
    # Given an application that writes its values into its statements
    known: list[int] = []

    def work() -> None:
        for number in range(MAX_GROUPS + 50):
            with child({"db.system": "sqlite", "db.statement": f"SELECT a FROM t WHERE b = {number}"}):
                pass
        known.append(len(request_of(trace.get_current_span()).facts._children._groups_by_text))

    database = facts_of(traced.request(work))["database"]

    # Then the rest finds its group without
    assert known == [MAX_GROUPS]
    assert [group["count"] for group in database["groups"]] == [MAX_GROUPS + 50]


def test_a_failure_while_counting_costs_neither_the_application_nor_the_profile(
    traced, monkeypatch, profile_of
) -> None:
    # Given a defect in the collection
    monkeypatch.setattr(child_spans, "_kind_of", lambda *_: 1 / 0)
    served = []

    def work() -> None:
        with traced.tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT):
            pass
        served.append(True)

    span = traced.request(work)

    assert served == [True]
    assert profile_of(span) is not None


def test_after_a_failure_of_ours_no_span_of_a_running_request_is_looked_at(
    make_traced, monkeypatch, burn
) -> None:
    # Given a profiled request
    traced = make_traced()
    traced.processor._guard._reraise = False
    looked_at = []

    def work() -> None:
        monkeypatch.setattr(request_of(trace.get_current_span()).facts, "child_ended", looked_at.append)
        with traced.tracer.start_as_current_span("around"):
            with traced.tracer.start_as_current_span("before"):
                pass
            # When the start of another one fails
            with monkeypatch.context() as patched:
                patched.setattr(Gate, "arrive", lambda *_arguments, **_options: 1 / 0)
                other = threading.Thread(target=traced.request, args=(lambda: None,))
                other.start()
                other.join()
            burn(0.02)  # until the next sample, when the hook goes

    traced.request(work)

    # Then
    assert [span.name for span in looked_at] == ["before"]
    assert len(traced.exporter.get_finished_spans()) == 4


def test_the_connection_of_a_real_driver_is_counted(traced, facts_of) -> None:
    SQLite3Instrumentor().instrument(tracer_provider=traced.provider)
    try:

        def work() -> None:
            connection = sqlite3.connect(":memory:")
            connection.execute("CREATE TABLE t (a)")
            cursor = connection.cursor()
            for number in range(3):
                cursor.execute("INSERT INTO t VALUES (?)", (number,))
            connection.close()

        span = traced.request(work)
    finally:
        SQLite3Instrumentor().uninstrument()

    groups = {group["name"]: group for group in facts_of(span)["database"]["groups"]}
    insert = groups["INSERT INTO t VALUES (?)"]
    assert insert["count"] == 3
    assert insert["callers"][0]["function"] == "work"


def test_of_two_requests_of_one_trace_each_counts_its_own_calls(traced, facts_of) -> None:
    # Given a service that calls itself: two requests of one trace are served at the same time
    caller = NonRecordingSpan(SpanContext(7, 7, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
    both_serve = threading.Barrier(2)
    one_has_begun = threading.Event()

    def query(name: str) -> None:
        with traced.tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=OLD):
            pass

    def serve(name: str, queries: int) -> None:
        with traced.tracer.start_as_current_span(
            name, context=trace.set_span_in_context(caller, Context()), kind=SpanKind.SERVER
        ):
            query("before")
            one_has_begun.set()
            both_serve.wait(10)
            for _ in range(queries):
                query("after")
            both_serve.wait(10)

    # When both do the same queries, the second some more
    first = threading.Thread(target=serve, args=("first", 2))
    first.start()
    assert one_has_begun.wait(10)
    serve("second", 5)
    first.join()

    # Then none has those of the other
    spans = {span.name: span for span in traced.exporter.get_finished_spans()}
    assert facts_of(spans["first"])["database"]["count"] == 3
    assert facts_of(spans["second"])["database"]["count"] == 6


def test_calls_of_a_request_that_is_not_profiled_count_for_nobody(traced, child, facts_of) -> None:
    # Given a profiled request, and a span of another trace that ends meanwhile on its thread
    def work() -> None:
        other = traced.tracer.start_span("other", context=Context(), kind=SpanKind.CLIENT, attributes=OLD)
        other.end()
        with child(OLD):
            pass

    # Then only its own counts
    assert facts_of(traced.request(work))["database"]["count"] == 1


def test_what_is_no_sql_is_told_apart_by_the_span_although_the_text_is_the_same(
    traced, child, facts_of
) -> None:
    # Given commands of a document database whose text is the same for several collections
    def find(collection: str) -> dict[str, str]:
        return {"db.system": "mongodb", "db.statement": "find", "db.mongodb.collection": collection}

    def work() -> None:
        for collection in ("users", "orders", "orders"):
            with child(find(collection), name="find"):
                pass

    groups = facts_of(traced.request(work))["database"]["groups"]

    assert {group["name"]: group["count"] for group in groups} == {"find users": 1, "find orders": 2}


def test_no_more_than_some_hundred_spans_wait_to_be_measured(traced, child, facts_of, monkeypatch) -> None:
    # Given a request with more calls than are kept until its end
    monkeypatch.setattr(child_spans, "_MAX_WAITING", 10)
    waiting = []

    def work() -> None:
        facts = request_of(trace.get_current_span()).facts
        for _ in range(35):
            with child(OLD):
                pass
            waiting.append(len(facts._children._waiting))

    database = facts_of(traced.request(work))["database"]

    # Then
    assert max(waiting) < 10
    assert database["count"] == 35


def test_a_span_that_ends_while_others_are_measured_is_counted_once(
    traced, child, facts_of, monkeypatch
) -> None:
    # Given a finalizer that ends a span of the request in the middle of the measuring
    monkeypatch.setattr(child_spans, "_MAX_WAITING", 10)
    measure = child_spans.ChildSpans._measure
    late = [False]

    def measure_and_finalize(self, *arguments) -> None:
        measure(self, *arguments)
        if not late[0]:
            late[0] = True
            with child(OLD):
                pass

    monkeypatch.setattr(child_spans.ChildSpans, "_measure", measure_and_finalize)

    def work() -> None:
        for _ in range(25):
            with child(OLD):
                pass

    assert facts_of(traced.request(work))["database"]["count"] == 26
