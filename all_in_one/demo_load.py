"""A demo shop's visitors, a bounded number: `python -m all_in_one.demo_load flask http://127.0.0.1:8080`."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30
FIRST_PAGE = "GET /products/17"
FIRST_VISITS = 6
"""Two seconds: whichever worker exports first, every second, the first profile is one of the slow page."""
REPORT_EVERY = 200
WEBSOCKET = "WEBSOCKET"
WEBSOCKET_QUESTIONS = 3

PAGES = {
    "GET /": 4,
    "GET /products/{product}": 3,
    "GET /orders": 2,
    "GET /products/{product}/availability": 2,
    "GET /orders/{order}/invoice": 2,
}
"""Those of every shop, and how often each is visited."""
FASTAPI_PAGES = {
    "GET /products/{product}/prices": 2,
    "GET /orders.csv": 1,
    "POST /orders/{order}/confirmation": 1,
    f"{WEBSOCKET} /stock": 1,
}
SHOPS = {"flask": PAGES, "django": PAGES, "fastapi": PAGES | FASTAPI_PAGES}


def walk(shop: str, seed: int) -> Iterator[str]:
    """An endless walk through a shop ("GET /orders"), beginning at its slow page.

    The same one for the same seed.
    """
    choose = random.Random(seed)  # noqa: S311 - a walk, not a secret
    pages = SHOPS[shop]
    yield from [FIRST_PAGE] * FIRST_VISITS
    while True:
        product, order = choose.randint(1, 240), choose.randint(1, 1_500)
        (page,) = choose.choices(list(pages), weights=list(pages.values()))
        yield page.format(product=product, order=order)


def visit(shop: str, address: str, *, per_second: float, requests: int, seed: int = 1) -> Counter[str]:
    """Ask for `requests` pages, one after the other and never faster than `per_second`; counts by status.

    A websocket counts as 101.
    """
    target = urlsplit(address)
    answers: Counter[str] = Counter()
    begin = time.monotonic()
    for number, page in zip(range(requests), walk(shop, seed), strict=False):
        time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        method, path = page.split(" ")
        if method == WEBSOCKET:
            answer = _converse(f"ws://{target.netloc}{path}")
        else:
            answer = _ask(target.hostname or "127.0.0.1", target.port or 80, method, path)
        answers[answer] += 1
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
    parser = argparse.ArgumentParser(description="Visit a demo shop.")
    parser.add_argument("shop", choices=SHOPS, help="which one it is")
    parser.add_argument("address", help="the shop, for example http://127.0.0.1:8080")
    parser.add_argument("--per-second", type=float, default=3.0)
    parser.add_argument("--requests", type=int, default=1_000)
    arguments = parser.parse_args()
    # There is nothing to put in order; an exception could be swallowed by a finalizer that happens to run.
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(KeyboardInterrupt):
        print_counts(
            visit(
                arguments.shop,
                arguments.address,
                per_second=arguments.per_second,
                requests=arguments.requests,
            )
        )


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _ask(host: str, port: int, method: str, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def _converse(address: str) -> str:
    """A websocket on which some products are asked for, one after the other."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        with connect(address, open_timeout=TIMEOUT_SECONDS, proxy=None) as connection:
            for product in range(1, WEBSOCKET_QUESTIONS + 1):
                connection.send(str(product))
                connection.recv(timeout=TIMEOUT_SECONDS)
    except (OSError, WebSocketException) as error:
        return type(error).__name__
    return "101"


if __name__ == "__main__":
    main()
