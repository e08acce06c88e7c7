"""Every address that a page links to; templates get this as `urls`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from web.assets_manifest import AssetsManifest


class Addresses:
    """Paths below the root path that the application is mounted at."""

    def __init__(self, root_path: str, assets: AssetsManifest) -> None:
        self._root = root_path.rstrip("/")
        self._assets = assets

    def projects(self) -> str:
        return f"{self._root}/"

    def records(self, project_id: str, query: Mapping[str, str] | None = None) -> str:
        text = urlencode({name: value for name, value in (query or {}).items() if value})
        return f"{self._root}/projects/{quote(project_id, safe='')}/records" + (f"?{text}" if text else "")

    def record(self, project_id: str, record_id: str) -> str:
        return f"{self.records(project_id)}/{quote(record_id, safe='')}"

    def flame_data(self, project_id: str, record_id: str) -> str:
        return f"{self.record(project_id, record_id)}/flame.json"

    def tree_rows(self, project_id: str, record_id: str, node: int, offset: int = 0) -> str:
        return f"{self.record(project_id, record_id)}/tree?node={node}" + (
            f"&offset={offset}" if offset else ""
        )

    def language(self, language: str, back_to: str) -> str:
        return f"{self._root}/language/{language}?{urlencode({'next': back_to})}"

    def asset(self, name: str) -> str:
        return f"{self._root}/static/{self._assets.file_name(name)}"
