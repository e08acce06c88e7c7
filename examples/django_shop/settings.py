"""Settings from the environment: `SHOP_DATABASE` (the sqlite file), `SUPPLIER_URL`, `SHOP_SERVER_TIMING`."""

import os
from pathlib import Path

from shop import timing

SECRET_KEY = "no cookie of this shop is signed"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "django_shop.urls"
INSTALLED_APPS = ["django_shop"]
MIDDLEWARE = ["django_shop.middleware.server_timing"] if timing.wanted() else []
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ.get("SHOP_DATABASE", "shop.sqlite3")).absolute(),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
TIME_ZONE = "UTC"

SUPPLIER_URL = os.environ.get("SUPPLIER_URL", "http://127.0.0.1:8081")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"]},
}
