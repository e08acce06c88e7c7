"""A storage report as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from profile_store.model import CollectionStorage, StorageReport

_MAX_PROJECT_ROWS = 100
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def storage_table(report: StorageReport) -> Iterator[str]:
    """Collections, their indexes, then projects, largest first."""
    heads = ("collection", "documents", "content/doc", "disk/doc", "indexes/doc", "on disk", "reusable")
    yield from _columns([heads, *map(_collection_row, report.collections)])
    yield ""
    indexes = [
        (f"{storage.name}.{name}", _of_each(size, storage.documents), _size(size))
        for storage in report.collections
        for name, size in storage.index_bytes.items()
    ]
    yield from _columns([("index", "bytes/doc", "on disk"), *indexes])
    yield ""
    projects = [
        (
            item.project,
            item.collection,
            f"{item.documents:,}",
            _of_each(item.bytes_on_disk, item.documents),
            _size(item.bytes_on_disk),
        )
        for item in report.projects[:_MAX_PROJECT_ROWS]
    ]
    heads_of_projects = ("project", "collection", "documents", "bytes/doc", "on disk and indexes")
    yield from _columns([heads_of_projects, *projects])
    if report.is_sampled:
        yield "(numbers of projects are estimated from a sample)"
    if len(report.projects) > _MAX_PROJECT_ROWS:
        yield f"and {len(report.projects) - _MAX_PROJECT_ROWS} smaller ones"


def _collection_row(storage: CollectionStorage) -> Sequence[str]:
    count = storage.documents
    return (
        storage.name,
        f"{count:,}",
        _of_each(storage.content_bytes, count),
        _of_each(storage.used_bytes, count),
        _of_each(sum(storage.index_bytes.values()), count),
        _size(storage.disk_bytes + sum(storage.index_bytes.values())),
        _size(storage.reusable_bytes),
    )


def _of_each(size: int, count: int) -> str:
    return f"{size / count:,.0f} B" if count else "-"


def _size(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1_000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1_000
    return f"{size:.3g} {_UNITS[-1]}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
