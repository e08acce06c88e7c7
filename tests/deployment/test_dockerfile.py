"""The image: nothing that should not be in it, everything that the services need."""

from __future__ import annotations

import fnmatch
import re
from itertools import takewhile
from pathlib import Path

import tomllib

from web.build_assets import NODE_PACKAGE

ROOT = Path(__file__).parents[2]

# The grammar as far as we use it; what Docker knows beyond that is added when it is used. The parser
# dockerfile-parse would not replace it: it splits a file into instructions and refuses no misspelt one.
DURATION = r"\d+(ms|s|m|h)"
FLAGS = {
    **{name: {} for name in ("CMD", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "WORKDIR")},
    "COPY": {"--from": r"[a-z]+"},
    "HEALTHCHECK": {
        **dict.fromkeys(["--interval", "--timeout", "--start-period"], DURATION),
        "--retries": r"\d+",
    },
}


def sources_of(stage) -> list[str]:
    """What a stage copies from the checkout."""
    copies = [each.words for each in stage if each.name == "COPY" and "--from=" not in each.text]
    return [source.rstrip("/") for words in copies for source in words[:-1]]


def is_sent_to_the_build(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that fits it or a parent decides."""
    sent = True
    candidates = [path, *(parent.as_posix() for parent in Path(path).parents if parent != Path())]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!")
            names = [bare, bare.removeprefix("**/")]
            if any(fnmatch.fnmatch(each, name) for each in candidates for name in names):
                sent = pattern.startswith("!")
    return sent


def flags_of(instruction) -> list[list[str]]:
    """Name and value of what stands before the arguments."""
    return [word.split("=", 1) for word in takewhile(lambda word: word.startswith("--"), instruction.words)]


def test_every_instruction_and_flag_is_one_that_docker_knows(stages) -> None:
    for each in (each for stage in stages for each in stage):
        assert each.name in FLAGS, each
        for flag, value in flags_of(each):
            assert re.fullmatch(FLAGS[each.name][flag], value), each


def test_what_a_stage_takes_from_another_one_comes_from_an_earlier_one(stages) -> None:
    earlier: set[str] = set()
    for stage in stages:
        assert {value for each in stage if each.name == "COPY" for _, value in flags_of(each)} <= earlier
        earlier |= {stage[0].words[-1]}


def test_every_base_image_is_named_with_its_version(stages) -> None:
    for image in (stage[0].words[0] for stage in stages):
        assert re.fullmatch(r"[a-z]+:\d+(\.\d+)?-[a-z-]+", image), (
            f"{image} has no version, or names a registry"
        )


def test_the_versions_are_those_that_are_tested(stages) -> None:
    node, *pythons = [stage[0].words[0].partition(":")[2].partition("-")[0] for stage in stages]
    low, high = map(int, re.findall(r"\d+", NODE_PACKAGE.partition(">")[2]))
    assert low <= int(node) < high
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pyright"][
        "pythonVersion"
    ]
    assert set(pythons) == {configured}


def test_it_runs_as_nobody_and_says_how_it_is(stages) -> None:
    last = {each.name: each for each in stages[-1]}
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last["USER"].text)
    assert last["HEALTHCHECK"].exec_form[:3] == ["python", "-m", "all_in_one.probe"]
    assert last["CMD"].exec_form == ["python", "-m", "all_in_one.server"]


def test_no_shell_runs_and_nothing_is_fetched_by_hand(stages) -> None:
    for each in (each for stage in stages for each in stage):
        assert each.name != "ADD"
        if each.name in ("RUN", "CMD", "ENTRYPOINT"):
            assert each.exec_form, each


def test_no_secret_is_in_it(stages) -> None:
    for each in (each for stage in stages for each in stage if each.name in ("ENV", "ARG", "LABEL")):
        assert not re.search(r"PASSWORD|TOKEN|SECRET|KEY|MONGODB_URL", each.text), each


def test_everything_that_it_copies_is_there_and_sent_to_the_build(stages) -> None:
    for source in (source for stage in stages for source in sources_of(stage)):
        assert (ROOT / source).exists(), source
        assert is_sent_to_the_build(source), source


def test_nothing_else_is_sent_to_the_build() -> None:
    for path in (
        ".env",
        "data",
        ".git",
        "tests/conftest.py",
        "compose.yaml",
        "web/node_modules",
        "examples/.env",
    ):
        assert not is_sent_to_the_build(path), path


def test_it_holds_the_packages_of_run_txt_without_the_database() -> None:
    def lines(name: str) -> list[str]:
        return (ROOT / "requirements" / name).read_text("utf-8").splitlines()

    assert lines("image.txt") == [line for line in lines("run.txt") if not line.startswith("fiftyone")]


def test_every_command_of_compose_is_in_it(stages, compose) -> None:
    # Given what the last stage copies from the checkout
    copied = {(ROOT / source) for source in sources_of(stages[-1])}
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert {ROOT / package for package in configured["root_packages"]} <= copied

    # Then each command, and each that asks for health, is a module or a script in it
    ours = [service for service in compose["services"].values() if "build" in service]
    checks = [service["healthcheck"].get("test", ["CMD"])[1:] for service in ours if "healthcheck" in service]
    for service, command in zip([*ours, *ours], [*(each["command"] for each in ours), *checks], strict=False):
        match command:
            case ["python", "-m", module, *_]:
                place = ROOT.joinpath(*module.split("."))
                assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
            case ["python", script, *_]:
                place = ROOT / service["working_dir"].removeprefix("/app/") / script
                assert place.is_file(), script
            case [program, *_]:
                assert program in ("chown", "opentelemetry-instrument"), program
                continue
            case []:
                continue
        assert copied & {place, *place.parents}, command
