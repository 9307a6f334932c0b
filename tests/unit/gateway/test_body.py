"""Any body is parsed or refused, and what is not ours stays as it came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prfaas.gateway.body import RequestBody
from prfaas.gateway.openai_errors import RequestRefused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(fields=st.dictionaries(st.text(max_size=12), VALUES, max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_not_ours_reaches_the_engine_unchanged(fields: dict[str, Any]) -> None:
    fields.pop("kv_transfer_params", None)
    body = RequestBody("/v1/completions", json.dumps(fields).encode())
    sent = json.loads(body.for_decode(msgspec.Raw(b"[1, 2, 3]"), None))
    assert sent == {**fields, "prompt": [1, 2, 3]}
    assert body.for_decode(None, None) == body.raw


@given(raw=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        body = RequestBody("/v1/completions", raw)
        assert body.choices >= 1
        assert body.needs_engine_alone() is None or body.raw == raw
    except RequestRefused:
        pass


@pytest.mark.parametrize(
    ("said", "priority"),
    [("-3", -3), ("7", 7), ("true", 0), ("1.5", 0), ('"high"', 0), ("null", 0)],
)
def test_a_priority_is_a_number_or_for_the_engine_to_refuse(said: str, priority: int) -> None:
    raw = f'{{"prompt": "x", "priority": {said}}}'.encode()
    assert RequestBody("/v1/completions", raw).priority == priority


def test_a_priority_that_no_journal_can_hold_is_refused() -> None:
    with pytest.raises(RequestRefused, match="priority must be within"):
        RequestBody("/v1/completions", b'{"prompt": "x", "priority": -10000000000000000000000}')
