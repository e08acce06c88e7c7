"""The demo shops: how each is started, as a user would type it, and what it needs in its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from all_in_one.ports import LOOPBACK

GUNICORN = (
    *("gunicorn", "--bind", f"{LOOPBACK}:{{port}}", "--worker-class", "gthread", "--workers", "2"),
    *("--threads", "4", "--graceful-timeout", "5", "--no-control-socket"),
)
# After 5 silent seconds uvicorn would kill a worker, and on a busy machine imports alone take longer.
UVICORN = (
    *("uvicorn", "--host", LOOPBACK, "--port", "{port}", "--workers", "2"),
    *("--timeout-worker-healthcheck", "60", "--timeout-graceful-shutdown", "5", "--no-access-log"),
)
VERSION = "1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One shop. Its service name is `<name>-shop`; `application` is loaded in `examples/`."""

    name: str
    title: str
    server: Sequence[str]
    application: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def service_name(self) -> str:
        """The project under which its requests are found."""
        return f"{self.name}-shop"

    def command(self, port: int) -> list[str]:
        """The shop in its server, started by `opentelemetry-instrument`; to be run in `examples/`."""
        server = [argument.format(port=port) for argument in self.server]
        return ["opentelemetry-instrument", *server, self.application]

    def telemetry(self, otlp_endpoint: str) -> dict[str, str]:
        """What a user would export before the command. Every request of the demo is profiled."""
        return {
            "OTEL_SERVICE_NAME": self.service_name,
            "OTEL_RESOURCE_ATTRIBUTES": f"service.version={VERSION},deployment.environment.name=demo",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
            "OTEL_PYTHON_EXCLUDED_URLS": "health",
            "OTEL_PYINSTRUMENT_RATE": "1",
            "OTEL_PYINSTRUMENT_CPU_BUDGET": "1",
        }


FLASK = Demo(name="flask", title="Flask in gunicorn", server=GUNICORN, application="flask_shop.app:app")
DJANGO = Demo(
    name="django",
    title="Django in gunicorn",
    server=GUNICORN,
    application="django_shop.wsgi:application",
    # The instrumentation of Django reads it before the application is loaded.
    environment={"DJANGO_SETTINGS_MODULE": "django_shop.settings"},
)
FASTAPI = Demo(name="fastapi", title="FastAPI in uvicorn", server=UVICORN, application="fastapi_shop.app:app")
DEMOS = {demo.name: demo for demo in (FLASK, DJANGO, FASTAPI)}
