from __future__ import annotations

import sys
from pathlib import Path

import pytest

from otel_pyinstrument.configuration_file import BadConfigurationFile, read_configuration_file


@pytest.fixture
def write(tmp_path: Path):
    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return make


def test_json_and_yaml_say_the_same(write) -> None:
    expected = {"rate": 0.5, "exclude": ["/health"], "enabled": True, "project_key": "k"}

    json_file = '{"rate": 0.5, "exclude": ["/health"], "enabled": true, "project_key": "k"}'
    yaml_file = "rate: 0.5\nexclude: [/health]\nenabled: true\nproject_key: k\n"

    assert read_configuration_file(write("a.json", json_file), {}) == expected
    assert read_configuration_file(write("a.yaml", yaml_file), {}) == expected


def test_variables_are_replaced_inside_texts(write) -> None:
    path = write(
        "a.yaml",
        "project_key: ${KEY}\n"
        "rate: ${RATE:-0.25}\n"
        "platform_url: http://${HOST:-127.0.0.1}:${PORT:-8000}\n"
        "exclude: ['${PREFIX}/*', '$${KEY}']\n"
        "include: ${NOTHING}\n"
        "endpoint_rates: {/a: '${RATE:-0.25}', '${KEY}': [1]}\n"
        "interval: 5\n",
    )

    environ = {"KEY": "a: ${b} 'c'", "HOST": "shop.example", "PORT": "", "PREFIX": "/api"}

    assert read_configuration_file(path, environ) == {
        "project_key": "a: ${b} 'c'",
        "rate": "0.25",
        "platform_url": "http://shop.example:8000",
        "exclude": ["/api/*", "${KEY}"],
        "include": "",
        "endpoint_rates": {"/a": "0.25", "${KEY}": [1]},
        "interval": 5,
    }


def test_a_value_that_holds_itself_is_refused(write) -> None:
    with pytest.raises(BadConfigurationFile, match="is nested too deeply"):
        read_configuration_file(write("a.yaml", "exclude: &x [*x]\n"), {})


def test_an_empty_file_says_nothing(write) -> None:
    assert read_configuration_file(write("a.yaml", "# nothing\n"), {}) == {}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", '{"rate": 1,\n"project_key": "secret"', "is not valid JSON (line 2"),
        ("a.yaml", "rate: 1\nproject_key: [secret\n", "is not valid YAML (line 3)"),
        ("a.yaml", "!!python/object/apply:os.system [secret]", "is not valid YAML"),
        ("a.json", '["secret"]', "is not a mapping"),
        ("a.yaml", "secret", "is not a mapping"),
        ("a.json", b"\xff\xfesecret", "is not UTF-8"),
        ("a.json", "[" * 100_000, "is not valid JSON"),
        ("a.json", " " * 1_048_577, "is larger than 1048576 bytes"),
    ],
)
def test_a_bad_file_is_refused_without_quoting_it(
    name: str, content: str | bytes, reason: str, write
) -> None:
    with pytest.raises(BadConfigurationFile) as raised:
        read_configuration_file(write(name, content), {})

    assert reason in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("path", ["missing.json", ".", "a\0b", "~nobody-here/a.json"])
def test_a_file_that_cannot_be_read_is_refused(path: str) -> None:
    with pytest.raises(BadConfigurationFile, match="cannot be read"):
        read_configuration_file(path, {})


def test_without_pyyaml_json_works_and_yaml_says_what_to_do(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)

    assert read_configuration_file(write("a.json", '{"rate": 1}'), {}) == {"rate": 1}
    assert read_configuration_file(write("a.yaml", '{"rate": 1}'), {}) == {"rate": 1}
    with pytest.raises(BadConfigurationFile, match=r"pip install pyyaml.*JSON, which always works"):
        read_configuration_file(write("b.yaml", "rate: 1"), {})
