"""The process that served the request, from the resource."""

from __future__ import annotations

from dataclasses import dataclass

from profile_store.model import RecordDetail
from profile_store.request_facts.attribute_access import integer, text


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """`memory_usage` in megabytes, `cpu_usage` 0..1; None as long as no sender measures them."""

    hostname: str
    pid: int | None
    memory_usage: float | None = None
    cpu_usage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """`server_info` is what listened, "host:port". No semantic convention carries `framework_version`."""

    python_version: str
    server_info: str
    framework_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """`deploy_time` is None: no semantic convention carries it."""

    app_version: str
    git_commit: str
    deploy_time: None = None


def server_info(detail: RecordDetail) -> ServerInfo:
    """Where the process ran."""
    resource = detail.record.resource
    return ServerInfo(
        hostname=text(resource, "host.name", "k8s.pod.name"), pid=integer(resource, "process.pid")
    )


def runtime(detail: RecordDetail) -> Runtime:
    """What the process ran on. The version of another language's runtime is no Python version."""
    record = detail.record
    runtime_name = text(record.resource, "process.runtime.name").lower()
    language = text(record.resource, "telemetry.sdk.language").lower()
    is_python = language == "python" or runtime_name in {"cpython", "pypy"}
    host = text(record.attributes, "server.address", "http.server_name", "net.host.name")
    port = integer(record.attributes, "server.port", "net.host.port")
    return Runtime(
        python_version=text(record.resource, "process.runtime.version") if is_python else "",
        server_info=host if port is None else f"{host}:{port}",
    )


def version_info(detail: RecordDetail) -> VersionInfo:
    """Which code it was."""
    return VersionInfo(
        app_version=detail.record.version,
        git_commit=text(detail.record.resource, "vcs.ref.head.revision", "vcs.repository.ref.revision"),
    )
