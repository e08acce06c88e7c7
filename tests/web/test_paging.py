from __future__ import annotations

import pytest

from profile_store.model import Page
from web.paging import PageLinks, page_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("7", 7),
        ("0", 1),
        ("-1", 1),
        ("1.5", 1),
        ("", 1),
        ("٣", 1),
        ("123456", 123_456),
        ("1234567", 1),
        ("9" * 5_000, 1),
    ],
)
def test_anything_that_is_no_page_is_the_first(text: str, number: int) -> None:
    assert page_number({"page": text}) == number


@pytest.mark.parametrize(
    ("page", "items", "total", "expected"),
    [
        (1, 0, 0, (0, 0, None, None)),
        (1, 20, 20, (1, 20, None, None)),
        (1, 20, 21, (1, 20, None, 2)),
        (2, 1, 21, (21, 21, 1, None)),
        (9, 0, 21, (0, 160, 2, None)),
    ],
)
def test_links_lead_to_pages_that_exist(
    page: int, items: int, total: int, expected: tuple[int, int, int | None, int | None]
) -> None:
    links = PageLinks.of(Page(items=[None] * items, page=page, page_size=20, total=total))
    assert (links.first, links.last, links.previous, links.next) == expected


def test_a_list_longer_than_it_was_counted_goes_on() -> None:
    links = PageLinks.of(Page(items=[1] * 20, page=5, page_size=20, total=100, total_is_exact=False))
    assert links.next == 6
