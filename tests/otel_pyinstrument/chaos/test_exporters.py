"""An application whose OpenTelemetry has changed in its log events or its exporters, one name at a time."""

from __future__ import annotations

import pytest

from tests.otel_pyinstrument.chaos import cases


@pytest.mark.parametrize("case", cases.NAMES_OF_EXPORTERS, ids=str)
def test_a_name_is_gone(case: cases.Case, application) -> None:
    application.runs_without_name(case)
