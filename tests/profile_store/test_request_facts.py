from __future__ import annotations

import pytest

from otel_pyinstrument.masking import MASK, is_secret, masked_url
from otel_pyinstrument.statements import normalised
from profile_store.model import ProfileFacts, SpanEvent
from profile_store.request_facts import (
    database_queries,
    external_calls,
    performance_metrics,
    request_errors,
    request_facts,
    request_info,
    response_info,
    runtime,
    server_info,
    version_info,
)

OLD, NEW = "old names", "current names"


def sql(statement: str, convention: str = NEW) -> dict[str, object]:
    if convention == OLD:
        return {"db.system": "sqlite", "db.name": "shop.db", "db.statement": statement}
    return {"db.system.name": "sqlite", "db.namespace": "shop.db", "db.query.text": statement}


@pytest.mark.parametrize("convention", [OLD, NEW])
def test_the_same_statement_with_other_values_is_one_query(make, convention):
    # Given the queries of an N+1 page and one other
    spans = [
        make.child_span(n, attributes=sql(f"SELECT * FROM items\n WHERE order_id = {n}", convention))
        for n in range(1, 5)
    ]
    spans.append(make.child_span(9, attributes=sql("SELECT name FROM customers", convention)))
    # When they are grouped
    first, second = database_queries(make.detail(*spans))
    # Then the four are one line, and it comes first, as it took longest
    assert (first.query, first.count) == ("SELECT * FROM items WHERE order_id = ?", 4)
    assert first.duration == pytest.approx(0.08)
    assert first.max_duration == pytest.approx(0.02)
    assert (first.query_type, first.system, first.database) == ("SELECT", "sqlite", "shop.db")
    assert (second.query, second.count) == ("SELECT name FROM customers", 1)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 'it''s', 1.5e3, -7, 0xff FROM t2", "SELECT ?, ?, ?, ? FROM t2"),
        ("SELECT a FROM t WHERE b IN (1, 2,3) AND c = %s", "SELECT a FROM t WHERE b IN (?) AND c = ?"),
        ("INSERT INTO t (a, b) VALUES (?, ?), (?, ?)", "INSERT INTO t (a, b) VALUES (?)"),
        ("SELECT :name, %(id)s, $1, @p1, x::text", "SELECT ?, ?, ?, ?, x::text"),
        ("SELECT 1 /* traceparent='00-abc' */ -- tail", "SELECT ?"),
        ("SELECT 'never closed, secret", "SELECT ?"),
        ('SELECT "Column 1" FROM "t"', 'SELECT "Column 1" FROM "t"'),
        ("SELECT '/* no comment */', a", "SELECT ?, a"),
    ],
)
def test_values_of_a_statement_become_question_marks(statement, expected):
    assert normalised(statement) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT $$secret$$",
        "SELECT $t$it's $1 secret$t$",
        "SELECT $$secret",
        r"SELECT E'it\'s secret'",
        "SELECT .5",
        "SELECT 1_000",
    ],
)
def test_values_in_unusual_spelling_are_not_shown_either(statement):
    assert normalised(statement) == "SELECT ?"


def test_in_mysql_a_hash_begins_a_comment():
    assert normalised("SELECT 1 # secret", backslash_escapes=True) == "SELECT ?"


def test_in_mysql_a_backslash_does_not_end_a_text():
    statement = r"""SELECT 'a\'secret', "also secret" FROM t"""
    assert normalised(statement, backslash_escapes=True) == "SELECT ?, ? FROM t"


@pytest.mark.parametrize("piece", ["'", "''", "(?,", "/*", "--", "(", "%(", "1e", "\\", "?,?"])
def test_a_hostile_statement_is_normalised_in_linear_time(piece):
    # Quadratic or worse behaviour would hit the time limit of the test run at this size.
    for _ in range(20):
        normalised(piece * 5_000)
        normalised(piece * 5_000, backslash_escapes=True)


def test_statements_of_other_languages_are_not_shown(make):
    # Given a MongoDB span with values in its statement
    attributes = {
        "db.system": "mongodb",
        "db.statement": '{"find": "users", "filter": {"mail": "ada@example.org"}}',
        "db.operation": "find",
        "db.mongodb.collection": "users",
    }
    [query] = database_queries(make.detail(make.child_span(attributes=attributes)))
    assert (query.query, query.query_type) == ("find users", "FIND")


