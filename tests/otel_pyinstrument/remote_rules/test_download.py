from __future__ import annotations

import socket
import time

import pytest

from otel_pyinstrument.remote_rules import download as download_module
from otel_pyinstrument.remote_rules.download import Answer, DownloadFailed, download, rules_address


def test_the_key_is_quoted_in_the_address() -> None:
    assert (
        rules_address("http://h/base", "a/../b c?")
        == "http://h/base/api/v1/projects/a%2F..%2Fb%20c%3F/config"
    )


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_address_without_a_port_means_the_one_of_http(family, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a machine where nothing listens
    asked: list[tuple[object, ...]] = []

    def refuse(address: tuple[object, ...], *_arguments: object, **_options: object) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    host = {socket.AF_INET: "192.0.2.7", socket.AF_INET6: "2001:db8::5"}[family]

    with pytest.raises(DownloadFailed):
        download(f"http://[{host}]/a" if ":" in host else f"http://{host}/a", "")

    assert [address[:2] for address in asked] == [(host, 80)]


def test_body_and_etag_are_returned(platform, reply) -> None:
    platform.answer = reply(200, b"{}", ETag='"7"')

    assert download(platform.url + "/a", "") == Answer(b"{}", '"7"')
    ((path, if_none_match, headers),) = platform.requests
    assert (path, if_none_match) == ("/a", None)
    assert headers["user-agent"].startswith("otel-pyinstrument/")
    assert {"cookie", "authorization", "traceparent"}.isdisjoint(headers)


def test_nothing_new_is_no_body(platform) -> None:
    platform.rules(b"{}", '"7"')

    assert download(platform.url, '"7"') == Answer(None, '"7"')


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 403, 404, 429, 500, 503])
def test_any_other_status_is_a_failure(status: int, platform, reply) -> None:
    platform.answer = reply(status, b"")

    with pytest.raises(DownloadFailed, match=str(status)):
        download(platform.url, "")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, platform, reply) -> None:
    platform.answer = reply(status, b"", Location=platform.url + "/elsewhere")

    with pytest.raises(DownloadFailed, match=str(status)):
        download(platform.url, "")
    assert len(platform.requests) == 1


def test_proxies_of_the_environment_are_not_used(platform, reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    platform.answer = reply(200, b"{}")

    assert download(platform.url, "").body == b"{}"


def test_a_huge_body_is_not_read_to_its_end(platform) -> None:
    sent = []

    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not platform.closing.is_set():
            handler.wfile.write(b" " * 65_536)
            sent.append(65_536)

    platform.answer = endless

    with pytest.raises(DownloadFailed, match="more than"):
        download(platform.url, "")
    assert sum(sent) < 100_000_000


def test_a_body_that_drips_in_is_given_up(platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_TOTAL_SECONDS", 0.3)

    def drip(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not platform.closing.is_set():
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.01)

    platform.answer = drip

    with pytest.raises(DownloadFailed, match="took longer"):
        download(platform.url, "")


def test_silence_is_given_up(platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_SOCKET_SECONDS", 0.2)
    platform.answer = lambda handler: platform.closing.wait(30)

    with pytest.raises(DownloadFailed):
        download(platform.url, "")
    platform.closing.set()


def test_a_closed_connection_and_no_http_at_all_are_failures(platform) -> None:
    platform.answer = lambda handler: handler.connection.close()
    with pytest.raises(DownloadFailed):
        download(platform.url, "")

    platform.answer = lambda handler: handler.wfile.write(b"220 smtp\r\n" * 10_000)
    with pytest.raises(DownloadFailed):
        download(platform.url, "")

    platform.close()
    with pytest.raises(DownloadFailed, match="ConnectionRefusedError"):
        download(platform.url, "")


@pytest.mark.parametrize("etag", ["x" * 1_000, "caf\u00e9", '"a\tb"'])
def test_a_strange_etag_is_not_sent_back(etag: str, platform, reply) -> None:
    platform.answer = reply(200, b"{}", ETag=etag)

    assert download(platform.url, "").etag == ""


def test_a_head_that_drips_in_is_given_up(platform, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a platform that sends a byte now and then, so that no read takes long
    monkeypatch.setattr(download_module, "_TOTAL_SECONDS", 0.3)

    def drip(handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(300):
            handler.wfile.write(b"x")
            time.sleep(0.01)

    platform.answer = drip

    # Then it is given up before it is done
    with pytest.raises(DownloadFailed, match="took longer"):
        download(platform.url, "")
