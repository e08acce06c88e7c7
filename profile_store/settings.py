"""Where the data lives. Read from the environment; every process that opens a store has these settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# MongoDB: at most 63 bytes; these characters are not allowed in a database name on any platform.
_MAX_DATABASE_NAME_BYTES = 63
_FORBIDDEN_IN_DATABASE_NAMES = set('/\\. "$*<>:|?\0')


class StoreSettings(BaseSettings):
    """`MONGODB_URL` may hold a password, so it is a secret value that no repr shows."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    mongodb_url: SecretStr | None = Field(default=None, alias="MONGODB_URL")
    mongodb_database: str = Field(default="otel_pyinstrument", alias="MONGODB_DATABASE")
    data_dir: Path = Field(default=Path("data"), alias="DATA_DIR")

    @field_validator("mongodb_url")
    @classmethod
    def _has_the_scheme_of_mongodb(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return value

    @field_validator("mongodb_database")
    @classmethod
    def _is_a_database_name(cls, value: str) -> str:
        if not value or len(value.encode()) > _MAX_DATABASE_NAME_BYTES:
            raise ValueError(f"must be 1 to {_MAX_DATABASE_NAME_BYTES} bytes long")
        if forbidden := _FORBIDDEN_IN_DATABASE_NAMES & set(value):
            raise ValueError(f"must not contain {' '.join(sorted(map(repr, forbidden)))}")
        if value in {"admin", "config", "local"}:
            raise ValueError("is a system database of MongoDB, name another")
        return value
