from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from uuid import UUID

import pytest

from otel_pyinstrument import environment_variables
from otel_pyinstrument.http_methods import METHODS, OTHER_METHOD
from otel_pyinstrument.path_patterns import PathPatterns
from otel_pyinstrument.settings import Settings, read_settings, resolve_settings, shown_value, variable_of

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"
VARIABLES = {name for name in dir(environment_variables) if name.startswith("OTEL_")}


def test_nothing_given_means_the_defaults() -> None:
    assert read_settings({}, {}) == Settings()


def test_the_environment_is_read() -> None:
    settings = read_settings(
        {
            "OTEL_PYINSTRUMENT_ENABLED": "false",
            "OTEL_PYINSTRUMENT_RATE": "0.25",
            "OTEL_PYINSTRUMENT_ENDPOINT_RATES": "GET /orders/{id}=0.5, /health=0,",
            "OTEL_PYINSTRUMENT_MAX_CONCURRENT": "7",
            "OTEL_PYINSTRUMENT_INTERVAL": "2.5",
            "OTEL_PYINSTRUMENT_MAX_DURATION": "90",
            "OTEL_PYINSTRUMENT_CPU_BUDGET": "0.05",
            "OTEL_PYINSTRUMENT_SLOW_THRESHOLD": "0.3",
            "OTEL_PYINSTRUMENT_SLOW_RATE": "0.5",
            "OTEL_PYINSTRUMENT_ERROR_RATE": "0.6",
            "OTEL_PYINSTRUMENT_INCLUDE": "/api/*, POST /orders",
            "OTEL_PYINSTRUMENT_EXCLUDE": "/health,OPTIONS,",
            "OTEL_PYINSTRUMENT_PLATFORM_URL": "http://127.0.0.1:8000/",
            "OTEL_PYINSTRUMENT_PROJECT_KEY": "opk_1",
        },
        {},
    )

    assert settings == Settings(
        enabled=False,
        rate=0.25,
        endpoint_rates=("GET /orders/{id}=0.5", "/health=0"),
        max_concurrent=7,
        interval=2.5,
        max_duration=90,
        cpu_budget=0.05,
        slow_threshold=0.3,
        slow_rate=0.5,
        error_rate=0.6,
        include=("/api/*", "POST /orders"),
        exclude=("/health", "OPTIONS"),
        platform_url="http://127.0.0.1:8000",
        project_key="opk_1",
    )
    assert settings.interval_seconds == 0.0025


def test_the_transport_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/shop")

    settings = read_settings(
        {
            "OTEL_PYINSTRUMENT_EVENT": "LOG",
            "OTEL_PYINSTRUMENT_MAX_REQUEST_BYTES": "1000000",
            "OTEL_PYINSTRUMENT_SPOOL_DIR": "~/spool",
            "OTEL_PYINSTRUMENT_SPOOL_MAX_BYTES": "5000000",
            "OTEL_PYINSTRUMENT_SPOOL_MAX_AGE": "60",
        },
        {},
    )

    assert settings == Settings(
        event="log",
        max_request_bytes=1_000_000,
        spool_dir="/home/shop/spool",
        spool_max_bytes=5_000_000,
        spool_max_age=60,
    )


def test_an_argument_wins_over_the_environment() -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "0.25"}, {"rate": 0.5}).rate == 0.5


