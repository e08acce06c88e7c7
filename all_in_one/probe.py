"""`python -m all_in_one.probe URL`: for the health checks of containers, whose image has no curl.

Exit code 0 when URL answers with a status below 400 within some seconds, else 1 and one line that says why.
"""

from __future__ import annotations

import sys
import urllib.request
from http.client import HTTPException

TIMEOUT_SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """Ask once; returns the exit code."""
    if len(arguments) != 1 or not arguments[0].startswith(("http://", "https://")):
        sys.stderr.write("usage: python -m all_in_one.probe http://host:port/path\n")
        return 2
    # What is asked is on this machine, whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(arguments[0], timeout=TIMEOUT_SECONDS):
            return 0
    except HTTPException as error:
        sys.stderr.write(f"{arguments[0]}: answers, but not in HTTP ({type(error).__name__})\n")
        return 1
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
