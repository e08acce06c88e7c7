"""What a record shows of the functions that its time is charged to, whichever way its profile came."""

from __future__ import annotations

from otel_pyinstrument.call_tree import CallTree, hot_functions
from profile_store.model import HotFunctionFacts


def hot_function_facts(tree: CallTree) -> tuple[HotFunctionFacts, ...]:
    """The hottest functions of `tree`, hottest first."""
    total_us = tree.duration_us
    return tuple(
        HotFunctionFacts(
            function=hot.frame.function,
            module=hot.frame.module,
            file=hot.frame.file,
            line=hot.frame.line,
            self_duration=hot.self_us / 1e6,
            duration=hot.total_us / 1e6,
            share=hot.self_us / total_us if total_us else 0.0,
        )
        for hot in hot_functions(tree)
    )
