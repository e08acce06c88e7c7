"""Checks of what is installed: versions, private names, instrumentation of the frameworks."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from otel_pyinstrument import private_names, self_test
from otel_pyinstrument.command.service_settings import tracing_is_disabled
from otel_pyinstrument.command.verification.report import Report

PACKAGE = "otel-pyinstrument"
NEWEST_TESTED_PYTHON = (3, 13)

_FRAMEWORKS = ("flask", "django", "fastapi")
_DJANGO_SETTINGS = "DJANGO_SETTINGS_MODULE"


def check_versions(report: Report) -> None:
    """The Python version and the packages we need, against the ranges that our own package declares."""
    try:
        declared = metadata.metadata(PACKAGE)
        requirements = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        report.unchecked_because("versions", f"{PACKAGE} is not installed as a package (pip install)")
        return
    check_python(report, sys.version_info[:3], declared["Requires-Python"])
    fitting: list[str] = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        # Those with a marker belong to extras.
        if requirement.marker is None and (version := fitting_version(report, requirement)):
            fitting.append(f"{requirement.name} {version}")
    report.ok("packages", ", ".join(fitting))


def check_python(report: Report, version: tuple[int, ...], supported: str) -> None:
    """The running interpreter against `supported`, as in `>=3.10`."""
    shown = ".".join(map(str, version))
    if not SpecifierSet(supported).contains(shown, prereleases=True):
        report.problem(
            "Python", f"{shown} is not supported, {supported} is", "Run the service on a supported one."
        )
    elif version[:2] > NEWEST_TESTED_PYTHON:
        newest = ".".join(map(str, NEWEST_TESTED_PYTHON))
        report.note("Python", f"{shown}, newer than the newest that is tested, {newest}")
    else:
        report.ok("Python", shown)


def fitting_version(report: Report, requirement: Requirement) -> str:
    """The installed version; "" after a problem when there is none, or one out of range."""
    remedy = f"pip install '{requirement}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        report.problem("packages", f"{requirement.name} is not installed", remedy)
        return ""
    if requirement.specifier.contains(version, prereleases=True):
        return version
    wanted = requirement.specifier
    report.problem("packages", f"{requirement.name} {version} is not supported, {wanted} is", remedy)
    return ""


def check_private_names(report: Report) -> None:
    """That the libraries' inner parts are as we rely on; a hook is installed for a moment."""
    if tracing_is_disabled():
        report.unchecked_because("self-test", "the spans of a disabled SDK hold nothing")
        return
    try:
        private_names.silence_overhead_warning()
        private_names.keep_samplers_by_thread()
        self_test.check_sampler()
        hook = self_test.ending_hook_works()
    except (self_test.PrivateNameError, ImportError, AttributeError) as error:
        report.problem(
            "self-test",
            f"an installed library is not as we know it, so profiling switches itself off: {error}",
            "Install the newest otel-pyinstrument, or a version of that library from before the change.",
        )
        return
    finding = "samples are taken, and spans take a profile with them"
    report.ok("self-test", finding if hook else f"{finding} (as on older OpenTelemetry SDKs)")


def check_frameworks(report: Report) -> None:
    """Whether the installed web frameworks have their OpenTelemetry instrumentation."""
    for name in _FRAMEWORKS:
        if _is_installed(name) and not _is_installed(f"opentelemetry-instrumentation-{name}"):
            report.note(
                "framework",
                f"{name} is installed, but its requests have no spans and so no profiles: "
                f"pip install 'otel-pyinstrument[{name}]', or wrap the application in code",
            )


def check_django(report: Report) -> None:
    """Whether the instrumentation of Django finds the settings, which it reads before the service does."""
    if not (_is_installed("django") and _is_installed("opentelemetry-instrumentation-django")):
        return
    module = os.environ.get(_DJANGO_SETTINGS, "")
    if not module:
        report.note(
            "framework",
            f"{_DJANGO_SETTINGS} is not set: if this service is Django's, it answers 500 to every request "
            "until that is exported (its instrumentation reads it before wsgi.py or asgi.py sets it)",
        )
        return
    try:
        reason = "" if find_spec(module) else "there is no such module"
    except Exception as error:  # of the packages that it is in, which are imported for it
        reason = f"{type(error).__name__}: {error}"
    if reason:
        report.problem(
            "framework",
            f"{_DJANGO_SETTINGS}={module} cannot be imported: {reason}",
            "Start the service in the project's directory, or put that on PYTHONPATH.",
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
