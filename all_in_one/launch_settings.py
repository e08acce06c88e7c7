"""What `python -m all_in_one` reads from the environment: the settings of its services, and the demo's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from all_in_one.settings import ServerSettings, settings_problems
from collector_receiver.settings import InvalidSettings, ReceiverSettings
from collector_receiver.settings import load as load_receiver_settings
from profile_store.settings import StoreSettings


class BadSettings(Exception):
    """One line per variable: its name, its value, what is wrong."""


class DemoSettings(ServerSettings):
    """The server's settings, and those that only the demo has."""

    shop_port: int = Field(default=8080, ge=0, le=65_535)
    """Port of the demo shop; 0 takes any free one."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Read before anything starts, by the services' own classes, so that a mistake is told at once."""

    server: DemoSettings
    receiver: ReceiverSettings
    store: StoreSettings

    @classmethod
    def from_environment(cls, *, with_demo: bool = False) -> LaunchSettings:
        """Read everything, and refuse what could not work together.

        Raises:
            BadSettings: naming every bad variable of the first service that has one.
        """
        try:
            settings = cls(
                server=DemoSettings(),
                receiver=load_receiver_settings(ReceiverSettings),
                store=StoreSettings(),
            )
        except ValidationError as error:
            raise BadSettings("\n".join(settings_problems(error))) from error
        except InvalidSettings as error:
            raise BadSettings(str(error)) from error
        if problems := list(settings._contradictions(with_demo=with_demo)):
            raise BadSettings("\n".join(problems))
        return settings

    def _contradictions(self, *, with_demo: bool) -> Iterator[str]:
        if not self.server.on_loopback and self.server.admin_token is None:
            yield (
                f"BIND_HOST={self.server.bind_host}: beyond loopback the web interface and the API answer"
                " nobody without ADMIN_TOKEN; set ADMIN_TOKEN (make one with: openssl rand -hex 24), or use"
                " BIND_HOST=127.0.0.1"
            )
        if with_demo and self.receiver.otlp_tls_certificate is not None:
            yield (
                f"OTLP_TLS_CERTIFICATE={self.receiver.otlp_tls_certificate}: the demo shop sends in plain"
                " text, so the receiver would refuse its spans; start without the demo (--demo none, make run"
                " DEMO=none), or unset it"
            )
        if with_demo and self.receiver.ingest_mode != "open":
            yield (
                f"INGEST_MODE={self.receiver.ingest_mode}: the demo shop has no project key, so the receiver"
                " would refuse its spans; start without the demo (--demo none, make run DEMO=none), or use"
                " INGEST_MODE=open"
            )

    def data_directory(self, argument: str | None) -> Path:
        """The absolute data directory: `--data`, else DATA_DIR, else ./data."""
        return Path(argument or self.store.data_dir).absolute()
