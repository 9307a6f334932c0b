"""Which bytes of a page a piece is, and which rank sends them."""

from __future__ import annotations

import pytest

from prfaas.core.pieces import MOST_RUNS, Piece, fill_page, joined


def heads(*, before_tokens: bool, units: int = 2, total: int = 8) -> Piece:
    """Cells of 4 bytes, three tokens a page."""
    return Piece(
        offset=0,
        rows=1,
        row_stride=units * 12,
        units=units,
        unit_stride=12 if before_tokens else 4,
        cells=3,
        cell_stride=4 if before_tokens else 4 * units,
        cell_bytes=4,
        total_units=total,
        cell_tokens=1,
    )


def channels(offset: int, units: int) -> Piece:
    """Of a convolution of three taps over eight channels of 2 bytes."""
    return Piece(
        offset=2 * offset,
        rows=3,
        row_stride=16,
        units=units,
        unit_stride=2,
        cells=1,
        cell_stride=2,
        cell_bytes=2,
        total_units=units,
    )


@pytest.mark.parametrize("before_tokens", [True, False])
def test_a_dense_array_is_one_run_whatever_its_order(before_tokens: bool) -> None:
    assert heads(before_tokens=before_tokens).runs() == [(0, 24)]
    assert fill_page((heads(before_tokens=before_tokens),), 24)
    assert not fill_page((heads(before_tokens=before_tokens),), 28)


def test_parts_of_a_convolution_are_a_run_per_tap() -> None:
    first, second = channels(0, 2), channels(2, 6)
    assert first.runs() == [(0, 4), (16, 20), (32, 36)]
    assert second.runs() == [(4, 16), (20, 32), (36, 48)]
    assert fill_page((first, second), 48)
    assert not fill_page((first, first, second), 48)


def comb(offset: int, teeth: int) -> Piece:
    """Every second byte."""
    sizes = {"rows": 1, "row_stride": 1, "cells": 1, "cell_stride": 1, "cell_bytes": 1}
    units = {"units": teeth, "unit_stride": 2, "total_units": teeth}
    return Piece(offset=offset, **units, **sizes)


def test_no_page_lies_in_more_places_than_real_ones() -> None:
    """All of its pieces together: thousands of such layers are looked at one after the other."""
    most = MOST_RUNS // 2
    assert fill_page((comb(0, most), comb(1, most)), 2 * most)
    assert not fill_page((comb(0, most + 1), comb(1, most + 1)), 2 * most + 2)


def test_neighbours_are_joined() -> None:
    assert joined([(4, 6), (0, 4), (8, 9)]) == [(0, 6), (8, 9)]


def test_every_unit_is_sent_by_one_rank_which_changes_with_the_turn() -> None:
    piece = heads(before_tokens=True, units=1, total=2)
    assert (piece.shards, piece.replicas(8)) == (2, 4)
    assert [piece.first_unit(8, rank) for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    for turn in range(9):
        senders = [r for r in range(8) if piece.is_sent_by(8, r, turn)]
        assert senders == [piece.sender(8, unit, turn) for unit in (0, 1)]
        assert senders == [turn % 4, 4 + turn % 4]


def test_bytes_of_a_rank_and_of_all_of_them() -> None:
    piece = heads(before_tokens=True)
    assert (piece.held_bytes, piece.total_bytes) == (24, 96)
