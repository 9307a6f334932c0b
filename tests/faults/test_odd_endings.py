"""However a request ends, nothing of it stays: no place, token, byte or slot is taken for ever, or
thousands of odd endings would end their tenant."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import Any

import pytest

from prfaas.core.addresses import Address, parse_url
from prfaas.core.deployment import parse_deployment
from prfaas.testing.mock_deployment import MockDeployment, until

TWO = """
  tenants:
    - {name: alice, api_keys: [alice-key]}
    - {name: mallory, api_keys: [mal-key], max_requests: 100, max_tokens: 10M, tokens_per_min: 10M}
"""
COMPLETIONS = "/v1/completions"
LONG = "a prompt that is handed over, as it has more than forty tokens in all"


def said(path: str, body: dict[str, Any] | bytes, *headers: str, size: int | None = None) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: h", "Authorization: Bearer mal-key", *headers]
    if not any(line.startswith("Transfer") for line in headers):
        lines.append(f"Content-Length: {len(content) if size is None else size}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


SAID = {
    "half a body": said(COMPLETIONS, b"{", size=60),
    "no JSON": said(COMPLETIONS, b"{{{"),
    "too much": said(COMPLETIONS, b"{", size=1 << 30),
    "no gzip": said(COMPLETIONS, b"junk", "Content-Encoding: gzip"),
    "no chunk": said(COMPLETIONS, b"2\r\n{}zz\r\n", "Transfer-Encoding: chunked"),
    "short": said(COMPLETIONS, {"prompt": "a", "max_tokens": 5}),
    "of two answers": said(COMPLETIONS, {"prompt": "a", "n": 2, "max_tokens": 5}),
    "several": said(COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 5}),
    "handed over": said(COMPLETIONS, {"prompt": LONG, "max_tokens": 5}),
    "streamed": said(COMPLETIONS, {"prompt": LONG, "max_tokens": 5, "stream": True}),
    "another's model": said(COMPLETIONS, {"prompt": "a", "model": "nobodys", "max_tokens": 5}),
    "too long": said(COMPLETIONS, {"prompt": "a", "max_tokens": 20_000_000}),
    "counted": said("/tokenize", {"prompt": "a"}),
    "embedded": said("/v1/embeddings", {"input": "a"}),
    "embedded by nobody": said("/pooling", {"input": "a"}),
}
AILS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "renders nothing": {"render_gate": asyncio.Event()},
    "prefills without end": {"prefill_gate": asyncio.Event()},
    "answers nothing": {"first_token_gate": asyncio.Event()},
    "stops in its answer": {"middle_gate": asyncio.Event()},
    "sends nothing": {"exports_complete": False},
    "refuses": {"fail_with_status": 400},
    "fails": {"fail_with_status": 500},
    "is full": {"full_for_s": 2},
    "hangs up": {"raw": b"no HTTP\r\n"},
}


@pytest.mark.parametrize("ails", AILS)
async def test_nothing_of_a_request_stays_however_it_ends(ails: str) -> None:
    mock = MockDeployment(gateway=TWO, deadline="2 s")
    for engine in mock.engines.values():
        engine.embeds = True
    async with mock.running() as client:
        await mock.ready()
        address = parse_url(str((await client.get("/health")).url.origin()))
        healthy = [
            (engine, {name: getattr(engine, name) for name in AILS[ails]})
            for engine in mock.engines.values()
        ]
        for engine in mock.engines.values():
            vars(engine).update(AILS[ails])
        mallory = next(t for t in mock.gateway.access.tenants if t.name == "mallory")
        leaving = [
            asyncio.create_task(leave(address, what, when))
            for what in SAID.values()
            for when in ("at once", "soon", "told")
        ]
        await asyncio.sleep(0.1)
        without = mock.deployment_text().replace("max_requests: 100", "max_requests: 1")
        mock.gateway.become(parse_deployment(without, source="new"), source="new")
        await asyncio.gather(*leaving)
        for engine, values in healthy:
            vars(engine).update(values)
        await until(lambda: not left(mock) and not mallory.inflight)
        assert mallory.inflight_tokens == 0


async def leave(address: Address, what: bytes, when: str) -> None:
    """Say it, and reset the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(what)
    with suppress(TimeoutError, ConnectionError):
        if when != "at once":
            wait_s = 0.2 if when == "soon" else 1.0
            await asyncio.wait_for(reader.read(1), wait_s)
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


def left(mock: MockDeployment) -> list[Any]:
    """What the gateway and its engines still count."""
    flow = mock.gateway.requests
    view, queues = flow.scheduler.view, flow.scheduler.queues
    counts = [
        flow.inflight, flow._beside, flow._places._taken_by, flow._bodies.held_bytes,
        flow._bodies._held_by, flow._driver._exchanges, queues.tokens, queues.tokens_of,
        queues.of_all.sequences, queues.of_some.sequences, flow.scheduler.waiting_tokens,
    ]  # fmt: skip
    for engine in view.engines.values():
        counts += [engine.prefills, engine.running, engine.assigned, engine.kv_used]
    counts += [engine.under_way for engine in mock.engines.values()]
    return [count for count in counts if count]
