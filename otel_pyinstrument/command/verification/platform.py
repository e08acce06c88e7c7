"""The platform's REST API, as far as `verify` asks it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, NamedTuple, cast
from urllib.parse import quote, urlencode

from otel_pyinstrument.masking import masked_url
from otel_pyinstrument.version import __version__

_MAX_BYTES = 16 * 1024 * 1024
_PAGE_SIZE = 100
_MAX_PAGES = 100


class PlatformFailed(Exception):
    """No answer that could be used."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(finding)
        self.finding = finding
        self.remedy = remedy


class Project(NamedTuple):
    """A project as the API names it."""

    id: str
    name: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead the token to another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


class Platform:
    """Blocks; uses neither proxies nor cookies. `token` is the bearer token of a platform beyond loopback."""

    def __init__(self, url: str, *, token: str = "", timeout_seconds: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.shown = masked_url(self.url)
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        self.clock_offset_seconds: float | None = None
        """This machine's clock minus the platform's, as of the last answer that had a date."""

    def project(self, reference: str) -> Project | None:
        """By key or id, else by name; None when the platform knows no such project.

        Raises:
            PlatformFailed: no usable answer.
        """
        found = self._get(f"/projects/{quote(reference, safe='')}")
        if found is not None:
            return _project(found)
        for page in range(1, _MAX_PAGES + 1):
            query = urlencode({"page": page, "page_size": _PAGE_SIZE})
            listed = self._get(f"/projects?{query}") or {}
            for item in cast("list[dict[str, Any]]", listed.get("items", [])):
                if item.get("name") == reference:
                    return _project(item)
            if not listed.get("pagination", {}).get("has_next"):
                break
        return None

    def record(self, project: Project, record_id: str) -> dict[str, Any] | None:
        """One record with its call tree; None when it is not there (yet).

        Raises:
            PlatformFailed: no usable answer.
        """
        return self._get(f"/performance/records/{record_id}?{urlencode({'project_key': project.id})}")

    def page_of(self, project: Project, record_id: str) -> str:
        """The record's page for people."""
        return f"{self.url}/projects/{quote(project.id, safe='')}/records/{record_id}"

    def _get(self, path: str) -> dict[str, Any] | None:
        headers = {"Accept": "application/json", "User-Agent": f"otel-pyinstrument/{__version__}"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        # The command admits http and https only.
        request = urllib.request.Request(f"{self.url}/api/v1{path}", headers=headers)  # noqa: S310 - see above
        begun = time.time()
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                self._see_date(response.headers.get("Date"), begun)
                body: bytes = response.read(_MAX_BYTES + 1)
                return self._data(response.status, body)
        except urllib.error.HTTPError as error:
            with error:
                self._see_date(error.headers.get("Date"), begun)
                return self._data(error.code, error.read(_MAX_BYTES))
        except (OSError, HTTPException, ValueError) as error:
            reason: object = getattr(error, "reason", None) or error
            raise PlatformFailed(
                f"{self.shown} does not answer ({reason})",
                "Start the platform, or correct --platform-url or OTEL_PYINSTRUMENT_PLATFORM_URL.",
            ) from None

    def _see_date(self, date: str | None, begun: float) -> None:
        offset = clock_offset_seconds(date, begun, time.time())
        if offset is not None:
            self.clock_offset_seconds = offset

    def _data(self, status: int, body: bytes) -> dict[str, Any] | None:
        try:
            parsed: Any = json.loads(body)
            code, said = parsed["code"], str(parsed["msg"])
            data = parsed["data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise PlatformFailed(
                f"{self.shown} is not the platform's address: /api/v1 answers {status} and not in its way",
                "Give the address of the web interface: --platform-url or OTEL_PYINSTRUMENT_PLATFORM_URL.",
            ) from None
        if status == 200 and isinstance(data, dict):
            return cast("dict[str, Any]", data)
        if status == 404:
            return None
        if status in {401, 403}:
            raise PlatformFailed(
                f"{self.shown} refuses to answer ({said})",
                "Give the platform's ADMIN_TOKEN in a file: --token-file FILE.",
            )
        raise PlatformFailed(
            f"{self.shown} answers {status}, code {code} ({said})", "Look at the platform's log."
        )


def clock_offset_seconds(date: str | None, begun: float, ended: float) -> float | None:
    """This machine's clock minus the one behind a `Date` header, from the Unix times around the request.

    The header has whole seconds, cut: half of one is added. None without a date that can be read.
    """
    if not date:
        return None
    try:
        there = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    offset = (begun + ended) / 2 - (there + 0.5)
    uncertainty = (ended - begun) / 2 + 0.5
    return 0.0 if abs(offset) <= uncertainty else offset


def _project(found: dict[str, Any]) -> Project:
    return Project(str(found.get("id", "")), str(found.get("name", "")))