def test_a_query_names_the_code_that_issued_it(make):
    attributes = sql("SELECT 1") | {
        "code.function.name": "shop.orders.load",
        "code.file.path": "shop/orders.py",
        "code.line.number": 41,
    }
    [query] = database_queries(make.detail(make.child_span(attributes=attributes)))
    assert query.caller == "shop.orders.load (shop/orders.py:41)"


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "http.method": "GET",
            "http.url": "http://ada:pw@supplier:8081/stock?sku=7&token=abc#x",
            "http.status_code": 503,
            "net.peer.name": "supplier",
            "net.peer.port": 8081,
        },
        {
            "http.request.method": "GET",
            "url.full": "http://ada:pw@supplier:8081/stock?sku=7&token=abc#x",
            "http.response.status_code": 503,
            "server.address": "supplier",
            "server.port": "8081",
        },
    ],
    ids=[OLD, NEW],
)
def test_an_outgoing_call_is_listed_without_its_secrets(make, attributes):
    [call] = external_calls(make.detail(make.child_span(attributes=attributes, failed=True)))
    assert call.url == f"http://supplier:8081/stock?sku=7&token={MASK}"
    assert (call.service, call.method, call.status_code, call.failed) == ("supplier:8081", "GET", 503, True)
    assert (call.start, call.duration) == (pytest.approx(0.001), pytest.approx(0.02))


def test_database_calls_and_incoming_requests_are_no_outgoing_calls(make):
    spans = [
        make.child_span(1, attributes=sql("SELECT 1")),
        make.child_span(2, attributes={"db.system": "elasticsearch", "http.method": "POST"}),
        make.child_span(3, attributes={"http.method": "GET"}, kind=2),
        make.child_span(4, attributes={}, kind=1),
    ]
    assert external_calls(make.detail(*spans)) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "http.target": "/orders?page=2&page=3&api_key=abc",
            "http.user_agent": "curl/8",
            "net.peer.ip": "10.0.0.7",
            "http.request_content_length": 12,
        },
        {
            "url.query": "page=2&page=3&api_key=abc",
            "user_agent.original": "curl/8",
            "client.address": "10.0.0.7",
            "http.request.body.size": "12",
        },
    ],
    ids=[OLD, NEW],
)
def test_request_facts_are_read_in_both_generations_of_names(make, attributes):
    info = request_info(make.detail(attributes=attributes))
    assert info.query_params == {"page": ["2", "3"], "api_key": [MASK]}
    assert (info.user_agent, info.remote_ip, info.request_size) == ("curl/8", "10.0.0.7", 12)


def test_secrets_in_headers_are_masked(make):
    attributes = {
        "http.request.header.authorization": ["Bearer abc"],
        "http.request.header.cookie": "session=abc",
        "http.request.header.x_api_key": ["abc"],
        "http.request.header.accept": ["text/html", "*/*"],
        "http.response.header.set_cookie": ["a=b"],
        "http.response.header.content_type": ["text/html"],
    }
    detail = make.detail(attributes=attributes)
    assert request_info(detail).headers == {
        "accept": "text/html, */*",
        "authorization": MASK,
        "cookie": MASK,
        "x-api-key": MASK,
    }
    assert response_info(detail).headers["set-cookie"] == MASK
    assert response_info(detail).content_type == "text/html"


