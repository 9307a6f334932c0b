"""Any body is parsed or refused, and what is not ours stays as it came."""

from __future__ import annotations

import json
from typing import Any

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
    sent = json.loads(body.for_decode([1, 2, 3], None))
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
