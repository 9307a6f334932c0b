"""Names of media are a tenant's own, and nothing else of a body is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prfaas.gateway import media_names
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.body import RequestBody, tenant_salt
from prfaas.gateway.dialects import Endpoint

CHAT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
OWN = tenant_salt("alice", "logo")


def own(body: dict[str, Any] | bytes, endpoint: Endpoint = CHAT, tenant: str = "alice") -> Any:
    """What reaches an engine of it, without the salt."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = RequestBody(endpoint, raw)
    found.belong_to(tenant)
    sent = json.loads(found.raw)
    del sent["cache_salt"]
    return sent


def chat(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    "part",
    [IMAGE, {"type": "image_url", "image_url": None}, {"image_url": "x"},
     {"type": "input_audio", "input_audio": None}, {"type": "video_url", "video_url": {}}],
    ids=str,
)  # fmt: skip
def test_a_name_is_its_tenants(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": 'say "uuid": "logo"'}
    sent = own(chat(text, {**part, "uuid": "logo"}))
    assert sent == chat(text, {**part, "uuid": OWN})
    assert own(chat({**part, "uuid": "logo"}), tenant="mallory") != sent


def test_no_name_can_be_said_that_is_another_tenants() -> None:
    alices = own(chat({**IMAGE, "uuid": "logo"}))
    assert own(chat({**IMAGE, "uuid": OWN}), tenant="mallory") != alices


def test_it_is_found_however_it_is_written() -> None:
    raw = json.dumps(chat({**IMAGE, "uuid": "logo"})).replace('"uuid"', '"\\u0075u\\u0069d" ')
    assert own(raw.encode()) == chat({**IMAGE, "uuid": OWN})
    twice = json.dumps(chat({**IMAGE, "uuid": "logo"})).replace(
        '"uuid": "logo"', '"uuid": null, "uuid": "logo"'
    )
    assert own(twice.encode()) == chat({**IMAGE, "uuid": OWN})
    assert own(chat({**IMAGE, "uuid": 7})) == chat({**IMAGE, "uuid": tenant_salt("alice", "7")})


@pytest.mark.parametrize(
    "body",
    [
        {"data_1": {"content": [{**IMAGE, "uuid": "logo"}]}},
        {"inputs": [{"content": [{**IMAGE, "uuid": "logo"}]}]},
        {"input": [{"content": [{"type": "tool_result", "content": [{**IMAGE, "uuid": "logo"}]}]}]},
        {"input": [{"type": "function_call_output", "output": [{**IMAGE, "uuid": "logo"}]}]},
        {"messages": [{"content": ["a text", {**IMAGE, "uuid": "logo"}]}]},
    ],
    ids=str,
)
def test_whichever_api_has_parts(body: dict[str, Any]) -> None:
    assert own(body) == json.loads(json.dumps(body).replace('"logo"', json.dumps(OWN)))


@pytest.mark.parametrize(
    "body",
    [
        chat({**IMAGE, "uuid": None}),
        {"documents": [{"uuid": "a", "text": "b"}]},
        {"tools": [{"function": {"parameters": {"properties": {"uuid": {"type": "string"}}}}}]},
        {"messages": [{"role": "tool", "content": '{"uuid": "a"}', "uuid": "b"}]},
        chat({"type": "tool_use", "input": {"uuid": "a", "image_url": "b"}}),
        {"messages": [], "seed": 12345678901234567890, "temperature": 0.1, "uuid": "a"},
    ],
    ids=str,
)
def test_what_names_no_medium_stays(body: dict[str, Any]) -> None:
    assert own(body) == body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [{"content": ' + b"[" * 100_000 + b'{"uuid": 1}' + b"]" * 100_000 + b"}]}",
        b'{"messages": [' + b"{}," * 60_000 + b'{"content": [{"image_url": "", "uuid": "a"}]}]}',
        b'{"messages": ' + b'{"content": ' * 1000 + b'{"uuid": 1}' + b"}" * 1001,
        b'{"messages": [' + b"1," * 100_000 + b'{"uuid": 1}]}',
        b'{"messages": [' + b'"",' * 300_000 + b'{"uuid": 1}]}',
        b'{"messages": [' + (b'{"content": [{"uuid": 1}' + b",1" * 20_000 + b"]},") * 10 + b"{}]}",
    ],
    ids=["deep", "many", "deep objects", "numbers", "texts", "numbers in lists"],
)
def test_what_would_be_long_to_look_through_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestRefused):
        own(raw)


def test_without_names_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_names, "made_own", None)
    assert own(chat(IMAGE, {"type": "text", "text": 'a "uuid"'})) == chat(
        IMAGE, {"type": "text", "text": 'a "uuid"'}
    )


def test_shared_caches_share_names_that_are_no_tenants() -> None:
    names = []
    for name in ("logo", "logo", OWN):
        body = RequestBody(CHAT, json.dumps(chat({**IMAGE, "uuid": name})).encode())
        body.belong_to(None)
        sent = json.loads(body.raw)
        assert "cache_salt" not in sent
        names.append(sent["messages"][0]["content"][0]["uuid"])
    assert names[0] == names[1]
    assert OWN not in names
