"""The services of compose.yaml as plain processes of this machine: containers without containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.free_ports import find_free_ports

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60

# Names of loopback that neither takes for loopback: what an open address asks for is asked for here too.
BIND_HOSTS = {"receiver": "LOCALHOST", "server": "127.1"}

# Where each listens in its container, and the setting for another port where compose.yaml names none.
PORTS: dict[str, dict[int, str]] = {
    "mongodb": {27017: ""},
    "receiver": {4317: "OTLP_GRPC_PORT", 4318: "OTLP_HTTP_PORT"},
    "server": {8000: "HTTP_PORT"},
    "collector": {4317: "", 4318: "", 13133: "", 8888: "METRICS_PORT"},
    "supplier": {8081: ""},
    "shop": {8080: ""},
}

# What the image's own entry point does: the first start makes the administrator, without access control and
# where nobody else reaches it.
ENTRYPOINT = """#!{python}
import os, subprocess, sys
from pathlib import Path
from pymongo import MongoClient
data = "{data}"
place = ["--dbpath", data, "--port", "{port}", "--nounixsocket", "--bind_ip"]
if not any(Path(data).iterdir()):
    first = subprocess.Popen(["{mongod}", *place, "127.0.0.2"], stdout=subprocess.DEVNULL)
    with MongoClient("127.0.0.2", {port}) as client:
        user, password = os.environ["MONGO_INITDB_ROOT_USERNAME"], os.environ["MONGO_INITDB_ROOT_PASSWORD"]
        client.admin.command("createUser", user, pwd=password, roles=["root"])
    first.terminate()
    first.wait()
assert sys.argv[1] == "mongod"
os.execv("{mongod}", ["mongod", *sys.argv[2:], "--auth", "--oplogSize", "64", *place, "127.0.0.1"])
"""


class Machine:
    """Stands for the containers: one address for all, other ports, the same commands and settings.

    Volumes and tmpfs are directories below `directory`, mounted files are those of the checkout.
    """

    def __init__(self, compose: dict[str, Any], image: dict[str, str], directory: Path, mongod: Path) -> None:
        self.services = compose["services"]
        self.image, self.directory = image, directory
        listens = [(name, port) for name, ports in PORTS.items() for port in ports]
        self.ports = dict(zip(listens, find_free_ports(len(listens)), strict=True))
        self.running: list[subprocess.Popen[str]] = []
        for place in (place for name in self.services for place in self.mounts(name).values()):
            if not place.exists():
                place.mkdir()
        entrypoint = directory / "bin" / "docker-entrypoint.sh"
        entrypoint.parent.mkdir()
        entrypoint.write_text(
            ENTRYPOINT.format(
                python=sys.executable,
                data=self.mounts("mongodb")["/data/db"],
                port=self.ports["mongodb", 27017],
                mongod=mongod,
            )
        )
        entrypoint.chmod(0o755)

    def mounts(self, name: str) -> dict[str, Path]:
        """Directories and files of a container, and where they lie on this machine."""
        service = self.services[name]
        places = {
            place: self.directory / f"{name}{place.replace('/', '-')}" for place in service.get("tmpfs", [])
        }
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            places[target] = ROOT / source if source.startswith(".") else self.directory / source
        return places

    def here(self, text: str, name: str = "") -> str:
        """A command or setting, of the service `name`, with the addresses and directories of this machine."""
        if mounts := self.mounts(name) if name else {}:
            text = re.sub("|".join(map(re.escape, mounts)), lambda found: str(mounts[found[0]]), text)
        for (service, port), free in self.ports.items():
            text = text.replace(f"{service}:{port}", f"127.0.0.1:{free}")
            if service == name:
                text = re.sub(rf"(127\.0\.0\.1:|0\.0\.0\.0:|^){port}\b", rf"\g<1>{free}", text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def environment(self, name: str) -> dict[str, str]:
        """What a service finds in its environment."""
        service = self.services[name]
        given = {key: self.here(value, name) for key, value in service.get("environment", {}).items()}
        path = os.pathsep.join(
            [str(self.directory / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        ports = {
            setting: str(self.ports[name, port]) for port, setting in PORTS.get(name, {}).items() if setting
        }
        coverage = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE")}
        image = self.image | {"BIND_HOST": BIND_HOSTS.get(name, "")} if "build" in service else {}
        return coverage | image | given | ports | {"PATH": path}

    def working_directory(self, name: str) -> Path:
        """The checkout, which the image has in /app, or what compose.yaml names."""
        return ROOT / self.services[name].get("working_dir", "/app").removeprefix("/app").lstrip("/")

    def run(self, name: str, command: Sequence[str], **changes: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose run` or `exec` would do."""
        return subprocess.run(
            [self.here(word, name) for word in command],
            env=self.environment(name) | changes,
            cwd=self.working_directory(name),
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_SECONDS,
        )

    def start(self, name: str, *entrypoint: str | Path) -> subprocess.Popen[str]:
        """Start a service, with the entry point of an image that has one."""
        with (self.directory / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*entrypoint, *(self.here(word, name) for word in self.services[name]["command"])],
                env=self.environment(name),
                cwd=self.working_directory(name),
                stdout=log,
                stderr=log,
                text=True,
            )
        self.running.append(process)
        return process

    def set_up(self) -> None:
        """Start the database, then what makes it ready."""
        self.start("mongodb")
        done = self.run("database-setup", self.services["database-setup"]["command"])
        assert done.returncode == 0, done.stderr

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service's health check."""
        return self.run(name, self.services[name]["healthcheck"]["test"][1:])

    def wait_until_healthy(self, name: str) -> None:
        """As `condition: service_healthy` does."""
        self.wait_for(lambda: self.check(name).returncode == 0, name)

    def wait_for(self, question: Callable[[], Any], name: str) -> Any:
        """The first true answer; a service's log says why there is none."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (answer := question()):
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.2)
        return answer

    def log(self, name: str) -> str:
        """What a service has written."""
        return (self.directory / f"{name}.log").read_text()

    def wait_for_line(self, name: str, text: str) -> None:
        """Until the service that was started last has written this."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in (log := self.log(name)):
            assert time.monotonic() < deadline, log
            assert self.running[-1].poll() is None, log
            time.sleep(0.05)

    def get(self, path: str, token: str = "") -> Any:
        """An answer of the server."""
        url = f"http://127.0.0.1:{self.ports['server', 8000]}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def kill(self) -> None:
        """Leave nothing running."""
        for process in self.running[::-1]:
            process.kill()
            process.wait()
