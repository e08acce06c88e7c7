"""Settings of the receiver: environment variables, checked once at the start."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from collector_receiver.projects import MAX_PROJECTS, IngestMode

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Settings = TypeVar("Settings", bound=BaseSettings)

_ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
_ALL_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104 - recognised here, not bound


class InvalidSettings(Exception):
    """One line: the variable, its value, what is wrong and the remedy."""


class ReceiverSettings(BaseSettings):
    """The receiver's own settings; those of the store are `profile_store.settings.StoreSettings`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    bind_host: str = "127.0.0.1"
    """Address to listen on. Other than loopback only with INGEST_MODE set explicitly."""
    otlp_grpc_port: int = Field(default=4317, ge=0, le=65_535)
    """Port of OTLP/gRPC; 0 takes a free one."""
    otlp_http_port: int = Field(default=4318, ge=0, le=65_535)
    """Port of OTLP/HTTP; 0 takes a free one."""
    ingest_mode: IngestMode = "open"
    """open: unknown services become projects. key: only spans with a project's key are accepted."""
    max_projects: int = Field(default=MAX_PROJECTS, ge=1, le=1_000_000)
    """INGEST_MODE=open: with so many projects, a further unknown service makes no new one."""
    max_request_size: int = Field(default=16 * 1024 * 1024, ge=65_536, le=256 * 1024 * 1024)
    """Largest request in bytes, after decompression."""
    log_level: LogLevel = "INFO"
    """How much the receiver writes to stderr."""
    otlp_tls_certificate: Path | None = None
    """PEM file with the receiver's certificate and its chain; both ports then speak TLS and nothing else."""
    otlp_tls_key: Path | None = None
    """PEM file with the key of the certificate, without a passphrase."""
    otlp_tls_client_ca: Path | None = None
    """PEM file with certificate authorities; a client without a certificate of theirs is refused."""
    receiver_processes: int = Field(default=1, ge=1, le=64)
    """Processes that share the ports; more than one needs SO_REUSEPORT (Linux)."""
    status_port: int | None = Field(default=None, ge=0, le=65_535)
    """Port of its own for /healthz, /readyz and /metrics; without one the OTLP/HTTP port answers them."""
    status_host: str = "127.0.0.1"
    """Address of STATUS_PORT."""
    project_spans_per_second: int = Field(default=0, ge=0, le=1_000_000_000)
    """Spans that one project may send to one process, 0 for no limit."""
    project_bytes_per_second: int = Field(default=0, ge=0, le=1_000_000_000_000)
    """Bytes of spans that one project may send to one process, 0 for no limit."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, separated by commas, whose pages may send over OTLP/HTTP; `*` for all, none by default."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _capitals(cls, value: object) -> object:
        # A wrong one stays as it was written, for the message.
        return value.upper() if isinstance(value, str) and value.upper() in get_args(LogLevel) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(origin.strip() for origin in value.split(",") if origin.strip())
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin[:100]!r} is no origin; write scheme, host and port without a path, for example "
                    "https://shop.example or http://localhost:3000, several with commas between, or * for all"
                )
        return tuple(origin.lower() for origin in origins)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.otlp_http_port and self.otlp_http_port == self.otlp_grpc_port:
            raise ValueError(_same_port("OTLP_HTTP_PORT", self.otlp_http_port, "OTLP_GRPC_PORT"))
        if self.status_port and _may_overlap(self.status_host, self.bind_host):
            for name in ("otlp_grpc_port", "otlp_http_port"):
                if self.status_port == getattr(self, name):
                    raise ValueError(_same_port("STATUS_PORT", self.status_port, name.upper()))
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.otlp_tls_certificate is None) != (self.otlp_tls_key is None):
            set_one, missing = ("OTLP_TLS_CERTIFICATE", "OTLP_TLS_KEY")
            if self.otlp_tls_certificate is None:
                set_one, missing = missing, set_one
            raise ValueError(f"{set_one} is set and {missing} is not: TLS needs both")
        if self.otlp_tls_client_ca is not None and self.otlp_tls_certificate is None:
            raise ValueError(
                "OTLP_TLS_CLIENT_CA is set and OTLP_TLS_CERTIFICATE is not: clients can only be asked for "
                "certificates over TLS; set OTLP_TLS_CERTIFICATE and OTLP_TLS_KEY too"
            )
        return self

    @model_validator(mode="after")
    def _open_to_the_network_only_on_purpose(self) -> Self:
        if not is_loopback(self.bind_host) and "ingest_mode" not in self.model_fields_set:
            raise ValueError(
                f"BIND_HOST={self.bind_host}: anyone who reaches this address could store spans; set "
                "INGEST_MODE=key to accept only spans with a project key, or INGEST_MODE=open to allow this"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost is taken for reachable."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _same_port(variable: str, port: int, other: str) -> str:
    return f"{variable}={port}: {other} is the same port; give one of the two another (0: any free port)"


def _may_overlap(one: str, other: str) -> bool:
    """Whether a port of one address is taken by the other; two of one machine have their own ports."""
    return one == other or not {one, other}.isdisjoint(_ALL_ADDRESSES)


def load(kind: type[Settings]) -> Settings:
    """The settings of `kind` from the environment.

    Raises:
        InvalidSettings: with the first problem as one line.
    """
    try:
        return kind()
    except ValidationError as problems:
        problem = problems.errors(include_url=False)[0]
        what = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            raise InvalidSettings(what) from None
        name = str(problem["loc"][0]).upper()
        # A database address may hold a password.
        value = "***" if "URL" in name else str(problem["input"])[:100]
        raise InvalidSettings(f"{name}={value}: {what}; see docs/receiver.md") from None
