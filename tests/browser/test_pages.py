"""Every page in both languages and both themes: looks, accessibility, and nothing odd behind the scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from profile_store.model import Record

pytestmark = pytest.mark.browser
SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
PAGES = ["projects", "records", "record", "record-without-profile", "not-found"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean_and_accessible_in_every_language_and_theme(
    name: str,
    locale: str,
    theme: str,
    open_page: Callable[..., Any],
    axe_source: str,
    site: Any,
    shop_record: Record,
    plain_record: Record,
    record_list: list[Record],
) -> None:
    # Given a browser that prefers this language and theme
    watched = open_page(locale=locale, color_scheme=theme)
    page = watched.page
    records = f"{site.url}/projects/{site.project_id}/records"
    address = {
        "projects": f"{site.url}/",
        "records": records,
        "record": site.record(shop_record),
        "record-without-profile": site.record(plain_record),
        "not-found": f"{records}/{'0' * 48}",
    }[name]
    if name == "not-found":
        watched.allowed.append(address)

    # When the page is opened
    page.goto(address)
    if name == "record":
        page.locator("[data-flame][data-drawn]").wait_for()

    # Then it speaks the language, and axe finds nothing
    assert page.locator("html").get_attribute("lang") == ("en" if locale == "en-GB" else "zh-CN")
    page.evaluate(axe_source)
    result = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
    )
    findings = [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{locale}-{theme}.png", full_page=True)
    assert findings == []


def test_times_are_in_the_zone_and_language_of_the_viewer(
    open_page: Callable[..., Any], site: Any, shop_record: Record
) -> None:
    # Given a viewer in Shanghai, and a request at 09:30:12 UTC
    page = open_page(locale="en-GB").page
    page.goto(site.record(shop_record))

    # Then the page shows their time, and UTC when pointed at
    time = page.locator("time").first
    expect(time).to_contain_text("21 Nov 2026, 17:30:12.345")
    expect(time).to_have_attribute("title", "2026-11-21 09:30:12 UTC")


def test_a_record_is_found_from_the_project_list_by_links_alone(
    open_page: Callable[..., Any], site: Any, shop_record: Record, record_list: list[Record]
) -> None:
    # Given someone who looks for the slow requests of one endpoint
    page = open_page().page
    page.goto(site.url)
    page.get_by_role("link", name="flask-shop").click()
    page.get_by_label("Endpoint").fill("GET /orders/<customer>")
    page.get_by_label("profiled only").check()
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("link", name="Duration").click()

    # When the first one is opened
    page.locator("tbody a").first.click()

    # Then its flame graph is there
    page.locator("[data-flame][data-drawn]").wait_for()
    expect(page.locator("h1")).to_contain_text("GET /orders/<customer>")


def test_pages_without_script_hold_the_numbers(
    open_page: Callable[..., Any], site: Any, shop_record: Record
) -> None:
    page = open_page(java_script_enabled=False).page
    page.goto(site.record(shop_record))
    expect(page.get_by_role("treegrid")).to_contain_text("similarity")
    expect(page.locator("time").first).to_have_text("2026-11-21 09:30:12 UTC")
