from __future__ import annotations

import pytest

from otel_pyinstrument.call_tree import Frame


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("shop/orders.py", "shop.orders"),
        ("shop/__init__.py", "shop"),
        ("manage.py", "manage"),
        ("shop\\orders.py", "shop.orders"),
        ("/srv/app/orders.py", "srv.app.orders"),
        ("bin/gunicorn", "bin.gunicorn"),
        ("<frozen importlib._bootstrap>", ""),
        ("", ""),
    ],
)
def test_the_module_is_derived_from_the_file(file, module):
    assert Frame("load", file, 1, True).module == module
