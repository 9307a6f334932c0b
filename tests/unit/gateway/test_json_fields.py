"""Bodies that are made to be expensive are refused before anything is made of them."""

from __future__ import annotations

import gc
import json

import msgspec
import pytest

from prfaas.gateway import json_fields
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.body import RequestBody
from prfaas.gateway.json_fields import MOST_PROMPTS, length_of, number_in, top_level, value_of

MANY = {f"f{n}": 1 for n in range(50_000)}


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(MANY).encode(),
        json.dumps({"messages": [{"role": "user", "content": "x"}] * 10_000, **MANY}).encode(),
        b"{" + b'"prompt":[],' * 50_000 + b'"model":"m"}',
    ],
    ids=["many fields", "many beside many messages", "one field again and again"],
)
def test_no_object_is_made_of_fields_without_number(
    raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_fields, "_FIELDS", None)
    with pytest.raises(RequestRefused, match="bytes in other fields than prompt, messages"):
        top_level(raw)


def test_a_long_conversation_and_much_quoted_text_are_read() -> None:
    turns = [{"role": "user", "content": 'he said "no"'}] * 20_000
    for body in ({"messages": turns, "model": "m"}, {"prompt": '"' * 100_000, "model": "m"}):
        found = top_level(json.dumps(body).encode())
        assert {name: json.loads(bytes(value)) for name, value in found.items()} == body


def test_prompts_are_counted_without_being_read() -> None:
    def body(count: int) -> bytes:
        return b'{"prompt": [' + b",".join([b"[]"] * count) + b"]}"

    assert RequestBody("/v1/completions", body(MOST_PROMPTS)).prompts == MOST_PROMPTS
    with pytest.raises(RequestRefused, match="prompt: 16385 are more than 16384"):
        RequestBody("/v1/completions", body(MOST_PROMPTS + 1))


def test_what_is_long_is_no_number() -> None:
    assert number_in(msgspec.Raw(b"[" + b"1," * 1000 + b"1]"), "n") is None
    assert number_in(msgspec.Raw(b"true"), "n") is None
    assert number_in(msgspec.Raw(b"-7"), "n") == -7


LISTS = b"[" + b"[]," * 400_000 + b"[]]"


@pytest.mark.parametrize("name", ["model", "stream", "cache_salt", "vllm_xargs"])
def test_what_should_be_short_is_not_read_where_it_is_long(name: str) -> None:
    raw = b'{"prompt":"a","%s":%s}' % (name.encode(), LISTS)

    def read() -> None:
        body = RequestBody("/v1/completions", raw)
        body.belong_to(body.model)

    with pytest.raises(RequestRefused, match=f"{name} has more than 1048576 bytes"):
        read()


@pytest.mark.parametrize("name", ["prompt_embeds", "suffix", "echo", "tools", "conversation"])
def test_what_only_its_engine_reads_is_not_read_here(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = b'{"input":"a","%s":%s}' % (name.encode(), LISTS)
    body = RequestBody("/v1/responses", raw)
    monkeypatch.setattr("prfaas.gateway.body.value_of", None)
    assert body.needs_engine_alone() is not None


@pytest.mark.parametrize(
    "raw", [b'["a",1]', b'["a",[]]', b'["a"' + b",1" * 1_000_000 + b"]", b'["a"'], ids=len
)
def test_prompts_are_texts_or_lists(raw: bytes) -> None:
    with pytest.raises(RequestRefused, match="prompt is neither a text nor a list of texts"):
        length_of(msgspec.Raw(raw), "prompt")


def test_however_texts_are_written_they_are_counted() -> None:
    for texts in (['"', "\\", '\\"', ""], ['"' * 100_000], ["\\"] * 100):
        assert length_of(msgspec.Raw(json.dumps(texts).encode()), "prompt") == len(texts)
    with pytest.raises(RequestRefused, match="are more than 16384"):
        length_of(msgspec.Raw(json.dumps(["\\"] * (2 * MOST_PROMPTS)).encode()), "prompt")


def test_the_garbage_collector_is_left_as_it_was() -> None:
    large = msgspec.Raw(b"[" + b"[]," * 50_000 + b"[]]")
    assert len(value_of(large, "tools")) == 50_001
    assert gc.isenabled()
    with pytest.raises(RequestRefused):
        value_of(msgspec.Raw(b"[" * 100_000), "tools")
    assert gc.isenabled()
