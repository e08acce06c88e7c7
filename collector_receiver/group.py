"""What one process of a receiver knows of the others."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias

Order: TypeAlias = Literal["stop", "hurry"]
Report: TypeAlias = Literal["serving"]


@dataclass(frozen=True, slots=True)
class Member:
    """One of several processes on the same ports, or the only one."""

    process: int = 0
    """Its number, from 0; who takes the place of a dead one has the same."""
    snapshots: Path | None = None
    """Private directory of the group for `Snapshots`."""
    orders: Connection[Report, Order] | None = None
    """To the process that started this one: hears that this one serves, says when to stop."""

    @property
    def shares_ports(self) -> bool:
        return self.orders is not None


ALONE = Member()
