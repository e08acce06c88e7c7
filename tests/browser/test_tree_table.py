"""The call-tree table: the heavy path is open, the rest comes on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from profile_store.model import Record

pytestmark = pytest.mark.browser


@pytest.fixture
def page(open_page: Callable[..., Any], site: Any, shop_record: Record) -> Page:
    page: Page = open_page().page
    page.goto(site.record(shop_record))
    page.locator("[data-flame][data-drawn]").wait_for()
    return page


def row(page: Page, function: str) -> Locator:
    return page.locator("tr[data-node]").filter(has=page.locator(".name", has_text=function)).first


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("tr[data-node]:not([hidden]) .name").all_text_contents()]


def test_the_heavy_path_is_open_when_the_page_comes(page: Page) -> None:
    # Then the way to the slowest function is in view, heaviest first
    assert names(page)[6:11] == ["order_history", "recommend", "similarity", "tokens", "nlargest"]
    expect(row(page, "recommend")).to_have_attribute("aria-expanded", "true")
    expect(row(page, "load_orders")).to_have_attribute("aria-expanded", "false")


def test_opening_a_row_fetches_its_calls_once(page: Page) -> None:
    # Given somebody counting requests
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    # When a row is opened, closed and opened
    toggle = row(page, "load_orders").get_by_role("button")
    toggle.click()
    expect(row(page, "load_items")).to_be_visible()
    expect(row(page, "load_items")).to_have_attribute("aria-level", "9")
    toggle.click()
    expect(row(page, "load_items")).to_be_hidden()
    toggle.click()

    # Then its calls are there, and were fetched once
    expect(row(page, "load_items")).to_be_visible()
    assert len([url for url in requests if "/tree?" in url]) == 1
    assert names(page).count("load_items") == 1


@pytest.mark.parametrize("fails", [False, True], ids=["at once", "after a failure"])
def test_the_calls_that_are_too_many_come_on_demand_and_open_too(
    open_page: Callable[..., Any], site: Any, wide_record: Record, fails: bool
) -> None:
    # Given a function with so many calls that some are left out
    watched = open_page()
    page: Page = watched.page
    page.goto(site.record(wide_record))
    page.locator("[data-flame][data-drawn]").wait_for()
    shown = names(page)
    if fails:
        watched.allowed += ["503"]
        page.route("**/tree?*", lambda route: route.fulfill(status=503, body="busy"), times=1)
        page.locator("[data-more]").first.click()
        expect(page.locator("tr.problem")).to_have_count(1)

    # When more are asked for, and the first of them is opened
    page.locator("[data-more]").first.click()
    expect(page.locator("tr[data-node]:not([hidden])").nth(len(shown))).to_be_visible()
    first = next(name for name in names(page) if name not in shown)
    row(page, first).get_by_role("button").click()

    # Then it shows what it calls
    expect(page.locator(".name").get_by_text(first.replace("call", "inner"), exact=True)).to_be_visible()
    expect(page.locator("tr.problem")).to_have_count(0)


@pytest.mark.parametrize("closed", ["load_orders", "order_history"], ids=["their row", "a row above"])
def test_calls_that_arrive_below_a_closed_row_stay_hidden_until_it_opens(page: Page, closed: str) -> None:
    # Given calls on their way
    held: list[Route] = []
    page.route("**/tree?*", lambda route: held.append(route), times=1)
    row(page, "load_orders").get_by_role("button").click()

    # When the row, or one above it, is closed before they come
    row(page, closed).get_by_role("button").click()
    with page.expect_response("**/tree?*"):
        held[0].continue_()

    # Then they are there, but not shown until it is opened again
    expect(row(page, "load_items")).to_be_attached()
    expect(row(page, "load_items")).to_be_hidden()
    row(page, closed).get_by_role("button").click()
    expect(row(page, "load_items")).to_be_visible()


@pytest.mark.parametrize("answer", ["an error", "nothing"])
def test_calls_that_could_not_be_loaded_are_asked_for_again(
    open_page: Callable[..., Any], site: Any, shop_record: Record, answer: str
) -> None:
    # Given a server that fails once
    watched = open_page()
    watched.allowed += ["503", "ERR_FAILED", "Failed to fetch"]
    page: Page = watched.page
    page.goto(site.record(shop_record))
    page.locator("[data-flame][data-drawn]").wait_for()

    def fail(route: Route) -> None:
        if answer == "nothing":
            route.abort()
        else:
            route.fulfill(status=503, body="<b>busy</b>")

    page.route("**/tree?*", fail, times=1)

    # When a row is opened
    row(page, "load_orders").get_by_role("button").click()

    # Then it says so and is closed, and opens when it is pressed again
    message = page.locator("tr.problem")
    expect(message).to_have_text("These calls could not be loaded. Press again to retry.")
    expect(row(page, "load_orders")).to_have_attribute("aria-expanded", "false")
    row(page, "load_orders").get_by_role("button").click()
    expect(row(page, "load_items")).to_be_visible()
    expect(message).to_have_count(0)


def test_a_branch_that_was_closed_stays_closed_when_its_parent_opens_again(page: Page) -> None:
    # Given a closed row within an open branch
    row(page, "recommend").get_by_role("button").click()
    row(page, "order_history").get_by_role("button").click()
    expect(row(page, "recommend")).to_be_hidden()

    # When the branch is opened again
    row(page, "order_history").get_by_role("button").click()

    # Then the row is there and still closed
    expect(row(page, "recommend")).to_be_visible()
    expect(row(page, "similarity")).to_be_hidden()


def test_the_table_works_from_the_keyboard(page: Page) -> None:
    # Given the focus on its first row, which Tab reaches
    expect(page.locator('tr[tabindex="0"]')).to_have_count(1)
    page.locator('tr[tabindex="0"]').focus()

    # When arrows move and open
    page.keyboard.press("End")
    expect(row(page, "Flask.process_response")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(row(page, "SecureCookieSessionInterface.save_session")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(row(page, "SecureCookieSessionInterface.save_session")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(row(page, "Flask.process_response")).to_be_focused()
    page.keyboard.press("ArrowLeft")

    # Then the branch is closed again, and one row is reached by Tab
    expect(row(page, "SecureCookieSessionInterface.save_session")).to_be_hidden()
    expect(page.locator('tr[tabindex="0"]')).to_have_count(1)


def test_a_failing_server_gives_a_row_not_a_page_in_the_page(
    open_page: Callable[..., Any], site: Any, shop_record: Record
) -> None:
    # Given a row whose calls are gone from the server
    watched = open_page()
    page = watched.page
    watched.allowed += ["/tree?"]
    page.goto(site.record(shop_record))
    toggle = row(page, "load_orders").get_by_role("button")
    toggle.evaluate("button => button.setAttribute('hx-get', button.getAttribute('hx-get') + '9999')")
    page.route(
        "**/tree?*",
        lambda route: route.continue_(url=route.request.url.replace("node=", "node=99999")),
    )

    # When it is opened
    toggle.click()

    # Then a row says so, and the rest of the page stays
    expect(page.locator("tr.problem")).to_contain_text("gone")
    expect(row(page, "load_orders")).to_have_attribute("aria-expanded", "false")
    expect(page.locator("h1")).to_have_count(1)
    expect(row(page, "similarity")).to_be_visible()
