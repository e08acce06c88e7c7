"""What the pages need to know about the process that serves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STATIC_DIRECTORY = Path(__file__).parent / "static"
"""Where `web/build_assets.py` puts hashed files and `manifest.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Given by the composition root; every field has a default that suits one machine.

    `otlp_endpoint` is the address that the empty project list tells people to send their spans to.
    """

    static_directory: Path = STATIC_DIRECTORY
    otlp_endpoint: str = "http://127.0.0.1:4317"
