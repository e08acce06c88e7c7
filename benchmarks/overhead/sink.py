"""Where all telemetry goes: servers on the loopback that accept everything and keep nothing."""

from __future__ import annotations

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Accept(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_PUT = do_POST  # noqa: N815 - the name is http.server's

    def log_message(self, *_arguments: object) -> None:
        pass


def serve() -> None:
    """Print the ports of the OTLP/gRPC and the HTTP server, then serve until standard input closes."""
    import grpc

    def accept(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(accept)}
    for signal in ("trace.v1.TraceService", "logs.v1.LogsService", "metrics.v1.MetricsService"):
        service = f"opentelemetry.proto.collector.{signal}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _Accept)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "http": web.server_port}), flush=True)
    sys.stdin.read()
    web.shutdown()
    server.stop(0)
