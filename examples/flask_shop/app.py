"""The WSGI application. Run it from `examples/`: `gunicorn flask_shop.app:app`."""

import os
from pathlib import Path

from flask import Flask

from flask_shop import database, timing, views
from shop import data
from shop.timing import wanted


def create_app() -> Flask:
    """The shop, with its database made and filled when it is not there yet.

    `SHOP_DATABASE` names the sqlite file, `SUPPLIER_URL` the supplier's address, and `SHOP_SERVER_TIMING=1`
    adds a Server-Timing header to every response.
    """
    app = Flask(__name__)
    app.config["DATABASE"] = Path(os.environ.get("SHOP_DATABASE", "shop.sqlite3")).absolute()
    app.config["SUPPLIER_URL"] = os.environ.get("SUPPLIER_URL", "http://127.0.0.1:8081")
    data.prepare(app.config["DATABASE"])
    app.teardown_appcontext(database.close)
    if wanted():
        timing.report(app)
    app.register_blueprint(views.shop)
    return app


app = create_app()
