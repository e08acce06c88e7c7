"""What the health checks of containers run."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import StreamRequestHandler, TCPServer

import pytest

from all_in_one.probe import main


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_request(self, *_: object) -> None:
        pass


@pytest.fixture
def address():
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_is_health_whatever_proxy_is_set(address, monkeypatch, capsys) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert main([f"{address}/200"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("status", [401, 404, 503])
def test_an_error_is_none_and_its_status_is_told(status, address, capsys) -> None:
    assert main([f"{address}/{status}"]) == 1
    assert str(status) in capsys.readouterr().err


def test_silence_is_none(monkeypatch, capsys) -> None:
    # Given something that takes connections and says nothing
    monkeypatch.setattr("all_in_one.probe.TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        assert main([url]) == 1

    # And neither is nobody
    assert main([url]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_is_no_http_is_none(capsys) -> None:
    # Given a port that greets in the way of HTTP/2
    class Greeting(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n")

    with TCPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"

        assert main([url]) == 1
        thread.join()

    assert capsys.readouterr().err == f"{url}: answers, but not in HTTP (BadStatusLine)\n"


@pytest.mark.parametrize("arguments", [[], ["file:///etc/passwd"], ["http://a/", "http://b/"]])
def test_wrong_use_is_told(arguments, capsys) -> None:
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err
