"""Every page in both languages and both themes: looks, accessibility, and nothing odd behind the scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
