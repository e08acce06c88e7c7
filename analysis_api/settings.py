"""What the API needs to know of its surroundings, from environment variables."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ApiSettings(BaseSettings):
    """Settings of the API; each field is read from the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    bind_host: str = "127.0.0.1"
    """Address to listen on. Anonymous access is possible on a loopback address only."""

    admin_token: SecretStr | None = None
    """Bearer token that opens the API on other addresses; at least 16 printable ASCII characters."""

    max_request_size: int = Field(default=16 * 1024 * 1024, ge=1024, le=1024**3)
    """Largest request body in bytes."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Further names, separated by commas, by which clients may address a server on loopback."""

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(name.strip() for name in value.split(",") if name.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("admin_token")
    @classmethod
    def _strong(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not _can_be_sent_and_is_hard_to_guess(token.get_secret_value()):
            raise ValueError(
                "needs at least 16 printable ASCII characters, no spaces; make one with: openssl rand -hex 24"
            )
        return token

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.bind_host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without port and brackets, means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _can_be_sent_and_is_hard_to_guess(token: str) -> bool:
    return len(token) >= 16 and token.isascii() and token.isprintable() and " " not in token
