"""What docs/wire-format.md says is what the code does."""

from __future__ import annotations

import json
import re
import typing
import zlib
from pathlib import Path

import pytest

from otel_pyinstrument.call_tree import DEFAULT_LIMITS, InvalidReason, decode, encode

DOCUMENT = (Path(__file__).parents[3] / "docs" / "wire-format.md").read_text(encoding="utf-8")
GOLDEN = Path(__file__).parent / "golden"


def code_block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return next(block for block in blocks if containing in block)


def test_every_reason_is_documented():
    section = DOCUMENT.partition("## What a reader refuses")[2].partition("\n## ")[0]

    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", section, re.MULTILINE))))

    assert documented == set(typing.get_args(InvalidReason))


def test_every_limit_is_documented():
    limits = DEFAULT_LIMITS

    for number in (
        limits.max_compressed_bytes,
        limits.max_json_bytes,
        limits.max_nodes,
        limits.max_frames,
        limits.max_depth,
        limits.max_order_runs,
    ):
        assert f"{number:,}" in DOCUMENT
    assert limits.max_text_bytes == 512
    assert limits.max_sum == 2**43 - 1


def test_the_example_is_a_payload_that_the_encoder_writes_back():
    document = json.loads(code_block("json", '"v": 1'))

    tree = decode(zlib.compress(json.dumps(document).encode()))

    tree.self_check()
    assert decode(encode(tree).payload) == tree


@pytest.mark.parametrize("name", ["v1-ours-request", "v1-ours-time-order", "v1-ours-pruned", "v1-ours-names"])
def test_the_documented_reader_reads_golden_payloads(name):
    # Given
    namespace: dict[str, typing.Any] = {}
    exec(code_block("python", "def read"), namespace)

    # When
    rows = namespace["read"]((GOLDEN / f"{name}.bin").read_bytes())

    # Then
    meaning = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert [list(row.values()) for row in rows] == meaning["nodes"]
