"""`python -m profile_store COMMAND`: projects, keys and upkeep of the data, for the operator."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from profile_store import StoreSettings, open_store, project_commands, roll_up_command
from profile_store.contracts import InvalidStoreSettings, StoreError
from profile_store.output import drop_what_nobody_reads, escape_what_stdout_lacks

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NO_STORE = 4
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or one of the above with one line on stderr."""
    escape_what_stdout_lacks()
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = StoreSettings()
    except ValidationError as problems:
        problem = problems.errors(include_url=False, include_input=False)[0]
        what = problem["msg"].removeprefix("Value error, ")
        return _fail(f"{problem['loc'][0]} {what}", EXIT_USAGE)
    try:
        asyncio.run(_run(parsed, settings))
    except (roll_up_command.WrongArguments, InvalidStoreSettings) as problem:
        return _fail(str(problem), EXIT_USAGE)
    except project_commands.Refused as refused:
        return _fail(str(refused), EXIT_REFUSED)
    except StoreError as problem:
        return _fail(str(problem), EXIT_NO_STORE)
    except BrokenPipeError:
        # Such as `projects | head -1`, which has read enough.
        drop_what_nobody_reads()
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return _fail("interrupted; what is done is done, and it may be repeated", EXIT_INTERRUPTED)
    return 0


async def _run(parsed: argparse.Namespace, settings: StoreSettings) -> None:
    async with open_store(settings) as store:
        await parsed.run(store, parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m profile_store",
        description="Projects, keys and data in the database that the environment variables MONGODB_URL and "
        "MONGODB_DATABASE name. See docs/projects.md.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    project_commands.add_to(verbs)
    roll_up_command.add_to(verbs)
    return parser


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"profile_store: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
