"""The process that served the request, from the resource and from what it says itself."""

from __future__ import annotations

from dataclasses import dataclass

from profile_store.model import Record, RecordDetail
from profile_store.request_facts.attribute_access import integer, text
from profile_store.request_facts.measured import measured


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """`memory_usage` in megabytes, `cpu_usage` 0..1 of all processors; None when nobody measured them."""

    hostname: str
    pid: int | None
    memory_usage: float | None = None
    cpu_usage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """`server_info` is what listened, "host:port"; `framework_version` is "flask 3.1.3"."""

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
    known = measured(detail.record)
    return ServerInfo(
        hostname=hostname(detail.record),
        pid=pid(detail.record),
        memory_usage=known.memory,
        cpu_usage=known.cpu_share,
    )


def hostname(record: Record) -> str:
    return text(record.resource, "host.name", "k8s.pod.name") or measured(record).host


def pid(record: Record) -> int | None:
    known = integer(record.resource, "process.pid")
    return measured(record).pid if known is None else known


def runtime(detail: RecordDetail) -> Runtime:
    """What the process ran on. The version of another language's runtime is no Python version."""
    record = detail.record
    runtime_name = text(record.resource, "process.runtime.name").lower()
    language = text(record.resource, "telemetry.sdk.language").lower()
    is_python = language == "python" or runtime_name in {"cpython", "pypy"}
    host = text(record.attributes, "server.address", "http.server_name", "net.host.name")
    port = integer(record.attributes, "server.port", "net.host.port")
    known = measured(record)
    return Runtime(
        python_version=(text(record.resource, "process.runtime.version") if is_python else "")
        or known.python,
        framework_version=known.framework,
        # Starlette's net.host.name has the port in it already.
        server_info=host if port is None or host.endswith(f":{port}") else f"{host}:{port}",
    )


def version_info(detail: RecordDetail) -> VersionInfo:
    """Which code it was."""
    return VersionInfo(
        app_version=detail.record.version,
        git_commit=text(detail.record.resource, "vcs.ref.head.revision", "vcs.repository.ref.revision")
        or measured(detail.record).commit,
    )
