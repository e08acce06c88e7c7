from __future__ import annotations

import pytest
from pydantic import ValidationError

from profile_store import StoreSettings


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("MONGODB_URL", "mongodb://ada:hidden@db/")
    monkeypatch.setenv("MONGODB_DATABASE", "mine")
    settings = StoreSettings()
    assert settings.mongodb_url.get_secret_value() == "mongodb://ada:hidden@db/"
    assert settings.mongodb_database == "mine"
    assert "hidden" not in repr(settings)


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("MONGODB_URL", "")
    assert StoreSettings().mongodb_url is None


@pytest.mark.parametrize(
    "name", ["", "a.b", "a b", "a$b", "a/b", "x" * 64, "é" * 32, "admin", "local", "config", "a\0b"]
)
def test_names_that_mongodb_refuses_are_refused_at_the_start(name):
    with pytest.raises(ValidationError, match="MONGODB_DATABASE"):
        StoreSettings(MONGODB_DATABASE=name)


@pytest.mark.parametrize("url", ["localhost:27017", "http://hidden@db", "postgres://hidden"])
def test_another_scheme_is_refused_without_repeating_the_address(url):
    with pytest.raises(ValidationError, match="MONGODB_URL") as caught:
        StoreSettings(MONGODB_URL=url)
    assert "hidden" not in str(caught.value)
