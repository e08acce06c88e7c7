"""An application whose libraries have functions that are there, but behave otherwise than we know them."""

from __future__ import annotations

import pytest

from tests.otel_pyinstrument.chaos import cases


@pytest.mark.parametrize("how", ["raises", "returns None", "takes other arguments"])
@pytest.mark.parametrize(("function", "effect"), cases.FUNCTIONS)
def test_a_function_has_changed_its_ways(function: str, effect: str, how: str, application) -> None:
    application.runs_with_another(function, how, effect)
