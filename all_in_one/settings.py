"""Settings of the server that holds API and pages, and how a bad one is told."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, ValidationError, field_validator

from analysis_api.settings import ApiSettings

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_SHOWN_CHARACTERS = 60


class ServerSettings(ApiSettings):
    """Each field, and each of the API's, is read from the environment variable of its name in capitals."""

    http_port: int = Field(default=8000, ge=0, le=65535)
    """Port of API and pages; 0 takes any free one."""

    otlp_grpc_port: int = Field(default=4317, ge=0, le=65535)
    """Port of the receiver, which the empty project page tells people to send to."""

    roll_up: bool = True
    """Whether this server computes statistics. Off where `python -m profile_store roll-up --follow` does."""

    log_level: LogLevel = "INFO"
    """How much is logged to stderr."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _capitals(cls, value: object) -> object:
        # A wrong one stays as it was written, for the message.
        return value.upper() if isinstance(value, str) and value.upper() in get_args(LogLevel) else value


def settings_problems(raised: ValidationError) -> list[str]:
    """One line `NAME=value: what is wrong` for each bad environment variable; secrets are not shown."""
    return [
        f"{variable}={_shown(variable, error['input'])}: {error['msg'].removeprefix('Value error, ')}"
        for error in raised.errors(include_url=False)
        for variable in [str(error["loc"][0]).upper()]
    ]


def _shown(variable: str, value: object) -> str:
    if any(word in variable for word in ("TOKEN", "KEY", "PASSWORD", "SECRET", "URL")):
        return "***"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
