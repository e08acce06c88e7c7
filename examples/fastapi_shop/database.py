"""The sqlite database, whose sessions are a dependency of the endpoints."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

PATH = Path(os.environ.get("SHOP_DATABASE", "shop.sqlite3")).absolute()
engine = create_engine(f"sqlite:///{PATH}")


def open_session() -> Iterator[Session]:
    """One session per request."""
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(open_session)]
