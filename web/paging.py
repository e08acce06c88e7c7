"""Which page of a list is asked for, and what stands below the list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from profile_store.model import Page

_MOST_DIGITS = 6


def page_number(query: Mapping[str, str]) -> int:
    """The `page` of a query string; 1 for anything that is not a page."""
    text = query.get("page", "1")
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return max(1, int(text)) if is_number else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLinks:
    """`first` to `last` (from 1) of `total`; `previous` and `next` are page numbers, None at the ends."""

    first: int
    last: int
    total: int
    total_is_exact: bool
    previous: int | None
    next: int | None

    @classmethod
    def of(cls, page: Page[Any]) -> Self:
        """The links of a page; beyond the end of a list `previous` leads back to its last page."""
        before = (page.page - 1) * page.page_size
        pages = -(-page.total // page.page_size)
        more = before + len(page.items) < page.total or (not page.total_is_exact and bool(page.items))
        return cls(
            first=before + 1 if page.items else 0,
            last=before + len(page.items),
            total=page.total,
            total_is_exact=page.total_is_exact,
            previous=(min(page.page - 1, max(1, pages)) if page.page > 1 else None),
            next=page.page + 1 if more else None,
        )
