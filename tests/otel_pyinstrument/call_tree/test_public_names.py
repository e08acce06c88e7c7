from __future__ import annotations

import ast
import sys
from pathlib import Path

from otel_pyinstrument import call_tree

PACKAGE = Path(call_tree.__file__).parent


def test_every_public_name_exists_and_none_is_missing():
    reexported = {
        alias.name
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }

    assert set(call_tree.__all__) == reexported


def test_nothing_but_the_standard_library_is_imported():
    imported = {
        name
        for file in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert {
        name
        for name in imported
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not name.startswith("otel_pyinstrument.call_tree.")
    } == set()
