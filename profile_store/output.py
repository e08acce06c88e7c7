"""What commands print on stdout."""

from __future__ import annotations

import sys


def escape_what_stdout_lacks() -> None:
    """Characters that its encoding lacks are escaped, as on stderr, instead of ending the command."""
    # Only what Python opened itself has it.
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")
