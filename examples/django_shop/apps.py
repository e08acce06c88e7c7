"""The application, whose tables are made when it starts."""

from django.apps import AppConfig
from django.conf import settings

from shop import data


class ShopConfig(AppConfig):
    """The shop."""

    name = "django_shop"

    def ready(self) -> None:
        """Make and fill the database when it is not there yet."""
        data.prepare(settings.DATABASES["default"]["NAME"])
