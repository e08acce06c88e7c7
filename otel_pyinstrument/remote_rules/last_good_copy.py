"""The last good rules on disk, for the time when the platform is away at a start."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

from otel_pyinstrument.remote_rules.rules import MAX_BYTES, InvalidRules, Rules, read_rules

_logger = getLogger(__name__)
_VERSION = 1


class Copy(NamedTuple):
    """Rules and the ETag that the platform gave them."""

    rules: Rules
    etag: str


def copy_path(address: str, environ: Mapping[str, str]) -> Path | None:
    """A file of this user for the rules at `address`; None without a home directory.

    The name is a hash, as the address holds the project key.
    """
    cache = environ.get("XDG_CACHE_HOME", "").strip()
    try:
        directory = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError:
        return None
    if not directory.is_absolute():
        return None
    name = hashlib.sha256(address.encode("utf-8", "replace")).hexdigest()[:32]
    return directory / "otel-pyinstrument" / f"rules-{name}.json"


def read_copy(path: Path) -> Copy | None:
    """None when there is none, or a damaged one. Never raises."""
    try:
        with path.open("rb") as file:
            # The rules are text inside JSON, which can double their size.
            document: Any = json.loads(file.read(3 * MAX_BYTES))
        if document["version"] != _VERSION:
            return None
        body, etag = document["body"], document["etag"]
        if not isinstance(body, str) or not isinstance(etag, str):
            return None
        return Copy(read_rules(body.encode()), etag)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, InvalidRules) as error:
        _logger.debug("The copy of the rules in %s is ignored: %s", path, error)
        return None


def write_copy(path: Path, body: bytes, etag: str) -> None:
    """Replace the copy as a whole, or leave it as it is. Never raises."""
    temporary = ""
    try:
        document = json.dumps({"version": _VERSION, "etag": etag, "body": body.decode()})
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only this user can read what mkstemp makes.
        descriptor, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except (OSError, ValueError) as error:
        _logger.debug("The rules cannot be kept in %s: %s", path, error)
        if temporary:
            Path(temporary).unlink(missing_ok=True)
