"""From the sender's pages to the receiver's: which units of which rank's part fill which pages.

A receiver whose engine divides layers otherwise than the sender's, or orders them otherwise inside
a page, converts what it reads. Here it is only said what goes where, in units of the model; the
copies are `vllm_plugin.converting`'s.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from prfaas.core.layout import KvLayout, LayerLayout, layers_in_model_order, turns


class Move(NamedTuple):
    """``units`` of a layer's piece number ``piece``, from ``source_unit`` of the pages of the
    sender's rank ``source_rank`` to ``target_unit`` of this rank's."""

    source_rank: int
    piece: int
    source_unit: int
    target_unit: int
    units: int


class LayerSource(NamedTuple):
    """Where a layer's pages come from. ``as_it_is``: one rank's whole pages, held as this rank
    holds its own."""

    layer: LayerLayout
    group: int
    as_it_is: bool
    moves: tuple[Move, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The sender's ranks with something for it."""
        return tuple(sorted({move.source_rank for move in self.moves}))


@lru_cache(maxsize=64)
def layer_sources(source: KvLayout, target: KvLayout) -> dict[str, LayerSource]:
    """Layer name to where its pages come from, for the rank whose layout is ``target``.

    ``source`` is any rank's of an engine that ``target``'s pairs with.
    """
    targets = {layer.name: (g, layer) for g, layer in layers_in_model_order(target)}
    turn_of = turns(source.of_rank(0))
    found: dict[str, LayerSource] = {}
    for group, layer in layers_in_model_order(source):
        target_group, target_layer = targets[layer.name]
        same = layer == target_layer and (
            source.groups[group].block_tokens == target.groups[target_group].block_tokens
        )
        if not layer.pieces:  # only equal engines pair
            move = Move(target.tp_rank, 0, 0, 0, 1)
            found[layer.name] = LayerSource(layer, group, True, (move,))
            continue
        moves = tuple(
            chain.from_iterable(
                _moves(source, target, layer, target_layer, number, turn_of[layer.name])
                for number in range(len(layer.pieces))
            )
        )
        whole = len({move.source_rank for move in moves}) == 1 and all(
            move.units == layer.pieces[move.piece].units for move in moves
        )
        found[layer.name] = LayerSource(layer, group, same and whole, moves)
    return found


def _moves(
    source: KvLayout,
    target: KvLayout,
    layer: LayerLayout,
    target_layer: LayerLayout,
    number: int,
    turn: int,
) -> list[Move]:
    ours, theirs = target_layer.pieces[number], layer.pieces[number]
    first = unit = ours.first_unit(target.tp_size, target.tp_rank)
    moves: list[Move] = []
    while unit < first + ours.units:
        inside = unit % theirs.units
        count = min(theirs.units - inside, first + ours.units - unit)
        rank = theirs.sender(source.tp_size, unit, turn)
        moves.append(Move(rank, number, inside, unit - first, count))
        unit += count
    return moves


@lru_cache(maxsize=64)
def parts_to_read(source: KvLayout, target: KvLayout) -> tuple[int, ...]:
    """The sender's ranks whose parts hold something for the rank whose layout is ``target``."""
    sources = layer_sources(source, target).values()
    return tuple(sorted(set(chain.from_iterable(s.ranks for s in sources))))
