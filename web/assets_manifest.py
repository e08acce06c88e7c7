"""Addresses of the built assets, read from the manifest that `web/build_assets.py` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast


class AssetsNotBuiltError(Exception):
    """There is no manifest: nothing that a page could load exists yet."""


class AssetsManifest:
    """Maps `app.js` to `app-1A2B3C4D.js`. Read again when the file changes, so a rebuild needs no restart."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "manifest.json"
        self._read_at = -1
        self._names: dict[str, str] = {}

    def file_name(self, name: str) -> str:
        """The hashed file name of the asset `name`.

        Raises:
            AssetsNotBuiltError: no manifest, or one without this asset.
        """
        self.load()
        try:
            return self._names[name]
        except KeyError as error:
            raise AssetsNotBuiltError(f"{self._path} does not name {name}") from error

    def load(self) -> None:
        """Read the manifest if it is new.

        Raises:
            AssetsNotBuiltError: it cannot be read.
        """
        try:
            modified_at = self._path.stat().st_mtime_ns
            if modified_at != self._read_at:
                self._names = cast("dict[str, str]", json.loads(self._path.read_text("utf-8")))
                self._read_at = modified_at
        except (OSError, ValueError) as error:
            raise AssetsNotBuiltError(f"cannot read {self._path}") from error
