from __future__ import annotations

import gzip
import re
from typing import Any

import pytest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_a_project_is_made_with_a_key_of_its_own(api: Any) -> None:
    # When a project is posted
    response = api.post(
        "/api/v1/projects",
        json={
            "name": "  shop 商店  ",
            "description": "Orders",
            "framework": "flask",
            "base_url": "https://shop.example",
        },
    )

    # Then the answer holds it, without requests yet, and tells its address
    body = response.json()
    assert (response.status_code, body["code"], body["msg"]) == (201, 0, "success")
    project = body["data"]
    assert (project["name"], project["framework"], project["status"]) == ("shop 商店", "flask", "active")
    assert (project["description"], project["base_url"]) == ("Orders", "https://shop.example")
    assert project["statistics"] == {
        "total_requests": 0,
        "avg_response_time": None,
        "p95_response_time": None,
        "error_rate": None,
        "last_request_time": None,
    }
    assert TIME.fullmatch(project["created_at"])
    # And its key, which nobody sees a second time
    key = project["project_key"]
    assert key.startswith("opk_")
    assert [shown["prefix"] for shown in project["keys"]] == [key[:12]]
    again = api.get(response.headers["location"])
    assert again.json()["data"] == project | {"project_key": project["id"]}
    assert key not in again.text + api.get("/api/v1/projects").text


def test_a_second_project_of_a_name_is_refused(api: Any) -> None:
    # Given a project
    api.post("/api/v1/projects", json={"name": "shop"})

    # When another one wants its name
    response = api.post("/api/v1/projects", json={"name": "shop"})

    # Then the code says duplicate name
    assert (response.status_code, response.json()["code"]) == (409, 2002)
    assert '"shop"' in response.json()["msg"]
    assert api.get("/api/v1/projects").json()["data"]["pagination"]["total"] == 1


def test_a_project_is_found_by_key_and_by_id_with_its_numbers(api: Any) -> None:
    # Given a project with two requests, one of which failed
    project = api.project()
    api.store_record(project, duration=0.1)
    last = api.store_record(project, duration=0.3, failed=True, status_code=500)

    # When it is asked for both ways
    by_key = api.get(f"/api/v1/projects/{project.project_key}").json()["data"]
    by_id = api.get(f"/api/v1/projects/{project.id}").json()["data"]

    # Then both tell milliseconds and shares of the last day
    assert by_key == by_id
    assert by_key["project_key"] == project.id
    statistics = by_key["statistics"]
    assert statistics["total_requests"] == 2
    assert statistics["avg_response_time"] == pytest.approx(200)
    assert statistics["p95_response_time"] == pytest.approx(300)
    assert statistics["error_rate"] == 0.5
    assert statistics["last_request_time"] == last.timestamp.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.mark.parametrize("reference", ["nobody", "0" * 24, "%00", "%ED%A0%80", "x" * 5_000, "..%2F"])
def test_an_unknown_project_is_not_found(api: Any, reference: str) -> None:
    response = api.get(f"/api/v1/projects/{reference}")
    assert (response.status_code, response.json()["code"]) == (404, 1001)
    assert len(response.json()["msg"]) < 300


def test_projects_are_listed_by_name_in_pages(api: Any) -> None:
    # Given five projects
    for name in ("delta", "alpha", "echo", "bravo", "charlie"):
        api.project(name)

    # When the second page of two is asked for
    data = api.get("/api/v1/projects", params={"page": 2, "page_size": 2}).json()["data"]

    # Then it holds the third and fourth, and says where it stands
    assert [item["name"] for item in data["items"]] == ["charlie", "delta"]
    assert data["pagination"] == {
        "page": 2,
        "page_size": 2,
        "total": 5,
        "total_is_exact": True,
        "total_pages": 3,
        "has_next": True,
        "has_prev": True,
    }


def test_a_page_beyond_the_end_is_empty(api: Any) -> None:
    data = api.get("/api/v1/projects", params={"page": 7}).json()["data"]
    assert data["items"] == []
    assert (data["pagination"]["total"], data["pagination"]["total_pages"]) == (0, 0)
    assert (data["pagination"]["has_next"], data["pagination"]["has_prev"]) == (False, True)


def test_projects_are_filtered_by_status(api: Any) -> None:
    api.project()
    assert len(api.get("/api/v1/projects?status=active").json()["data"]["items"]) == 1
    assert api.get("/api/v1/projects?status=archived").json()["data"]["items"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "shop", "framework": "rails"}, "framework"),
        ({"name": "shop", "base_url": "javascript:alert(1)"}, "base_url"),
        ({"name": "shop", "base_url": "https://a\nb"}, "base_url"),
        ({"name": "shop", "description": "x" * 2_001}, "description"),
        ({"name": "shop", "nmae": "shop"}, "nmae"),
        (["shop"], "body"),
        ("shop", "body"),
        (7, "body"),
    ],
)
def test_a_bad_field_of_a_new_project_is_named(api: Any, body: Any, field: str) -> None:
    response = api.post("/api/v1/projects", json=body)
    assert (response.status_code, response.json()["code"]) == (422, 1000)
    assert [error["field"] for error in response.json()["data"]["errors"]] == [field]
    assert field in response.json()["msg"]
    assert api.get("/api/v1/projects").json()["data"]["items"] == []


def test_text_that_is_no_unicode_is_refused(api: Any) -> None:
    response = api.post(
        "/api/v1/projects", content=b'{"name": "a\\ud800"}', headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["code"]) == (422, 1000)
    assert response.json()["data"]["errors"] == [{"field": "name", "msg": "must be valid Unicode text"}]


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff\xfe{}", b'{"name": ' + b"[" * 100_000, b'{"name": ' + b"1" * 5_000 + b"}"],
    ids=["cut", "not UTF-8", "too deep", "absurd number"],
)
def test_a_body_that_is_no_json_is_a_bad_format(api: Any, content: bytes) -> None:
    response = api.post("/api/v1/projects", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, 1009)


def test_a_compressed_body_is_refused_by_its_header_before_it_is_read(api: Any) -> None:
    # When a client sends a project as gzip
    response = api.post(
        "/api/v1/projects",
        content=gzip.compress(b'{"name": "shop"}'),
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )

    # Then it is told so, instead of that its bytes are no JSON
    assert (response.status_code, response.json()["code"]) == (415, 1009)
    assert "uncompressed" in response.json()["msg"]


def test_a_missing_body_is_asked_for(api: Any) -> None:
    response = api.post("/api/v1/projects", content=b"", headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, 1000)
    assert response.json()["data"]["errors"] == [{"field": "body", "msg": "is required"}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_only_plain_json_makes_a_project(api: Any, headers: dict[str, str]) -> None:
    # A form of another web page could send the first three without asking.
    response = api.post("/api/v1/projects", content=b'{"name": "shop"}', headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, 1009)
    assert api.get("/api/v1/projects").json()["data"]["items"] == []
