from __future__ import annotations

import json

import pytest

from analysis_api.answers import json_response, success


def test_a_success_is_an_envelope_that_no_cache_keeps() -> None:
    response = success({"name": "商店"})
    assert response.body == '{"code":0,"msg":"success","data":{"name":"商店"}}'.encode()
    assert response.headers["cache-control"] == "no-store"


def test_lone_surrogates_become_question_marks() -> None:
    assert json.loads(bytes(json_response(["a\ud800b"]).body)) == ["a?b"]


def test_numbers_that_json_does_not_have_are_never_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_response([float("nan")])
