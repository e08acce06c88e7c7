"""What `python -m all_in_one` reads from the environment: the settings of its services, and the demo's."""

from __future__ import annotations

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
    def from_environment(cls) -> LaunchSettings:
        """Read everything.

        Raises:
            BadSettings: naming every bad variable of the first service that has one.
        """
        try:
            return cls(
                server=DemoSettings(),
                receiver=load_receiver_settings(ReceiverSettings),
                store=StoreSettings(),
            )
        except ValidationError as error:
            raise BadSettings("\n".join(settings_problems(error))) from error
        except InvalidSettings as error:
            raise BadSettings(str(error)) from error

    def data_directory(self, argument: str | None) -> Path:
        """The absolute data directory: `--data`, else DATA_DIR, else ./data."""
        return Path(argument or self.store.data_dir).absolute()
