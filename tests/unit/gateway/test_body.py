"""Any body is parsed or refused, and what is not ours stays as it came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.body import RequestBody
from prfaas.gateway.dialects import Endpoint

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


def test_vectors_in_a_message_are_seen_by_one_engine_alone() -> None:
    """An engine's renderer says of them what it says of a text: token ids, all placeholders."""
    part = {"type": "prompt_embeds", "data": "AAAA"}
    said = {"messages": [{"role": "user", "content": [part]}]}
    why = RequestBody("/v1/chat/completions", json.dumps(said).encode()).needs_engine_alone()
    assert why is not None
    assert "prompt_embeds" in why
    said = {"messages": [{"role": "user", "content": 'what is "prompt_embeds" for?'}]}
    body = RequestBody("/v1/chat/completions", json.dumps(said).encode())
    assert body.needs_engine_alone() is None


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


@pytest.mark.parametrize("said", ["8", "8.0", "80e-1", '"8"', '" 8 "', '"8.0"'])
def test_what_engines_take_for_a_number_is_counted_as_one(said: str) -> None:
    raw = f'{{"prompt": "x", "n": {said}, "max_tokens": {said}}}'.encode()
    body = RequestBody("/v1/completions", raw)
    assert (body.choices, body.max_tokens) == (8, 8)


@pytest.mark.parametrize("said", ['"many"', '""', "8.5", "true", "null", "[8]", '"inf"', '"nan"'])
def test_what_is_no_number_is_for_the_engine_to_refuse(said: str) -> None:
    body = RequestBody("/v1/completions", f'{{"prompt": "x", "n": {said}}}'.encode())
    assert body.choices == 1


def test_a_number_cannot_be_hidden_in_a_long_text() -> None:
    raw = b'{"prompt": "x", "n": "' + b"0" * 1000 + b'8"}'
    with pytest.raises(RequestRefused, match="n must be at most"):
        RequestBody("/v1/completions", raw)


@pytest.mark.parametrize(
    ("endpoint", "longest"),
    [
        ("/v1/completions", 2),
        ("/v1/chat/completions", 1),
        ("/v1/responses", 3),
        ("/v1/messages", 2),
    ],
)
def test_an_answer_may_be_as_long_as_the_field_of_its_api_says(
    endpoint: Endpoint, longest: int
) -> None:
    raw = b'{"max_completion_tokens": 1, "max_tokens": 2, "max_output_tokens": 3}'
    assert RequestBody(endpoint, raw).max_tokens == longest


@pytest.mark.parametrize(
    ("fields", "prompts"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": None}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt_embeds": ["YQ==", "YQ==", "YQ=="]}, 3),
        ({"prompt": "a", "prompt_embeds": "YQ=="}, 2),
        ({"prompt": ["a", "b"], "prompt_embeds": ["YQ==", "YQ=="]}, 4),
    ],
)
def test_embedded_prompts_are_prompts(fields: dict[str, Any], prompts: int) -> None:
    assert RequestBody("/v1/completions", json.dumps(fields).encode()).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"stream": True}, {"include_usage": True, "continuous_usage_stats": False}),
        (
            {"stream": "true", "stream_options": {"include_usage": 0, "more": 1}},
            {"include_usage": True, "continuous_usage_stats": False, "more": 1},
        ),
        ({"stream": True, "stream_options": {"include_usage": "Yes"}}, None),
        ({"stream": True, "stream_options": "a"}, None),
        ({"stream": False}, None),
        ({}, None),
    ],
)
def test_engines_are_asked_how_long_a_stream_is(
    fields: dict[str, Any], asked: dict[str, Any] | None
) -> None:
    body = RequestBody("/v1/chat/completions", json.dumps(fields).encode())
    body.have_answer_counted()
    assert body.hides_usage is (asked is not None)
    sent = {**fields, "stream_options": asked} if asked else fields
    assert json.loads(body.raw) == sent
