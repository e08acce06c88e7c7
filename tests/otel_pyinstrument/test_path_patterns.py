from __future__ import annotations

import time

import pytest

from otel_pyinstrument.path_patterns import BadPattern, PathPatterns


@pytest.mark.parametrize(
    ("pattern", "method", "path", "expected"),
    [
        ("/health", "GET", "/health", True),
        ("/health", "POST", "/health", True),
        ("/health", "GET", "/health/live", False),
        ("/api/*", "GET", "/api/a/b", True),
        ("/api/*", "GET", "/api", False),
        ("*", "GET", "", True),
        ("*/export", "GET", "/a/b/export", True),
        ("/a/*/b/*/c", "GET", "/a/1/b/2/c", True),
        ("/a/*/b/*/c", "GET", "/a/1/c", False),
        ("/ab*ba", "GET", "/aba", False),
        ("GET /a", "GET", "/a", True),
        ("GET /a", "POST", "/a", False),
        ("OPTIONS", "OPTIONS", "/a", True),
        ("OPTIONS", "GET", "/a", False),
        (" GET   /a ", "GET", "/a", True),
        ("/a.c", "GET", "/abc", False),
        ("/[ab]", "GET", "/a", False),
    ],
)
def test_a_pattern_is_literal_but_for_the_star(pattern: str, method: str, path: str, expected: bool) -> None:
    assert PathPatterns([pattern]).match(method, path) is expected


def test_one_of_several_patterns_is_enough() -> None:
    patterns = PathPatterns(["/a", "POST /b"])

    assert patterns
    assert patterns.match("POST", "/b")
    assert not patterns.match("GET", "/c")
    assert not PathPatterns([])


@pytest.mark.parametrize("pattern", ["", "orders", "get /a", "GET orders", "G E T /a", "/" + "a" * 500])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        PathPatterns([pattern])


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(BadPattern, match="200"):
        PathPatterns(["/a"] * 201)


def test_a_hostile_pattern_takes_no_time() -> None:
    # Given what makes a regular expression search for years
    patterns = PathPatterns(["/" + "*a" * 200 + "*b"])
    start = time.thread_time()

    assert not patterns.match("GET", "/" + "a" * 10_000)

    # Then it is over at once; the bound is far above what it takes
    assert time.thread_time() - start < 5
