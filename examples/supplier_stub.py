"""A supplier that takes its time: `python supplier_stub.py --port 8081`. Standard library only.

`GET /stock/<warehouse>/<product>` answers `{"pieces": n}` after the delay.
"""

import argparse
import contextlib
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DELAY_SECONDS = 0.06


class StockHandler(BaseHTTPRequestHandler):
    """Answers one question about stock."""

    protocol_version = "HTTP/1.1"
    # Head and body are two packets; a client that keeps the connection would wait 40 ms between them.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """The pieces of one product in one warehouse; the same answer for the same question."""
        match self.path.split("/"):
            case ["", "stock", warehouse, product] if product.isdecimal():
                threading.Event().wait(DELAY_SECONDS)
                self._answer(200, {"pieces": (len(warehouse) * 7 + int(product) * 13) % 50})
            case _:
                self._answer(404, {"error": "ask for /stock/<warehouse>/<product>"})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Answers are not logged; errors are."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="0 takes any free port")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer((arguments.host, arguments.port), StockHandler)
    print(f"supplier: http://{arguments.host}:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
