"""A mock engine rank: a process that speaks to an agent as an engine does, without any model.

``python -m prfaas.testing.mock_engine_rank SOCKET ENGINE`` reads commands from stdin, one per line,
and answers each with one line on stdout, so that a test can kill it at any point:

    export ID DESTINATION BYTES   hand over a whole transfer          -> exported ID REASON|None
    begin ID DESTINATION BYTES    announce it and hand over one slot  -> begun ID
    import ID BYTES               read a transfer and check its bytes -> imported ID ok|REASON
    hold ID BYTES                 the same, and keep it open          -> imported ID ok|REASON

The bytes of a transfer are a function of its id, so the reader can check them.
"""

from __future__ import annotations

import sys

from prfaas.core.errors import CapacityError, PrfaasError
from prfaas.core.extents import Extent
from prfaas.core.handoff import RequestContext
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.prompt_digest import prompt_digest
from prfaas.engine_socket.client import AgentClient
from prfaas.engine_socket.errors import ExportUnwanted
from prfaas.engine_socket.messages import BeginExport, OpenImport

WAIT_S = 30.0
ONE_BLOCK = (0, 16)
"""Tokens [from, to) that a transfer is of, where it does not matter."""
MOCK_DIGEST = prompt_digest(range(16), to_token=16)
"""What every transfer is bound to, where that does not matter."""
READERS = ("a", "b", "c", "pdd", "pde", "pdp")
"""The engines of tests that read transfers."""


def mock_layout(dtype: str = "bfloat16") -> KvLayout:
    """One full-attention layer with 16-token blocks of 64 bytes."""
    layer = LayerLayout(name="layer.0", index=0, page_bytes=64, dtype=dtype, shape=(64,))
    group = KvGroup(kind="full_attention", block_tokens=16, layers=(layer,))
    return KvLayout(model="mock", groups=(group,))


def content(transfer_id: str, start: int, length: int) -> bytes:
    """Bytes [start, start + length) of a transfer."""
    seed = sum(transfer_id.encode())
    period = bytes((seed + i) % 251 for i in range(251))
    begin = start % 251
    return (period * (length // 251 + 2))[begin : begin + length]


class MockEngineRank:
    """What a connector does with an `AgentClient`, in the plainest way."""

    def __init__(self, socket_path: str, engine: str, layout: KvLayout | None = None) -> None:
        self.client = AgentClient(socket_path, engine=engine, layout=layout or mock_layout())
        try:
            self.client.wait_connected(WAIT_S)
        except PrfaasError:
            self.client.close()
            raise

    def begin(
        self,
        transfer_id: str,
        destination: str,
        size: int,
        tokens: tuple[int, int] = ONE_BLOCK,
        *,
        digest: str = MOCK_DIGEST,
        readers: tuple[str, ...] = READERS,
        context: RequestContext | None = None,
    ) -> None:
        """Announce a transfer of ``size`` bytes."""
        self.client.begin_export(
            BeginExport(
                transfer_id=transfer_id,
                destination=destination,
                from_token=tokens[0],
                to_token=tokens[1],
                total_bytes=size,
                deadline_s=WAIT_S,
                prompt_digest=digest,
                readers=readers,
                context=context,
            )
        )

    def hand_over(self, transfer_id: str, start: int, size: int) -> int:
        """Fill one slot with bytes from ``start`` on; returns where the next one begins."""
        slot = self.client.lease(WAIT_S, transfer_id=transfer_id)
        length = min(len(slot.view), size - start)
        slot.view[:length] = content(transfer_id, start, length)
        self.client.export_slot(transfer_id, slot, [Extent(start, slot.offset, length)])
        return start + length

    def export(
        self,
        transfer_id: str,
        destination: str,
        size: int,
        tokens: tuple[int, int] = ONE_BLOCK,
        *,
        digest: str = MOCK_DIGEST,
        readers: tuple[str, ...] = READERS,
        context: RequestContext | None = None,
    ) -> str | None:
        """A whole transfer; returns why it was stopped, if it was."""
        self.begin(
            transfer_id, destination, size, tokens, digest=digest, readers=readers, context=context
        )
        start = 0
        try:
            while start < size and self.client.stopped(transfer_id) is None:
                start = self.hand_over(transfer_id, start, size)
        except (CapacityError, ExportUnwanted) as error:
            self.client.abort_export(transfer_id, str(error))
            return str(error)
        return self.client.finish_export(transfer_id)

    def read(
        self,
        transfer_id: str,
        size: int,
        tokens: tuple[int, int] = ONE_BLOCK,
        *,
        digest: str = MOCK_DIGEST,
        keep_open: bool = False,
    ) -> str:
        """``ok``, ``wrong bytes``, or why the transfer cannot be read."""
        opened = self.client.open_import(OpenImport(transfer_id, *tokens, size, digest))
        try:
            extents = opened.future.result(WAIT_S)
            arena = opened.session.arena
            right = all(
                content(transfer_id, flat, length) == arena[at : at + length]
                for flat, at, length in extents
            )
            return "ok" if right else "wrong bytes"
        except PrfaasError as error:
            return str(error)
        finally:
            if not keep_open:
                self.client.close_import(opened)

    def obey(self, line: str) -> str:
        """Carry out one command."""
        match line.split():
            case ["export", transfer_id, destination, size]:
                return f"exported {transfer_id} {self.export(transfer_id, destination, int(size))}"
            case ["begin", transfer_id, destination, size]:
                self.begin(transfer_id, destination, int(size))
                self.hand_over(transfer_id, 0, int(size))
                return f"begun {transfer_id}"
            case ["import", transfer_id, size]:
                return f"imported {transfer_id} {self.read(transfer_id, int(size))}"
            case ["hold", transfer_id, size]:
                outcome = self.read(transfer_id, int(size), keep_open=True)
                return f"imported {transfer_id} {outcome}"
        return f"unknown command {line!r}"


def main() -> None:
    rank = MockEngineRank(sys.argv[1], sys.argv[2])
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(rank.obey(line), flush=True)
        except PrfaasError as error:
            print(f"error {error}", flush=True)
    rank.client.close()


if __name__ == "__main__":
    main()