@pytest.mark.parametrize(
    "name", ["Authorization", "X-CSRF-Token", "sessionid", "client_secret", "key", "passwd"]
)
def test_names_of_secrets_are_recognised(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", ["accept", "page", "keyword", "user-agent", "sort", "zip"])
def test_ordinary_names_are_no_secrets(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    "url", ["http://[::1", "", "\0", "http://a b/ c", "//", "?" * 5_000, "http://x:99999999/"]
)
def test_an_unreadable_address_raises_nothing(url):
    assert isinstance(masked_url(url), str)


def test_metrics_count_database_and_cache_apart(make):
    # Given two fast queries, a slow one and a cache call
    spans = [make.child_span(n, attributes=sql("SELECT 1")) for n in (1, 2)]
    slow = make.child_span(
        3, attributes=sql("SELECT 2"), end_time_unix_nano=make.record().start_time_unix_nano + 203_000_000
    )
    cache = make.child_span(4, attributes={"db.system": "redis", "db.statement": "GET ?"})
    profile = ProfileFacts(
        sample_count=1,
        node_count=1,
        interval=0.01,
        duration=0.5,
        cpu_time=0.1,
        reason="rate",
        truncated=False,
        interrupted=False,
    )
    # When the metrics are computed
    metrics = performance_metrics(make.detail(*spans, slow, cache, profile=profile))
    # Then each is where it belongs
    assert (metrics.total_duration, metrics.cpu_time) == (0.5, 0.1)
    assert (metrics.database_metrics.query_count, metrics.database_metrics.slow_queries) == (3, 1)
    assert metrics.database_metrics.query_time == pytest.approx(0.24)
    assert (metrics.cache_metrics.cache_calls, metrics.cache_metrics.cache_time) == (1, pytest.approx(0.02))


def test_process_facts_come_from_the_resource(make):
    detail = make.detail(
        resource={
            "host.name": "web-1",
            "process.pid": 4711,
            "telemetry.sdk.language": "python",
            "process.runtime.version": "3.11.7",
            "vcs.ref.head.revision": "0a1b2c",
        },
        attributes={"net.host.name": "127.0.0.1", "net.host.port": 8080},
        version="1.2.0",
    )
    assert (server_info(detail).hostname, server_info(detail).pid) == ("web-1", 4711)
    assert (runtime(detail).python_version, runtime(detail).server_info) == ("3.11.7", "127.0.0.1:8080")
    assert (version_info(detail).app_version, version_info(detail).git_commit) == ("1.2.0", "0a1b2c")


def test_a_host_that_has_its_port_gets_no_second_one(make):
    detail = make.detail(attributes={"net.host.name": "127.0.0.1:8080", "net.host.port": 8080})
    assert runtime(detail).server_info == "127.0.0.1:8080"


def test_the_runtime_of_another_language_is_no_python_version(make):
    detail = make.detail(resource={"telemetry.sdk.language": "java", "process.runtime.version": "21"})
    assert runtime(detail).python_version == ""


def test_exceptions_are_listed_in_time_order(make):
    events = [
        SpanEvent(name="exception", time_unix_nano=time, attributes={"exception.type": kind})
        for time, kind in ((2, "KeyError"), (1, "ValueError"))
    ]
    log_line = SpanEvent(name="cache miss", time_unix_nano=0, attributes={})
    errors = request_errors(make.detail(events=[*events, log_line]))
    assert [error.type for error in errors] == ["ValueError", "KeyError"]


def test_a_failed_request_without_exception_shows_its_error_type(make):
    [error] = request_errors(make.detail(failed=True, attributes={"error.type": "500"}))
    assert error.type == "500"


HOSTILE_VALUES = [
    None,
    True,
    -1,
    2**70,
    1.5,
    float("nan"),
    b"\xff",
    "",
    "\0",
    "9" * 5_000,
    [],
    [[1]],
    {"a": {}},
    ["\ud800"],
]
# fmt: off
NAMES = [
    "http.target", "url.full", "http.url", "url.query", "http.user_agent", "user_agent.original",
    "client.address", "net.host.name", "net.host.port", "server.port", "http.request.body.size",
    "http.request.header.cookie", "http.response.header.x", "db.system", "db.system.name",
    "db.statement", "db.query.text", "db.name", "db.operation", "http.method", "peer.service",
    "net.peer.port", "error.type", "http.status_code", "db.response.returned_rows", "code.function",
    "code.lineno", "code.filepath", "host.name", "process.pid", "process.runtime.name",
    "telemetry.sdk.language", "exception.type", "exception.message",
]
# fmt: on


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=repr)
def test_no_value_of_any_attribute_breaks_a_page(make, value):
    attributes = dict.fromkeys(NAMES, value)
    client = make.child_span(attributes=attributes)
    database = make.child_span(2, attributes=attributes | {"db.system": "postgresql"})
    event = SpanEvent(name="exception", time_unix_nano=0, attributes=attributes)
    facts = request_facts(
        make.detail(client, database, attributes=attributes, resource=attributes, events=[event], failed=True)
    )
    assert facts.database_queries
