"""Hypothesis without clocks."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def take_all_time() -> None:
    """How long an example takes is a matter of the machine: as Hypothesis does by itself where CI=true."""
    settings.register_profile(
        "default",
        settings.get_profile("default"),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
