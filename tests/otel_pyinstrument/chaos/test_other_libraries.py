"""An application whose libraries are as they are, or whose templates, threads or server have changed."""

from __future__ import annotations

import pytest

from tests.otel_pyinstrument.chaos import cases


@pytest.mark.parametrize(("scenario", "profiles"), cases.PROFILES.items())
def test_the_libraries_as_they_are_cause_no_warning(scenario: str, profiles: int, application) -> None:
    usual = application.undisturbed(scenario)

    assert usual["warnings"] == []
    assert usual["profiles"] + usual["logs"] == profiles
    assert usual["flushed"] == (scenario == cases.FASTAPI)


@pytest.mark.parametrize("case", cases.NAMES_OF_OTHERS, ids=str)
def test_a_name_is_gone(case: cases.Case, application) -> None:
    application.runs_without_name(case)
