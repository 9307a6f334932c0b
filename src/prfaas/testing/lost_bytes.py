"""Hand-offs of which something is lost on the way: what shows that equal answers mean something.

A prompt is handed over by hand, part of what arrived is zeroed in the receiving agent's memory, and
the decode engine is asked. (Bytes that are *missing* fail the load instead.)
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import msgspec

from prfaas.core.layout import KvLayout
from prfaas.core.prompt_digest import prompt_digest
from prfaas.core.transfer_plan import LayerSpan, TransferPlan
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.messages import OpenImport
from prfaas.testing.calling import call
from prfaas.testing.comparing import greedy
from prfaas.testing.running import RunningDeployment

WAIT_S = 60.0
"""Ends what hangs: nothing waited for here is computed."""
_LOST_TOKENS = range(768, 1024)
"""One block of most models; of larger blocks the one that holds these."""

Ranges = Iterator[tuple[int, int]]
"""[start, start + length) of the flat transfer space."""
Loss = Callable[[TransferPlan, KvLayout], Ranges]


def nothing(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """The positive control."""
    yield from ()


def states(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """All recurrent states."""
    for span in _spans(plan, layout, "recurrent"):
        yield span.flat_offset, span.length


def one_state(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """The lowest layer's."""
    yield next(states(plan, layout))


def window(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """All of the sliding windows."""
    for span in _spans(plan, layout, "sliding_window"):
        yield span.flat_offset, span.length


def one_block(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """Of every layer with full attention."""
    for span in _spans(plan, layout, "full_attention"):
        block_tokens = layout.groups[span.group].block_tokens
        first = _LOST_TOKENS.start // block_tokens
        for block in range(first, max(first + 1, _LOST_TOKENS.stop // block_tokens)):
            yield span.offset_of(block), span.layer.page_bytes


def one_layer(plan: TransferPlan, layout: KvLayout) -> Ranges:
    """The lowest layer with full attention."""
    span = next(_spans(plan, layout, "full_attention"))
    yield span.flat_offset, span.length


def losses_of(layout: KvLayout) -> list[Loss]:
    """What a model with this layout can lose, nothing first."""
    kinds = {group.kind for group in layout.groups}
    of_kind: dict[str, list[Loss]] = {
        "full_attention": [one_block, one_layer],
        "recurrent": [states, one_state],
        "sliding_window": [window],
    }
    return [nothing, *(loss for kind, some in of_kind.items() if kind in kinds for loss in some)]


def _spans(plan: TransferPlan, layout: KvLayout, kind: str) -> Iterator[LayerSpan]:
    for span in plan.spans.values():
        if layout.groups[span.group].kind == kind:
            yield span


def layout_of(running: RunningDeployment, engine: str) -> KvLayout:
    """As the engine's first rank has registered it with its agent."""
    return msgspec.convert(_rank(running, engine)["layout"], KvLayout)


def answer_without(
    running: RunningDeployment,
    loss: Loss,
    ids: list[int],
    boundary: int,
    *,
    prefill: str = "east-prefill",
    decode: str = "west-decode",
) -> dict[str, Any]:
    """The decode engine's choice for ``ids``, handed over up to ``boundary``, ``loss`` applied in
    its agent's memory to what each of the prefill engine's ranks has sent."""
    model = running.deployment.model.served_name
    sent_as = layout_of(running, prefill)
    parts = sent_as.sending_ranks()
    transfer_id = uuid.uuid4().hex
    span = {"transfer_id": transfer_id, "from_token": 0, "to_token": boundary}
    agent = running.deployment.agent_of_engine(decode)
    exported = _completion(
        running.engine(prefill).url, model, ids, max_tokens=1,
        kv_transfer_params={
            "prfaas": "export", "destination": agent.name, "readers": [decode], **span
        },
    )  # fmt: skip
    if not exported["kv_transfer_params"]["ok"]:
        raise RuntimeError(f"not exported: {exported['kv_transfer_params']}")
    transfer = f"{agent.admin_url}/transfers/{transfer_id}"
    status = call(f"{transfer}?wait_s={WAIT_S}&ranks={len(parts)}").json()
    if status["state"] != "complete":
        raise RuntimeError(f"the transfer did not arrive: {status}")
    for part in parts:
        _zero(running, transfer_id, ids[:boundary], loss, decode, sent_as.of_rank(part))
    if not sent_as.is_held_as(layout_of(running, decode)):
        span["source"] = sent_as.of_rank(0).packed()
    answer = _completion(
        running.engine(decode).url, model, ids, kv_transfer_params={"prfaas": "import", **span}
    )
    call(transfer, method="DELETE")
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def _completion(url: str | None, model: str | None, ids: list[int], **more: Any) -> dict[str, Any]:
    answer = call(f"{url}/v1/completions", greedy(model, ids, **more))
    if answer.status != 200:
        raise RuntimeError(f"{url}: {answer.body[:500]!r}")
    found: dict[str, Any] = answer.json()
    return found


def _rank(running: RunningDeployment, engine: str) -> dict[str, Any]:
    admin = running.deployment.agent_of_engine(engine).admin_url
    engines = call(f"{admin}/engines").json()["engines"]
    found: dict[str, Any] = next(e for e in engines if e["engine"] == engine)
    return found


def _zero(
    running: RunningDeployment,
    transfer_id: str,
    handed_over: list[int],
    loss: Loss,
    engine: str,
    sent_as: KvLayout,
) -> None:
    """Through an engine rank's view of the arena. The agent takes us for another connection of the
    decode engine, by its process id."""
    rank = _rank(running, engine)
    layout = msgspec.convert(rank["layout"], KvLayout)
    boundary = len(handed_over)
    plan = TransferPlan(sent_as, from_token=0, to_token=boundary)
    digest = prompt_digest(handed_over, to_token=boundary)
    socket = running.deployment.agent_of_engine(engine).socket
    assert socket is not None
    with mock.patch.object(os, "getpid", return_value=rank["pid"]):
        client = AgentClient(socket, engine=engine, layout=layout)
        try:
            client.wait_connected(WAIT_S)
            opened = client.open_import(
                OpenImport(
                    transfer_id,
                    0,
                    boundary,
                    plan.total_bytes,
                    digest,
                    sent_as.tp_rank,
                    sent_as.fingerprint(),
                )
            )
            extents, arena = opened.future.result(timeout=WAIT_S), opened.session.arena
            for start, length in loss(plan, sent_as):
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
