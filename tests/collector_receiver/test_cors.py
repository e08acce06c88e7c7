"""Web pages may send over OTLP/HTTP when their origin is allowed, and only then."""

import httpx2
import pytest

from collector_receiver.cors import Cors

PROTOBUF = {"content-type": "application/x-protobuf"}
SHOP = "https://shop.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-project-key",
}


def allowed_origin(headers):
    return dict(headers).get(b"access-control-allow-origin")


def test_an_allowed_origin_is_named_and_caches_are_told():
    headers = Cors([SHOP]).headers(SHOP)

    assert allowed_origin(headers) == SHOP.encode()
    assert (b"vary", b"origin") in headers


@pytest.mark.parametrize(
    "origin", ["", "https://shop.example.evil", "http://shop.example", "https://shop.example:444", "null"]
)
def test_another_origin_is_not_allowed(origin):
    assert allowed_origin(Cors([SHOP]).headers(origin)) is None
    assert Cors([SHOP]).preflight(origin) is None


def test_a_star_allows_every_origin_and_never_credentials():
    headers = Cors(["*"]).preflight(SHOP)

    assert allowed_origin(headers) == b"*"
    assert b"access-control-allow-credentials" not in dict(headers)


@pytest.mark.anyio
async def test_a_browser_may_ask_and_then_send(start_receiver, make):
    receiver = await start_receiver(cors_origins=(SHOP,))
    url = f"http://{receiver.http_address}/v1/traces"

    async with httpx2.AsyncClient(trust_env=False, timeout=20) as page:
        asked = await page.options(url, headers=PREFLIGHT | {"origin": SHOP})
        sent = await page.post(
            url, content=make.request(make.span()).SerializeToString(), headers=PROTOBUF | {"origin": SHOP}
        )
        refused = await page.post(url, content=b"\xff", headers=PROTOBUF | {"origin": SHOP})

    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == SHOP
    assert asked.headers["access-control-allow-methods"] == "POST"
    assert "x-project-key" in asked.headers["access-control-allow-headers"]
    for answer, status in ((sent, 200), (refused, 400)):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert answer.headers["access-control-expose-headers"] == "retry-after"


@pytest.mark.anyio
@pytest.mark.parametrize(("origins", "status"), [((), 403), ((SHOP,), 403)])
async def test_a_page_that_is_not_allowed_is_told_so(start_receiver, origins, status):
    receiver = await start_receiver(cors_origins=origins)

    async with httpx2.AsyncClient(trust_env=False, timeout=20) as page:
        answer = await page.options(
            f"http://{receiver.http_address}/v1/traces",
            headers=PREFLIGHT | {"origin": "https://evil.example"},
        )

    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.anyio
async def test_by_default_no_answer_speaks_of_origins(receiver, make):
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as page:
        answer = await page.post(
            f"http://{receiver.http_address}/v1/traces", content=b"", headers=PROTOBUF | {"origin": SHOP}
        )

    assert answer.status_code == 200
    assert [name for name in answer.headers if "access-control" in name or name == "vary"] == []
