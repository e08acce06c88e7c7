"""compose.yaml: valid, closed to the outside, and made of commands and settings that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from all_in_one.demos import FLASK
from all_in_one.ports import LOOPBACK
from all_in_one.services import LOAD_PER_SECOND, LOAD_REQUESTS
from all_in_one.settings import ServerSettings
from collector_receiver.admission import MAX_BYTES_IN_FLIGHT
from collector_receiver.settings import ReceiverSettings
from profile_store import StoreSettings
from profile_store.mongodb.set_up import SetUpSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text("utf-8")
ONCE = {"database-setup", "collector-queue", "visitors"}
"""Services that end by themselves."""
NO_SHELL = {"collector"}
"""Images without any program for a health check; docs/operations.md says how to ask instead."""


def test_the_manual_makes_a_project_key_in_a_service_that_reaches_the_data(compose) -> None:
    command = r"^\$ docker compose exec (\S+) python -m profile_store create-project \S+$"
    (service,) = re.findall(command, (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)

    assert "MONGODB_URL" in compose["services"][service]["environment"]


def test_it_follows_the_compose_specification() -> None:
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            ROOT / "compose.yaml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_without_a_secret_nothing_starts_and_the_variable_is_named(compose_with, secrets) -> None:
    for name in secrets:
        with pytest.raises(Exception, match=f"^{name}: set {name} in .env"):
            compose_with({key: value for key, value in secrets.items() if key != name})


def test_no_secret_has_a_default() -> None:
    variables = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    secret = {(name, form) for name, form in variables if re.search("PASSWORD|TOKEN|SECRET|KEY", name)}
    assert secret
    assert all(form.startswith(":?") for _, form in secret)
    # And none is written out: after a name that sounds like one stands a variable
    for line in TEXT.splitlines():
        if found := re.match(r"\s+\w*(PASSWORD|TOKEN|SECRET)\w*:\s*(.+)", line):
            assert found[2].strip('"').startswith("${"), line


def test_only_this_machine_reaches_a_port_unless_somebody_says_otherwise(
    compose, compose_with, secrets
) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) >= 6
    assert all(port.startswith("127.0.0.1:") for port in ports)
    published = [int(port.split(":")[1]) for port in ports]
    assert len(set(published)) == len(published)
    assert (
        "0.0.0.0:8000:8000"
        in compose_with({**secrets, "PUBLISH_HOST": "0.0.0.0"})["services"]["server"]["ports"]
    )


def test_no_service_is_told_of_loopback_where_only_its_own_container_is(compose) -> None:
    for name, service in compose["services"].items():
        told = [*service["command"], *service.get("environment", {}).values()]
        assert not re.search(r"127\.|localhost|\[::1\]", "\n".join(told)), name


def test_the_database_is_on_a_network_without_a_way_out_and_publishes_nothing(compose) -> None:
    assert compose["networks"]["database"]["internal"] is True
    for name in ("mongodb", "redis", "database-setup", "worker"):
        assert compose["services"][name]["networks"] == ["database"]
        assert "ports" not in compose["services"][name]


def test_every_image_has_a_version(compose) -> None:
    for name, service in compose["services"].items():
        image, _, version = service["image"].rpartition(":")
        assert image, f"{name}: no version"
        assert version != "latest"
        assert "." not in image.partition("/")[0], f"{name} names a registry"


def test_the_collector_is_the_one_that_is_tested_with_our_file(compose) -> None:
    collector = compose["services"]["collector"]
    tested = yaml.safe_load((ROOT / "tests/collector/builder.yaml").read_text("utf-8"))["dist"]["version"]
    assert collector["image"].endswith(f":{tested}")
    (mounted,) = [volume for volume in collector["volumes"] if "yaml" in volume]
    source, target, mode = mounted.split(":")
    assert (ROOT / source).is_file()
    assert mode == "ro"
    assert collector["command"] == [f"--config={target}"]
    known = set(re.findall(r"\$\{env:(\w+)", (ROOT / "otel-collector.yaml").read_text("utf-8")))
    assert set(collector["environment"]) - {"GOMEMLIMIT"} <= known


def test_the_collector_sends_no_more_at_one_time_than_the_receiver_admits() -> None:
    exporters = yaml.safe_load((ROOT / "otel-collector.yaml").read_text("utf-8"))["exporters"]
    queues = [exporter["sending_queue"] for exporter in exporters.values() if "sending_queue" in exporter]
    assert queues
    for queue in queues:
        assert queue["num_consumers"] * queue["batch"]["max_size"] <= MAX_BYTES_IN_FLIGHT


def test_every_service_is_bounded_and_starts_again(compose) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"] == "unless-stopped" or name in ONCE, name
        if name not in ONCE | NO_SHELL:
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_our_services_have_no_rights_and_write_nothing(compose) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert not service.get("privileged"), name
            if name != "collector-queue":
                assert "user" not in service, name
                assert "cap_add" not in service, name
                assert "volumes" not in service, name


def test_whoever_waits_for_a_service_waits_for_something_that_happens(compose) -> None:
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "test" in services[other]["healthcheck"], name
                case "service_completed_successfully":
                    assert other in ONCE, name
            # A service of a profile may wait for one that always starts, not the other way round.
            assert set(services[other].get("profiles", ())) <= set(service.get("profiles", ())), name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("database-setup", [SetUpSettings]),
        ("receiver", [ReceiverSettings, SetUpSettings]),
        ("server", [ServerSettings, SetUpSettings]),
        ("worker", [StoreSettings]),
    ],
)
def test_every_variable_is_a_setting(name, settings, compose) -> None:
    known = {field.alias or name.upper() for kind in settings for name, field in kind.model_fields.items()}

    assert set(compose["services"][name]["environment"]) <= known


def test_statistics_are_computed_by_the_worker_and_not_beside_the_pages(compose) -> None:
    services = compose["services"]
    assert services["worker"]["command"] == ["python", "-m", "profile_store", "roll-up", "--follow"]
    assert not services["worker"].get("profiles")
    assert services["server"]["environment"]["ROLL_UP"] == "false"


def test_the_administrator_of_the_database_is_known_to_the_setup_alone(compose) -> None:
    for name, service in compose["services"].items():
        knows = "root-password" in str(service.get("environment"))
        assert knows == (name in ("mongodb", "database-setup")), name


def test_the_demo_is_the_one_of_make_run(compose) -> None:
    services = compose["services"]
    shop = FLASK.command(8080)
    assert services["shop"]["command"] == [word.replace(LOOPBACK, "0.0.0.0") for word in shop]
    telemetry = FLASK.telemetry("http://collector:4317") | dict(FLASK.environment)
    assert telemetry.items() <= services["shop"]["environment"].items()
    assert set(services["shop"]["environment"]) - set(telemetry) == {"SHOP_DATABASE", "SUPPLIER_URL"}
    assert services["visitors"]["command"] == [
        *("python", "-m", "all_in_one.demo_load", "flask", "http://shop:8080"),
        *("--per-second", str(LOAD_PER_SECOND), "--requests", str(LOAD_REQUESTS)),
    ]
    for name in ("supplier", "shop", "visitors"):
        assert services[name]["profiles"] == ["demo"]
