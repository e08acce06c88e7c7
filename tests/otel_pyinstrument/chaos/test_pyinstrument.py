"""An application whose pyinstrument has changed: every private name gone that we rely on, one by one."""

from __future__ import annotations

import pytest

from tests.otel_pyinstrument.chaos import cases


@pytest.mark.parametrize("case", cases.NAMES_OF_PYINSTRUMENT, ids=str)
def test_a_name_is_gone(case: cases.Case, application) -> None:
    application.runs_without_name(case)


@pytest.mark.parametrize(("module", "scenario", "effect"), cases.MODULES_OF_PYINSTRUMENT)
def test_a_module_is_gone(module: str, scenario: str, effect: str, application) -> None:
    application.runs_without_module(module, scenario, effect)
