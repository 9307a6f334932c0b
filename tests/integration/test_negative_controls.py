"""That the answers match means something: without the transferred bytes they do not.

A prompt is handed over by hand, part of what arrived is zeroed in the receiving agent's memory, and
the decode engine is asked: whatever is lost, the text is another within 16 tokens. (Bytes that are
*missing* fail the load: see the connector's own tests.)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from prfaas.core.layout import KvLayout
from prfaas.core.prompt_digest import prompt_digest
from prfaas.core.transfer_plan import LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.messages import OpenImport
from prfaas.testing.comparing import greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import call

pytestmark = pytest.mark.engine

LENGTHS = {"gdn": 1200, "sliding_window": 1200, "dense": 3000, "mla": 1200}
"""Four blocks or more, and a tail: lengths at which what is lost decides between words."""
LOST_TOKENS = range(768, 1024)
"""One block of most models."""
WAIT_S = 60.0
"""Ends what hangs: nothing waited for here is computed."""

Ranges = Iterator[tuple[int, int]]


def nothing(plan: TransferPlan, layout: KvLayout) -> Ranges:
    yield from ()


def states(plan: TransferPlan, layout: KvLayout) -> Ranges:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == "recurrent":
            yield span.flat_offset, span.length


def one_state(plan: TransferPlan, layout: KvLayout) -> Ranges:
    yield next(states(plan, layout))


def window(plan: TransferPlan, layout: KvLayout) -> Ranges:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == "sliding_window":
            yield span.flat_offset, span.length


def attention(plan: TransferPlan, layout: KvLayout) -> Iterator[LayerSpan]:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == "full_attention":
            yield span


def one_block(plan: TransferPlan, layout: KvLayout) -> Ranges:
    for span in attention(plan, layout):
        block_tokens = layout.groups[span.group].block_tokens
        for block in range(LOST_TOKENS.start // block_tokens, LOST_TOKENS.stop // block_tokens):
            yield span.offset_of(block), span.layer.page_bytes


def one_layer(plan: TransferPlan, layout: KvLayout) -> Ranges:
    span = next(attention(plan, layout))
    yield span.flat_offset, span.length


def completion(url: str, model: str, ids: list[int], **more: Any) -> dict[str, Any]:
    answer = call(f"{url}/v1/completions", greedy(model, ids, **more))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


CASES = [
    *(("gdn", lost) for lost in (nothing, states, one_state, one_block, one_layer)),
    *(("sliding_window", lost) for lost in (nothing, window, one_block, one_layer)),
    *(("dense", lost) for lost in (nothing, one_block, one_layer)),
    *(("mla", lost) for lost in (one_block, one_layer)),
]


@pytest.mark.parametrize(("kind", "lost"), CASES)
def test_what_is_lost_shows(
    stacks: Any,
    kind: str,
    lost: Callable[[TransferPlan, KvLayout], Ranges],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = stacks.get(kind)
    running, plain = stack.running, stack.plain
    model = running.deployment.model.served_name
    ids = prompt(lost.__name__, LENGTHS[kind])
    boundary = (len(ids) - 1) // stack.block_tokens * stack.block_tokens
    transfer_id = uuid.uuid4().hex
    span = {"transfer_id": transfer_id, "from_token": 0, "to_token": boundary}
    exported = completion(
        running.engine("east-prefill").url, model, ids, max_tokens=1,
        kv_transfer_params={"prfaas": "export", "destination": "west-agent",
                            "readers": ["west-decode"], **span},
    )  # fmt: skip
    assert exported["kv_transfer_params"]["ok"]
    west = running.admin("west")
    status = call(f"{west}/transfers/{transfer_id}?wait_s={WAIT_S}&ranks=1").json()
    assert status["state"] == "complete"

    with monkeypatch.context() as patched:
        zero(running, transfer_id, ids[:boundary], lost, patched)
    engine = running.engine("west-decode").url
    answer = completion(engine, model, ids, kv_transfer_params={"prfaas": "import", **span})
    call(f"{west}/transfers/{transfer_id}", method="DELETE")

    completion(plain.url, model, ids)  # its second answer has the decode engine's schedule
    stock = completion(plain.url, model, ids)
    ours, theirs = (a["choices"][0] for a in (answer, stock))
    if lost is nothing:
        assert ours["logprobs"]["token_logprobs"] == theirs["logprobs"]["token_logprobs"]
    else:
        assert ours["token_ids"] != theirs["token_ids"]


def zero(
    running: Any,
    transfer_id: str,
    handed_over: list[int],
    lost: Callable[[TransferPlan, KvLayout], Ranges],
    patched: pytest.MonkeyPatch,
) -> None:
    """Zero part of a transfer where it waits, through an engine rank's view of the arena. The agent
    takes us for another connection of the decode engine, by its process id."""
    engines = call(f"{running.admin('west')}/engines").json()["engines"]
    rank = next(e for e in engines if e["engine"] == "west-decode")
    layout = msgspec.convert(rank["layout"], KvLayout)
    boundary = len(handed_over)
    plan = TransferPlan(layout, from_token=0, to_token=boundary)
    digest = prompt_digest(handed_over, to_token=boundary)
    patched.setattr("os.getpid", lambda: rank["pid"])
    client = AgentClient(
        running.deployment.cluster("west").agents[0].socket, engine="west-decode", layout=layout
    )
    try:
        client.wait_connected(WAIT_S)
        opened = client.open_import(OpenImport(transfer_id, 0, boundary, plan.total_bytes, digest))
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
