"""The flame graph of a realistic record, used with pointer and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, expect

from profile_store.model import Record

pytestmark = pytest.mark.browser
ROW = 18

# Rows of the seeded order page: the request, then OpenTelemetry, Flask, and the view at row 6.
VIEW_ROW = 6


def open_record(open_page: Callable[..., Any], address: str, **options: Any) -> Page:
    page: Page = open_page(**options).page
    page.goto(address)
    page.locator("[data-flame][data-drawn]").wait_for()
    return page


def part(page: Page, name: str) -> Any:
    return page.locator(f'[data-part="{name}"]')


def shown(page: Page, field: str) -> Any:
    return page.locator(f'[data-field="{field}"]')


def state(page: Page) -> dict[str, str]:
    """What the address says; asked from the page, because `page.url` follows later."""
    fragment = page.evaluate("location.hash.slice(1)")
    return {name: values[0] for name, values in parse_qs(fragment).items()}


def click_frame(page: Page, row: int, at: float) -> None:
    """A click in a row, at a share of the width."""
    box = part(page, "canvas").bounding_box()
    page.mouse.click(box["x"] + at * box["width"], box["y"] + row * ROW + ROW / 2)


@pytest.fixture
def page(open_page: Callable[..., Any], site: Any, shop_record: Record) -> Page:
    return open_record(open_page, site.record(shop_record))


def test_the_root_bears_the_endpoint(page: Page) -> None:
    # When the topmost frame is clicked
    click_frame(page, 0, 0.5)

    # Then the panel names the endpoint, with all of the time
    expect(shown(page, "name")).to_have_text("GET /orders/<customer>")
    expect(shown(page, "total")).to_contain_text("100%")


def test_a_click_zooms_and_a_click_on_an_ancestor_zooms_out(page: Page) -> None:
    # Given a click on the slow function in the middle
    click_frame(page, VIEW_ROW + 2, 0.5)
    expect(shown(page, "name")).to_have_text("similarity")
    expect(shown(page, "location")).to_have_text("shop/recommendations.py:61")
    zoomed = state(page)

    # Then it fills the width: the far left of its row is the same function
    click_frame(page, VIEW_ROW + 2, 0.01)
    expect(shown(page, "name")).to_have_text("similarity")
    assert state(page) == zoomed

    # When an ancestor is clicked
    click_frame(page, VIEW_ROW, 0.9)

    # Then the view is that of the ancestor
    expect(shown(page, "name")).to_have_text("order_history")
    click_frame(page, VIEW_ROW + 1, 0.1)
    expect(shown(page, "name")).to_have_text("load_orders")


@pytest.mark.parametrize("key", ["Escape", "0"])
def test_a_key_resets_the_zoom(page: Page, key: str) -> None:
    # Given a zoomed graph
    click_frame(page, VIEW_ROW + 2, 0.5)
    assert "zoom" in state(page)
    expect(part(page, "reset")).to_be_enabled()

    # When the key is pressed in the graph
    part(page, "window").press(key)

    # Then all is in view again, and the selection stays
    expect(part(page, "reset")).to_be_disabled()
    assert "zoom" not in state(page)
    expect(shown(page, "name")).to_have_text("similarity")


def test_hovering_tells_name_place_and_times(page: Page) -> None:
    # When the pointer rests on a frame
    box = part(page, "canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + (VIEW_ROW + 2) * ROW + 5)

    # Then the tooltip is on top, within the window
    tooltip = part(page, "tooltip")
    expect(tooltip).to_be_visible()
    expect(tooltip).to_contain_text("similarity")
    expect(tooltip).to_contain_text("shop/recommendations.py:61")
    expect(tooltip).to_contain_text(re.compile(r"470 ms · 37%.*310 ms · 25%"))

    # And it goes when the pointer leaves
    page.mouse.move(5, 5)
    expect(tooltip).to_be_hidden()


def test_search_ignores_case_and_its_share_does_not_change_by_zooming(page: Page) -> None:
    # When a part of a name is searched in the other case
    part(page, "search").fill("LOAD_")

    # Then nested matches count once: load_customer, and load_orders with load_items in it
    expect(part(page, "matches")).to_have_text("28% of the request · frames: 3")

    # And the share stays one of the whole while zoomed into something else
    click_frame(page, VIEW_ROW + 2, 0.5)
    expect(part(page, "matches")).to_have_text("28% of the request · frames: 3")


def test_search_finds_files_and_takes_special_characters_as_text(page: Page) -> None:
    part(page, "search").fill("shop/supplier.py")
    expect(part(page, "matches")).to_contain_text("frames: 1")
    part(page, "search").fill("foo(")
    expect(part(page, "matches")).to_have_text("no match")
    part(page, "search").fill(".*")
    expect(part(page, "matches")).to_have_text("no match")


def test_n_and_shift_n_go_through_the_matches_and_around(page: Page) -> None:
    # Given a search with two matches
    part(page, "search").fill("load_")
    names = []

    # When the keys are pressed in the graph
    part(page, "window").focus()
    for key in ["n", "n", "n", "n", "N"]:
        page.keyboard.press(key)
        names.append(shown(page, "name").text_content())

    # Then they go forward, around the end, and back
    assert names == ["load_customer", "load_orders", "load_items", "load_customer", "load_items"]


def test_search_works_from_the_keyboard_alone(page: Page) -> None:
    # When someone presses /, types, presses Enter and Escape
    part(page, "window").focus()
    page.keyboard.press("/")
    expect(part(page, "search")).to_be_focused()
    page.keyboard.type("tokens")
    page.keyboard.press("Enter")
    expect(shown(page, "name")).to_have_text("tokens")
    page.keyboard.press("Escape")

    # Then the search is over and the graph has the focus again
    expect(part(page, "window")).to_be_focused()
    expect(part(page, "matches")).to_have_text("")
    assert "search" not in state(page)


def test_arrow_keys_walk_the_tree_and_enter_zooms(page: Page) -> None:
    # Given the focus on the graph
    part(page, "window").focus()
    names = []

    # When arrows are pressed
    for key in ["ArrowDown"] * 8 + ["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "ArrowRight"]:
        page.keyboard.press(key)
        names.append(shown(page, "name").text_content())

    # Then they select the heaviest call, the caller, and the neighbours in the row
    assert names[0] == "GET /orders/<customer>"
    assert names[6:] == [
        "order_history",
        "recommend",
        "similarity",
        "recommend",
        "load_orders",
        "recommend",
        "availability",
    ]
    # And every step is announced
    expect(part(page, "live")).to_contain_text("availability shop/supplier.py:17")

    # When Enter is pressed
    assert "zoom" not in state(page)
    page.keyboard.press("Enter")

    # Then the selected frame fills the width
    assert state(page)["zoom"] == state(page)["node"]


def test_single_keys_do_nothing_outside_of_the_graph(page: Page) -> None:
    page.locator("h1").click()
    page.keyboard.press("o")
    page.keyboard.press("/")
    expect(part(page, "own-only")).not_to_be_checked()
    expect(part(page, "search")).not_to_be_focused()


def test_own_code_only_folds_libraries_and_keeps_the_sums(page: Page) -> None:
    # When libraries are folded away
    part(page, "own-only").check()
    part(page, "window").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")

    # Then the view hangs directly below the request, with all of its time
    expect(shown(page, "name")).to_have_text("order_history")
    expect(shown(page, "total")).to_have_text("1.22 s · 97%")

    # And a function that only calls libraries has their time as its own
    part(page, "search").fill("availability")
    part(page, "search").press("Enter")
    expect(shown(page, "total")).to_have_text("250 ms · 20%")
    expect(shown(page, "self")).to_have_text("250 ms · 20%")

    # When they are shown again
    part(page, "own-only").uncheck()

    # Then the selection is the same function, with its own self time
    expect(shown(page, "name")).to_have_text("availability")
    expect(shown(page, "self")).to_have_text("0 ms · 0%")


def test_the_address_reproduces_the_view(open_page: Callable[..., Any], page: Page) -> None:
    # Given a view with everything changed
    click_frame(page, VIEW_ROW, 0.5)
    part(page, "own-only").check()
    part(page, "search").fill("similarity")
    part(page, "search").press("Enter")
    expect(shown(page, "name")).to_have_text("similarity")
    before = part(page, "canvas").screenshot()

    # When its address is opened by someone else
    other = open_record(open_page, page.evaluate("location.href"))

    # Then it shows the same
    expect(part(other, "search")).to_have_value("similarity")
    expect(part(other, "own-only")).to_be_checked()
    expect(part(other, "reset")).to_be_enabled()
    expect(shown(other, "name")).to_have_text("similarity")
    expect(part(other, "matches")).to_have_text(part(page, "matches").text_content())
    assert part(other, "canvas").screenshot() == before


def test_back_and_forward_go_through_the_zooms(page: Page) -> None:
    # Given two zooms
    click_frame(page, VIEW_ROW, 0.5)
    click_frame(page, VIEW_ROW + 2, 0.5)
    expect(shown(page, "name")).to_have_text("similarity")

    # When the browser goes back and forward
    page.go_back()
    expect(shown(page, "name")).to_have_text("order_history")
    page.go_forward()

    # Then each is there again
    expect(shown(page, "name")).to_have_text("similarity")


@pytest.mark.parametrize(
    "fragment",
    ["zoom=99999&node=-3", "zoom=NaN", "node=1e3&own=2", "search=" + "%20" * 500, "%%%", "zoom=1&zoom=2"],
)
def test_a_senseless_address_shows_the_graph_all_the_same(
    open_page: Callable[..., Any], site: Any, shop_record: Record, fragment: str
) -> None:
    page = open_record(open_page, f"{site.record(shop_record)}#{fragment}")
    click_frame(page, 0, 0.5)
    expect(shown(page, "name")).to_have_text("GET /orders/<customer>")


def test_name_and_stack_can_be_copied(open_page: Callable[..., Any], site: Any, shop_record: Record) -> None:
    # Given a selected frame
    page = open_record(open_page, site.record(shop_record), permissions=["clipboard-read", "clipboard-write"])
    click_frame(page, VIEW_ROW + 2, 0.5)

    # When name, stack and trace id are copied, then each is in the clipboard
    page.get_by_role("button", name="Copy name").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "similarity"
    page.get_by_role("button", name="Copy stack").click()
    stack = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert stack[0] == "GET /orders/<customer>"
    assert stack[-2:] == ["recommend (shop/recommendations.py:22)", "similarity (shop/recommendations.py:61)"]
    page.get_by_role("button", name="Copy", exact=True).click()
    assert page.evaluate("navigator.clipboard.readText()") == shop_record.trace_id.hex()


def test_a_hot_function_leads_into_the_graph(page: Page) -> None:
    page.get_by_role("button", name="load_items").click()
    expect(part(page, "search")).to_have_value("load_items")
    expect(shown(page, "name")).to_have_text("load_items")
    expect(part(page, "window")).to_be_focused()


def test_the_graph_changes_its_colours_with_the_theme(page: Page) -> None:
    # Given the light theme
    def background() -> list[int]:
        return page.evaluate(
            """() => { const canvas = document.querySelector('[data-part="canvas"]');
            const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
            copy.drawImage(canvas, 3 - canvas.width, 3 - canvas.height);
            return [...copy.getImageData(0, 0, 1, 1).data]; }"""
        )

    drawn = int(page.locator("[data-flame]").get_attribute("data-drawn"))
    light = background()

    # When the system turns dark
    page.emulate_media(color_scheme="dark")
    page.locator(f'[data-flame]:not([data-drawn="{drawn}"])').wait_for()

    # Then the canvas follows
    assert sum(light[:3]) > 3 * 200
    assert sum(background()[:3]) < 3 * 80


def test_the_canvas_has_device_pixels(open_page: Callable[..., Any], site: Any, shop_record: Record) -> None:
    page = open_record(open_page, site.record(shop_record), device_scale_factor=2)
    css_width, width = part(page, "canvas").evaluate("canvas => [canvas.clientWidth, canvas.width]")
    assert width == 2 * css_width


def test_a_narrow_window_keeps_everything_in_reach(
    open_page: Callable[..., Any], site: Any, shop_record: Record
) -> None:
    # When the page is opened in the width of a telephone, and then turned
    page = open_record(open_page, site.record(shop_record), width=390, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 800, "height": 390})

    # Then the canvas follows the new width
    page.wait_for_function("() => document.querySelector('canvas').width > 600")


def test_lost_data_is_said_and_the_table_remains(
    open_page: Callable[..., Any], site: Any, shop_record: Record
) -> None:
    # Given a network that loses the flame data
    watched = open_page()
    watched.page.route("**/flame.json*", lambda route: route.abort())
    watched.allowed += ["flame.json"]

    # When the page is opened
    watched.page.goto(site.record(shop_record))

    # Then it says so, and the call tree is there
    expect(part(watched.page, "status")).to_contain_text("could not be loaded")
    expect(watched.page.get_by_role("treegrid")).to_contain_text("order_history")


def pixels(page: Page, points: list[tuple[float, int]]) -> list[list[int]]:
    """Colours in the canvas after its next drawing, at shares of its width and at rows."""
    return page.evaluate(
        """async points => {
            const frame = () => new Promise(requestAnimationFrame);
            await frame().then(frame);
            const canvas = document.querySelector('[data-part="canvas"]');
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext('2d', { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            const colour = ([x, row]) => [...context.getImageData(x * canvas.width, row * 18 + 4, 1, 1).data];
            return points.map(colour);
        }""",
        points,
    )


def test_what_is_painted_is_where_the_pointer_finds_it(page: Page) -> None:
    # When the slow function is zoomed to, whose only call takes a third of it
    click_frame(page, VIEW_ROW + 2, 0.5)
    function, call, nothing = pixels(page, [(0.01, VIEW_ROW + 2), (0.01, VIEW_ROW + 3), (0.98, VIEW_ROW + 3)])

    # Then both are painted from the left edge on, and nothing is right of the call
    assert nothing == [255, 255, 255, 255]
    assert function != nothing
    assert call != nothing


def test_matches_follow_when_libraries_are_folded_away(page: Page) -> None:
    part(page, "search").fill("execute")
    expect(part(page, "matches")).to_have_text("21% of the request · frames: 3")
    part(page, "own-only").check()
    expect(part(page, "matches")).to_have_text("no match")
