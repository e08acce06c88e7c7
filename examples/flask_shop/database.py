"""The sqlite database: one connection per request."""

import sqlite3
from collections.abc import Sequence

from flask import current_app, g


def connection() -> sqlite3.Connection:
    """This request's connection."""
    if "connection" not in g:
        g.connection = sqlite3.connect(current_app.config["DATABASE"])
        g.connection.row_factory = sqlite3.Row
    return g.connection


def query(statement: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
    """All rows that the statement gives."""
    cursor = connection().cursor()
    cursor.execute(statement, parameters)
    return cursor.fetchall()


def close(_error: BaseException | None = None) -> None:
    """Close this request's connection, if it opened one."""
    if "connection" in g:
        g.pop("connection").close()
