"""That the answers match means something: without the transferred bytes they do not.

A prompt is handed over by hand, part of what arrived is zeroed in the receiving agent's memory, and
the decode engine is asked. (Bytes that are *missing* fail the load: see the connector's own tests.)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from prfaas.core.layout import KvLayout, LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.testing.comparing import greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import call

pytestmark = pytest.mark.engine

LASTING_S = 2.5
TOKENS = (1100, 3000)
"""At least four blocks and a tail."""
WAIT_S = 60.0
"""Ends what hangs: nothing waited for here is computed."""

Ranges = Iterator[tuple[int, int]]


def nothing(plan: TransferPlan, layout: KvLayout) -> Ranges:
    yield from ()


def states(plan: TransferPlan, layout: KvLayout) -> Ranges:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == "recurrent":
            yield span.flat_offset, span.length


def attention(plan: TransferPlan, layout: KvLayout) -> Iterator[LayerSpan]:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == "full_attention":
            yield span


def one_block(plan: TransferPlan, layout: KvLayout) -> Ranges:
    for span in attention(plan, layout):
        yield span.offset_of(3), span.layer.page_bytes


def one_layer(plan: TransferPlan, layout: KvLayout) -> Ranges:
    span = next(attention(plan, layout))
    yield span.flat_offset, span.length


def completion(url: str, model: str, ids: list[int], **more: Any) -> dict[str, Any]:
    answer = call(f"{url}/v1/completions", greedy(model, ids, **more))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("lost", [nothing, states, one_block, one_layer])
def test_what_is_lost_shows(
    gdn: Any,
    lost: Callable[[TransferPlan, KvLayout], Ranges],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = gdn.running
    model = running.deployment.model.served_name
    least, most = TOKENS
    ids = prompt(lost.__name__, gdn.speed.tokens_lasting(LASTING_S, least=least, most=most))
    boundary = (len(ids) - 1) // gdn.block_tokens * gdn.block_tokens
    transfer_id = uuid.uuid4().hex
    span = {"transfer_id": transfer_id, "from_token": 0, "to_token": boundary}
    exported = completion(
        running.engine("east-prefill").url, model, ids, max_tokens=1,
        kv_transfer_params={"prfaas": "export", "destination": "west-agent", **span},
    )  # fmt: skip
    assert exported["kv_transfer_params"]["ok"]
    west = running.admin("west")
    status = call(f"{west}/transfers/{transfer_id}?wait_s={WAIT_S}&ranks=1").json()
    assert status["state"] == "complete"

    with monkeypatch.context() as patched:
        zero(running, transfer_id, boundary, lost, patched)
    engine = running.engine("west-decode").url
    answer = completion(engine, model, ids, kv_transfer_params={"prfaas": "import", **span})
    call(f"{west}/transfers/{transfer_id}", method="DELETE")

    stock = completion(gdn.plain.url, model, ids)
    ours, theirs = (a["choices"][0]["logprobs"]["token_logprobs"] for a in (answer, stock))
    assert (ours == theirs) == (lost is nothing)


def zero(
    running: Any,
    transfer_id: str,
    boundary: int,
    lost: Callable[[TransferPlan, KvLayout], Ranges],
    patched: pytest.MonkeyPatch,
) -> None:
    """Zero part of a transfer where it waits, through an engine rank's view of the arena. The agent
    takes us for another connection of the decode engine, by its process id."""
    engines = call(f"{running.admin('west')}/engines").json()["engines"]
    rank = next(e for e in engines if e["engine"] == "west-decode")
    layout = msgspec.convert(rank["layout"], KvLayout)
    plan = TransferPlan(layout, from_token=0, to_token=boundary)
    patched.setattr("os.getpid", lambda: rank["pid"])
    client = AgentClient(
        running.deployment.cluster("west").agent.socket, engine="west-decode", layout=layout
    )
    try:
        client.wait_connected(WAIT_S)
        opened = client.open_import(
            transfer_id, from_token=0, to_token=boundary, total_bytes=plan.total_bytes
        )
        extents, arena = opened.future.result(timeout=WAIT_S), opened.session.arena
        for start, length in lost(plan, layout):
            for extent in extents:
                low = max(start, extent.flat_offset)
                high = min(start + length, extent.flat_end)
                if low < high:
                    part = extent.part(low, high)
                    arena[part.arena_offset : part.arena_end] = bytes(part.length)
        del arena
        client.close_import(opened)
    finally:
        client.close()
