"""Engines that hold their caches otherwise pair where it can be converted."""

from __future__ import annotations

from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.pieces import Piece
from prfaas.testing.mock_deployment import BLOCK_TOKENS, MockDeployment, until


def divided(*, tp_size: int, block_tokens: int = BLOCK_TOKENS, heads: int = 2) -> KvLayout:
    """One layer; a head keeps a byte of each token."""
    units = heads // tp_size
    page_bytes = units * block_tokens
    piece = Piece(
        offset=0,
        rows=1,
        row_stride=page_bytes,
        units=units,
        unit_stride=block_tokens,
        cells=block_tokens,
        cell_stride=1,
        cell_bytes=1,
        total_units=heads,
        cell_tokens=1,
    )
    layer = LayerLayout(
        name="l0",
        index=0,
        page_bytes=page_bytes,
        dtype="u8",
        shape=(page_bytes,),
        pieces=(piece,),
    )
    group = KvGroup(kind="full_attention", block_tokens=block_tokens, layers=(layer,))
    return KvLayout(model="mock-model", groups=(group,), tp_size=tp_size)


async def test_the_decode_engine_is_told_what_it_will_read() -> None:
    mock = MockDeployment()
    async with mock.running():
        await mock.ready()
        layouts = mock.gateway.fleet.layouts
        assert (layouts.parts("e1"), layouts.source("e1", "d1")) == (1, None)
        for agent in mock.agents.values():
            for rank in agent.ranks:
                agent.register(rank["engine"], divided(tp_size=1))
        wide = divided(tp_size=1, block_tokens=2 * BLOCK_TOKENS)
        mock.agents["east-agent"].register("e1", wide)
        await until(lambda: layouts.source("e1", "d1") == wide.packed())
        await until(lambda: layouts.source("p1", "d1") is None)
        await until(lambda: layouts.unfit == {})  # agents are asked one by one
        assert layouts.parts("e1") == 1


async def test_what_cannot_be_converted_is_named() -> None:
    mock = MockDeployment()
    async with mock.running():
        await mock.ready()
        layouts = mock.gateway.fleet.layouts
        for agent in mock.agents.values():
            for rank in agent.ranks:
                agent.register(rank["engine"], divided(tp_size=1))
        mock.agents["east-agent"].register("e1", divided(tp_size=1, heads=4))
        difference = "layer l0: heads or channels differs: [4] and [2]"
        await until(lambda: set(layouts.unfit.values()) == {difference})
