"""Where every page of one rank's part of a hand-off lies in its flat address space."""

from __future__ import annotations

import msgspec

from prfaas.core.layout import (
    KvLayout,
    LayerLayout,
    block_range,
    layers_in_model_order,
    sent_runs,
)


class LayerSpan(msgspec.Struct, frozen=True):
    """A layer's place in the flat address space: pages of blocks [first_block, end_block).

    ``runs`` are the parts [start, end) of a page that this rank sends; ``sent_bytes`` their sum.
    """

    group: int
    layer: LayerLayout
    first_block: int
    end_block: int
    flat_offset: int
    runs: tuple[tuple[int, int], ...]
    sent_bytes: int

    @property
    def length(self) -> int:
        """Bytes of the span."""
        return (self.end_block - self.first_block) * self.sent_bytes

    @property
    def whole_pages(self) -> bool:
        """Whether pages leave whole."""
        return self.sent_bytes == self.layer.page_bytes

    def offset_of(self, block: int) -> int:
        """Flat offset of what is sent of one block's page."""
        return self.flat_offset + (block - self.first_block) * self.sent_bytes


class TransferPlan:
    """Which pages one rank's part of a hand-off of [from_token, to_token) carries and where each
    lies in flat space. Layers of which another rank sends everything have no span.

    Args:
        layout: the sending rank's layout.
        from_token: first token the receiver lacks; rounded down to a block of each group.
        to_token: where the hand-off ends, at least one token.
    """

    def __init__(self, layout: KvLayout, *, from_token: int, to_token: int) -> None:
        if to_token <= 0 or not 0 <= from_token <= to_token:
            raise ValueError(f"from_token {from_token} outside [0, {to_token}]")
        self.from_token, self.to_token = from_token, to_token
        self.spans: dict[str, LayerSpan] = {}
        offset = 0
        sent = sent_runs(layout)
        for group_index, layer in layers_in_model_order(layout):
            runs = sent.get(layer.name)
            if runs is None:
                continue
            first, end = block_range(layout.groups[group_index], from_token, to_token)
            sent_bytes = sum(end - start for start, end in runs)
            span = LayerSpan(group_index, layer, first, end, offset, runs, sent_bytes)
            self.spans[layer.name] = span
            offset += span.length
        self.total_bytes = offset
