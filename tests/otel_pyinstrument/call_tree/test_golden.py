"""Payloads of the past, with what they mean. They are never rewritten: a new version adds files.

`*.bin` is a payload as it travels. `*.json` beside it says what it holds, row by row, or why it is refused.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from otel_pyinstrument.call_tree import InvalidPayload, decode, encode

GOLDEN = Path(__file__).parent / "golden"
PAYLOADS = sorted(GOLDEN.glob("*.bin"))


def meaning_of(payload: Path):
    return json.loads(payload.with_suffix(".json").read_text(encoding="utf-8"))


def rows_of(tree):
    columns = zip(tree.depth(), tree.frame, tree.self_us, tree.total_us(), tree.samples, strict=True)
    return [[depth, *tree.frames[frame], *numbers] for depth, frame, *numbers in columns]


@pytest.mark.parametrize(
    "payload", [path for path in PAYLOADS if "nodes" in meaning_of(path)], ids=lambda p: p.stem
)
def test_a_golden_payload_keeps_its_meaning(payload):
    # Given
    meaning = meaning_of(payload)

    # When
    tree = decode(payload.read_bytes())

    # Then
    tree.self_check()
    assert rows_of(tree) == meaning["nodes"]
    assert [list(run) for run in tree.order or []] == meaning["order"]


@pytest.mark.parametrize("payload", [path for path in PAYLOADS if "ours" in path.stem], ids=lambda p: p.stem)
def test_the_encoder_still_writes_the_same_json(payload):
    golden = payload.read_bytes()

    assert zlib.decompress(encode(decode(golden)).payload) == zlib.decompress(golden)


@pytest.mark.parametrize(
    "payload", [path for path in PAYLOADS if "refused" in meaning_of(path)], ids=lambda p: p.stem
)
def test_a_golden_refusal_keeps_its_reason(payload):
    with pytest.raises(InvalidPayload) as caught:
        decode(payload.read_bytes())

    assert caught.value.reason == meaning_of(payload)["refused"]


def test_every_golden_payload_has_its_meaning_and_every_meaning_its_payload():
    assert len(PAYLOADS) >= 7
    assert {path.stem for path in PAYLOADS} == {path.stem for path in GOLDEN.glob("*.json")}