def test_an_explicit_zero_survives() -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "0"}, {}).rate == 0
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "1"}, {"rate": 0, "enabled": False}).rate == 0
    assert read_settings({}, {"max_concurrent": 0}).max_concurrent == 0


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_not_set(empty: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": empty}, {}).rate == Settings().rate
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RATE", "often"),
        ("RATE", "1.5"),
        ("RATE", "-0.1"),
        ("RATE", "nan"),
        ("RATE", "inf"),
        ("INTERVAL", "0"),
        ("INTERVAL", "10 ms"),
        ("MAX_DURATION", "-1"),
        ("MAX_CONCURRENT", "1.5"),
        ("MAX_CONCURRENT", "-1"),
        ("ENABLED", "perhaps"),
        ("EVENT", "metric"),
        ("MAX_REQUEST_BYTES", "1000"),
        ("SPOOL_MAX_BYTES", "1"),
        ("SPOOL_MAX_AGE", "forever"),
        ("RATE", "9" * 1000),
        ("CPU_BUDGET", "2"),
        ("SLOW_THRESHOLD", "1s"),
        ("EXCLUDE", "health"),
        ("PLATFORM_URL", "127.0.0.1:8000"),
        ("PLATFORM_URL", "file:///etc/passwd"),
    ],
)
def test_a_bad_value_warns_once_with_name_value_and_default(
    variable: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    # When a variable holds nonsense
    settings = read_settings({f"OTEL_PYINSTRUMENT_{variable}": value}, {})

    # Then the default is used and one line says so
    assert settings == Settings()
    (record,) = caplog.records
    default = shown_value(Settings()._asdict()[variable.lower()])
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"OTEL_PYINSTRUMENT_{variable}={value[:80]}: expected ")
    assert record.getMessage().endswith(f"using the default {default}")


