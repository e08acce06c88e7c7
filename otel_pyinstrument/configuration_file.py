"""A configuration file: JSON or YAML, with `${NAME}` and `${NAME:-default}` from the environment."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

_MAX_BYTES = 1_048_576
_REFERENCE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class BadConfigurationFile(ValueError):
    """It cannot be used at all. The message says why and never quotes the file, which may hold secrets."""


def read_configuration_file(path: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The options in the file, not yet checked.

    Variables are replaced inside texts, after parsing, so they can hold any character; `$$` is a dollar sign.

    Raises:
        BadConfigurationFile: unreadable, no JSON or YAML, or not a mapping of names to values.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadConfigurationFile(f"cannot be read ({reason or type(error).__name__})") from None
    if len(content) > _MAX_BYTES:
        raise BadConfigurationFile(f"is larger than {_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadConfigurationFile("is not UTF-8") from None
    parsed = _json(text) if path.lower().endswith(".json") else _yaml(text)
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise BadConfigurationFile("is not a mapping of names to values")
    options = cast("dict[object, Any]", parsed)
    try:
        return {str(name): _substituted(value, environ) for name, value in options.items()}
    except RecursionError:  # an alias of YAML may hold itself
        raise BadConfigurationFile("is nested too deeply") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadConfigurationFile(f"is not valid JSON (line {error.lineno}, {error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise BadConfigurationFile(f"is not valid JSON ({type(error).__name__})") from None


def _yaml(text: str) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        try:
            return _json(text)
        except BadConfigurationFile:
            raise BadConfigurationFile(
                "cannot be read as YAML: PyYAML is not installed. Install it (pip install pyyaml) or write "
                "the file as JSON, which always works"
            ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1})"
        raise BadConfigurationFile(f"is not valid YAML{place}") from None
    except (ValueError, RecursionError) as error:
        raise BadConfigurationFile(f"is not valid YAML ({type(error).__name__})") from None


def _substituted(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: _replacement(found, environ), value)
    if isinstance(value, list):
        return [_substituted(item, environ) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        entries = cast("dict[object, Any]", value)
        return {name: _substituted(item, environ) for name, item in entries.items()}
    return value


def _replacement(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name, default = found["name"], found["default"]
    if name is None:
        return "$"
    # As a shell does: empty counts as not set.
    return environ.get(name) or default or ""
