from __future__ import annotations

from typing import Any


def test_an_empty_platform_says_how_to_send_the_first_data(pages: Any) -> None:
    page = pages.get("/")
    assert page.status == 200
    assert "opentelemetry-instrument flask run" in page.text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317" in page.text
    # Without the second the budget refuses most requests.
    assert "OTEL_PYINSTRUMENT_RATE=1" in page.text
    assert "OTEL_PYINSTRUMENT_CPU_BUDGET=1" in page.text


def test_an_empty_project_says_how_to_fill_just_this_one(pages: Any) -> None:
    project = pages.project("ann's shop; reboot")

    page = pages.get(f"/projects/{project.id}/records")

    assert "OTEL_SERVICE_NAME='ann'\"'\"'s shop; reboot'" in page.text


def test_projects_link_to_their_requests_with_the_numbers_of_a_day(pages: Any) -> None:
    # Given a project with two requests, one failed, and one without any
    shop = pages.project("shop")
    pages.project("<b>empty</b>")
    pages.add(shop, duration=0.1)
    pages.add(shop, duration=0.3, status_code=500, failed=True)

    # When the list is opened
    page = pages.get("/")

    # Then both stand there
    assert page.links["shop"] == f"/projects/{shop.id}/records"
    assert "200 ms" in page.text
    assert "50%" in page.text
    assert "<b>empty</b>" in page.text
    assert "<b>empty" not in page.html


def test_many_projects_come_in_pages(pages: Any) -> None:
    # Given one project more than fits
    for index in range(21):
        pages.project(f"service {index:02}")

    # Then the next page has it, and links lead there and back
    first = pages.get("/")
    assert first.links["Next"] == "?page=2"
    second = pages.get("/?page=2")
    assert "service 20" in second.links
    assert second.links["Previous"] == "?page=1"
    assert "service 00" in first.links


def test_a_project_key_never_stands_in_a_page(pages: Any) -> None:
    project = pages.project()
    assert project.project_key not in pages.get("/").html
    assert project.project_key not in pages.get(f"/projects/{project.id}/records").html
    assert pages.get(f"/projects/{project.project_key}/records").status == 404