@pytest.mark.parametrize(
    ("name", "bad", "expected"),
    [
        ("enabled", 1.0, "expected true or false"),
        ("enabled", ["true"], "expected true or false"),
        ("rate", True, "expected a number"),
        ("rate", [1], "expected a number"),
        ("cpu_budget", True, "expected a number"),
        ("interval", True, "expected a number"),
        ("interval", {"ms": 5}, "expected a number"),
        ("max_concurrent", True, "expected a whole number"),
        ("max_concurrent", 2.7, "expected a whole number"),
        ("max_concurrent", math.inf, "expected a whole number"),
        ("max_concurrent", [2], "expected a whole number"),
        ("spool_max_bytes", 5e6 + 0.5, "expected a whole number"),
        ("event", True, "expected span or log"),
        ("spool_dir", True, "expected a path"),
        ("spool_dir", 7, "expected a path"),
        ("spool_dir", ["/var/spool"], "expected a path"),
        ("config_file", True, "expected a path"),
        ("config_file", False, "expected a path"),
        ("config_file", b"settings.yaml", "expected a path"),
        ("mask", {"session": 1}, "expected names"),
        ("mask", True, "expected names"),
        ("exclude", {"/health": 1}, "expected patterns"),
        ("exclude", True, "expected patterns"),
        ("exclude", 5, "expected patterns"),
        ("platform_url", ["http://127.0.0.1:8000"], "expected text"),
        ("platform_url", True, "expected text"),
        ("project_key", ["a", "b"], "expected text"),
        ("project_key", True, "expected text"),
        ("project_key", 1.5, "expected text"),
    ],
)
def test_a_value_of_another_type_warns_once_and_the_default_holds(
    name: str, bad: object, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    # When code or a file gives what only looks like a value
    settings, origins = resolve_settings({}, {name: bad})

    # Then it is not taken for one
    assert settings == Settings()
    assert origins[name] == "default, because the value in code is bad"
    (record,) = caplog.records
    shown = "***" if name == "project_key" else str(bad)
    assert record.getMessage().startswith(f"{name}={shown}: {expected}")
    assert record.getMessage().endswith(f"using the default {shown_value(Settings()._asdict()[name])}")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("rate", 1, 1.0),
        ("rate", "1", 1.0),
        ("max_concurrent", 2.0, 2),
        ("max_concurrent", "2", 2),
        ("spool_dir", Path("/var/spool"), "/var/spool"),
        ("mask", ("Session", "ssn"), ("session", "ssn")),
        ("exclude", ("/health",), ("/health",)),
        ("exclude", {"/health"}, ("/health",)),
        ("exclude", frozenset({"/health"}), ("/health",)),
        ("include", {"/api/*": 1}.keys(), ("/api/*",)),
        ("include", set(), ()),
        ("project_key", UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("project_key", 123, "123"),
    ],
)
def test_a_value_may_have_each_type_that_says_the_same(
    name: str, given: object, read: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_settings({}, {name: given}).settings == Settings()._replace(**{name: read})
    assert caplog.records == []


@pytest.mark.parametrize(
    "bad",
    [
        "/a",
        "/a=",
        "/a=often",
        "/a=1.5",
        "/a=-0.1",
        "/a=nan",
        "a=1",
        "get /a=1",
        "GET=1",
        "/a/*=1",
        "=1",
    ],
)
def test_a_bad_endpoint_rate_is_named_with_the_remedy_and_the_others_hold(
    bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    # When one entry of several is nonsense
    value = f"GET /orders/{{id}}=0.5,{bad},/health=0"
    settings, origins = resolve_settings({"OTEL_PYINSTRUMENT_ENDPOINT_RATES": value}, {})

    # Then one line says which and what is expected, and the rest is used
    assert settings == Settings(endpoint_rates=("GET /orders/{id}=0.5", "/health=0"))
    assert origins["endpoint_rates"].endswith("without what is bad")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"OTEL_PYINSTRUMENT_ENDPOINT_RATES={bad}: expected entries like GET /orders/{{id}}=0.5 or /health=0, "
        "without *, with rates from 0 to 1; the others hold"
    )


@pytest.mark.parametrize("name", ["include", "exclude"])
@pytest.mark.parametrize("bad", ["health", "get /a", "/" + "a" * 500])
def test_a_bad_pattern_is_named_with_the_remedy_and_the_others_hold(
    name: str, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    # When one entry of several is nonsense
    settings, origins = resolve_settings({variable_of(name): f"/health, {bad},OPTIONS"}, {})

    # Then one line says which and what is expected, and the rest is used
    assert settings == Settings()._replace(**{name: ("/health", "OPTIONS")})
    assert origins[name] == f"environment ({variable_of(name)}), without what is bad"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{variable_of(name)}={bad[:80]}: expected patterns like /orders/*")
    assert record.getMessage().endswith("; the others hold")


@pytest.mark.parametrize(
    ("name", "given", "bad", "good"),
    [
        ("exclude", ["/health", 7, {"/a": 1}], "7, {'/a': 1}", ("/health",)),
        ("mask", ["Session", 7], "7", ("session",)),
        ("endpoint_rates", ["/a=1", 7], "7", ("/a=1",)),
        ("exclude", ["/a"] * 200 + ["/b"], "/b", ("/a",) * 200),
    ],
)
def test_an_entry_of_another_type_and_one_too_many_cost_only_themselves(
    name: str, given: object, bad: str, good: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_settings({}, {name: given}) == Settings()._replace(**{name: good})

    (record,) = caplog.records
    assert record.getMessage().startswith(f"{name}={bad}: expected ")


@pytest.mark.parametrize("bad", ["health", "get /a,b", [5], {"/a": 1}, True])
def test_an_include_without_a_good_pattern_includes_nothing(
    bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    # When nothing that somebody wants to include can be read
    settings, origins = resolve_settings({}, {"include": bad})

    # Then that does not widen what is profiled to everything
    included = PathPatterns(settings.include)
    assert included
    assert not any(included.match(method, "/a") for method in {*METHODS, OTHER_METHOD, "HTTP", ""})
    assert settings == Settings(include=settings.include)
    assert origins["include"] == "code, without what is bad"
    (record,) = caplog.records
    assert record.getMessage().startswith(f"include={bad}: expected patterns")
    assert record.getMessage().endswith("; no request is profiled until one is right")


@pytest.mark.parametrize("empty", [",", [], ["", None]])
def test_a_list_of_nothing_is_no_limit_and_no_warning(
    empty: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_settings({}, {"include": empty, "exclude": empty, "mask": empty}) == Settings()
    assert caplog.records == []


@pytest.mark.parametrize("bad", [5, True, object()])
def test_endpoint_rates_of_another_type_are_refused_as_a_whole(
    bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_settings({}, {"endpoint_rates": bad}) == Settings()

    (record,) = caplog.records
    assert record.getMessage().startswith("endpoint_rates=")
    assert record.getMessage().endswith("with rates from 0 to 1; using the default none")


def test_a_password_in_an_address_that_is_refused_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    settings = read_settings({"OTEL_PYINSTRUMENT_PLATFORM_URL": "http://user:secret@shop.example"}, {})

    assert settings == Settings()
    (record,) = caplog.records
    assert record.getMessage().startswith("OTEL_PYINSTRUMENT_PLATFORM_URL=http://shop.example: expected ")
    assert "secret" not in record.getMessage()


def test_a_bad_argument_does_not_fall_back_to_the_environment(caplog: pytest.LogCaptureFixture) -> None:
    assert read_settings({"OTEL_PYINSTRUMENT_RATE": "1"}, {"rate": object()}).rate == Settings().rate
    assert "rate=" in caplog.text


def test_an_unknown_option_is_named(caplog: pytest.LogCaptureFixture) -> None:
    read_settings({}, {"rat": 1})

    (record,) = caplog.records
    assert "rat;" in record.getMessage()


def test_every_setting_has_a_variable_and_every_variable_a_setting() -> None:
    assert {variable_of(name) for name in Settings()._asdict()} == VARIABLES
    assert all(getattr(environment_variables, name) == name for name in VARIABLES)


def test_the_reference_names_every_variable_with_its_default() -> None:
    # Given the table of the documentation
    rows = dict(
        re.findall(r"^\| `(OTEL_PYINSTRUMENT_\w+)` \| `?([^`|]+?)`? \|", REFERENCE.read_text("utf-8"), re.M)
    )

    # Then it says what the code does
    assert rows == {variable_of(name): shown_value(value) for name, value in Settings()._asdict().items()}


# --- sources -----------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "pyinstrument.yaml"
    path.write_text("rate: 0.1\ninterval: 5\nmax_duration: 60\n", "utf-8")
    return path


def test_code_wins_over_environment_over_file_over_default(config_file: Path) -> None:
    settings, origins = resolve_settings(
        {
            "OTEL_PYINSTRUMENT_CONFIG_FILE": str(config_file),
            "OTEL_PYINSTRUMENT_INTERVAL": "6",
            "OTEL_PYINSTRUMENT_MAX_DURATION": "70",
        },
        {"max_duration": 80},
    )

    assert (settings.rate, settings.interval, settings.max_duration) == (0.1, 6, 80)
    assert settings.max_concurrent == Settings().max_concurrent
    assert origins["rate"] == f"file ({config_file})"
    assert origins["interval"] == "environment (OTEL_PYINSTRUMENT_INTERVAL)"
    assert origins["max_duration"] == "code"
    assert origins["max_concurrent"] == "default"
    assert list(origins) == list(settings._asdict())


def test_the_file_may_be_named_in_code(config_file: Path) -> None:
    assert read_settings({}, {"config_file": str(config_file)}).rate == 0.1


@pytest.mark.parametrize("path", [True, 5, ["pyinstrument.yaml"]])
def test_what_is_no_path_in_code_does_not_fall_back_to_the_file_of_the_variable(
    path: object, config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # When code names no file, and a variable one
    settings = read_settings({"OTEL_PYINSTRUMENT_CONFIG_FILE": str(config_file)}, {"config_file": path})

    # Then, as of any other setting, the bad value in code does not fall back to the variable
    assert settings == Settings()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"config_file={path}: expected a path")


def test_yaml_that_looks_right_and_has_another_type_is_refused(
    config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_file.write_text(
        "rate: yes\ninterval: true\nmax_concurrent: 2.7\nspool_dir: true\nexclude: {/health: 1}\n"
        "project_key: [a, b]\n",
        "utf-8",
    )

    assert read_settings({}, {"config_file": str(config_file)}) == Settings(config_file=str(config_file))

    said = [record.getMessage() for record in caplog.records]
    names = [text.removeprefix(f"{config_file}: ").partition("=")[0] for text in said]
    assert sorted(names) == ["exclude", "interval", "max_concurrent", "project_key", "rate", "spool_dir"]


def test_an_explicit_zero_in_a_file_survives(config_file: Path) -> None:
    config_file.write_text("rate: 0\nenabled: false\n", "utf-8")

    settings = read_settings({}, {"config_file": str(config_file)})

    assert (settings.rate, settings.enabled) == (0, False)


@pytest.mark.parametrize(
    "given",
    [
        "GET /orders/{id}=0.5, /health=0",
        ["GET /orders/{id}=0.5", "/health=0"],
        {"GET /orders/{id}": 0.5, "/health": 0},
        {"GET /orders/{id}": "0.5", "/health": "0"},
    ],
)
def test_endpoint_rates_are_a_text_a_list_or_a_mapping_in_code(given: object) -> None:
    assert read_settings({}, {"endpoint_rates": given}).endpoint_rates == (
        "GET /orders/{id}=0.5",
        "/health=0",
    )


def test_endpoint_rates_are_a_mapping_in_a_file(config_file: Path) -> None:
    config_file.write_text("endpoint_rates:\n  GET /orders/{id}: ${ORDERS}\n  /health: 0\n", "utf-8")

    settings = read_settings({"ORDERS": "0.5"}, {"config_file": str(config_file)})

    assert settings.endpoint_rates == ("GET /orders/{id}=0.5", "/health=0")


def test_a_bad_value_and_an_unknown_name_in_a_file_are_named(
    config_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config_file.write_text("rate: often\nrat: 1\nconfig_file: other.yaml\nexclude: [1]\n", "utf-8")

    assert read_settings({}, {"config_file": str(config_file)}) == Settings(config_file=str(config_file))

    unknown, rate, exclude = [record.getMessage() for record in caplog.records]
    assert unknown.startswith(f"{config_file}: unknown options config_file, rat; known are enabled, rate")
    assert rate == f"{config_file}: rate=often: expected a number; using the default 0.02"
    assert exclude.startswith(f"{config_file}: exclude=[1]: expected patterns")


def test_a_file_that_cannot_be_used_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "missing.yaml")

    assert read_settings({"OTEL_PYINSTRUMENT_CONFIG_FILE": path}, {}) == Settings(config_file=path)

    (record,) = caplog.records
    assert record.getMessage().startswith(f"OTEL_PYINSTRUMENT_CONFIG_FILE={path}: the file cannot be read")


def test_an_unknown_variable_is_named(caplog: pytest.LogCaptureFixture) -> None:
    read_settings({"OTEL_PYINSTRUMENT_RAET": "1", "OTEL_SERVICE_NAME": "shop"}, {})

    (record,) = caplog.records
    assert record.getMessage().startswith("Unknown variables OTEL_PYINSTRUMENT_RAET; known are OTEL_")


def test_a_bad_project_key_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    read_settings({"OTEL_PYINSTRUMENT_PROJECT_KEY": "secret\n\x00"}, {})

    assert "PROJECT_KEY=***: expected text" in caplog.text
    assert "secret" not in caplog.text


def test_a_platform_without_a_key_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = read_settings({"OTEL_PYINSTRUMENT_PLATFORM_URL": "http://127.0.0.1:8000"}, {})

    assert not settings.asks_for_rules
    assert "OTEL_PYINSTRUMENT_PROJECT_KEY is not" in caplog.text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), True),
        (Settings(enabled=False), False),
        (Settings(rate=0), False),
        (Settings(rate=0, platform_url="http://a", project_key="k"), True),
        (Settings(rate=0, endpoint_rates=("/a=1",)), True),
        (Settings(cpu_budget=0), False),
        (Settings(max_concurrent=0), False),
    ],
)
def test_it_is_known_when_nothing_can_be_profiled(settings: Settings, expected: bool) -> None:
    assert settings.profiles_anything is expected
