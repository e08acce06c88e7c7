"""What commands print on stdout."""

from __future__ import annotations

import os
import sys


def escape_what_stdout_lacks() -> None:
    """Characters that its encoding lacks are escaped, as on stderr, instead of ending the command."""
    # Only what Python opened itself has it.
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def drop_what_nobody_reads() -> None:
    """After a BrokenPipeError: Python does not try at its end to write the rest, nor complain about that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
