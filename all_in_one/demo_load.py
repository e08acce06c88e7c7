"""The demo shop's visitors, a bounded number: `python -m all_in_one.demo_load http://127.0.0.1:8080`."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30
FIRST_PAGE = "/products/17"
FIRST_VISITS = 6
"""Two seconds: whichever worker exports first, every second, the first profile is one of the slow page."""
REPORT_EVERY = 200


def paths(seed: int) -> Iterator[str]:
    """An endless walk through the shop, beginning at its slow page; the same one for the same seed."""
    choose = random.Random(seed)  # noqa: S311 - a walk, not a secret
    yield from [FIRST_PAGE] * FIRST_VISITS
    while True:
        product, order = choose.randint(1, 240), choose.randint(1, 1_500)
        yield choose.choices(
            [
                "/",
                f"/products/{product}",
                "/orders",
                f"/products/{product}/availability",
                f"/orders/{order}/invoice",
            ],
            weights=[4, 3, 2, 2, 2],
        )[0]


def visit(address: str, *, per_second: float, requests: int, seed: int = 1) -> Counter[str]:
    """Ask for `requests` pages, one after the other and never faster than `per_second`; counts by status."""
    target = urlsplit(address)
    answers: Counter[str] = Counter()
    begin = time.monotonic()
    for number, path in zip(range(requests), paths(seed), strict=False):
        time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        answers[_ask(target.hostname or "127.0.0.1", target.port or 80, path)] += 1
        if (number + 1) % REPORT_EVERY == 0:
            print_counts(answers)
    return answers


def print_counts(answers: Counter[str]) -> None:
    """One line: "200 requests: 191 of 200, 9 of 500"."""
    counts = ", ".join(f"{count} of {status}" for status, count in sorted(answers.items()))
    sys.stdout.write(f"{answers.total()} requests: {counts}\n")
    sys.stdout.flush()


def main() -> None:
    """Visit until the bound is reached, SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Visit the demo shop.")
    parser.add_argument("address", help="the shop, for example http://127.0.0.1:8080")
    parser.add_argument("--per-second", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=1_000)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        print_counts(visit(arguments.address, per_second=arguments.per_second, requests=arguments.requests))


def _ask(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


if __name__ == "__main__":
    main()
