"""What every contender moves: 256 MiB of KV in the layout of a hybrid model.

Twelve full-attention layers, each a run of 64 KiB pages that were written in prefill chunks of one
to sixteen blocks, and 28 recurrent layers with one 4 MiB state each. No imports beyond the
standard library: the peers' own interpreters load it too.
"""

from __future__ import annotations

import json
import resource
import sys

KIB, MIB = 1024, 1024 * 1024
TOTAL_BYTES = 256 * MIB
_LAYERS, _PAGES, _PAGE = 12, 192, 64 * KIB
_STATES, _STATE = 28, 4 * MIB
_RUNS = (16, 16, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1)
"""Blocks per prefill chunk, repeated until the pages are used up."""


def ranges() -> list[tuple[int, int]]:
    """(flat offset, length) of every piece, in the order they become ready."""
    pieces: list[tuple[int, int]] = []
    page = run = 0
    while page < _PAGES:
        count = min(_RUNS[run % len(_RUNS)], _PAGES - page)
        for layer in range(_LAYERS):
            start = layer * _PAGES * _PAGE + page * _PAGE
            pieces.append((start, count * _PAGE))
        page, run = page + count, run + 1
    states_at = _LAYERS * _PAGES * _PAGE
    pieces.extend((states_at + n * _STATE, _STATE) for n in range(_STATES))
    assert sum(length for _, length in pieces) == TOTAL_BYTES
    return pieces


def say(event: str, **fields: object) -> None:
    """One JSON line to the runner."""
    print(json.dumps({"event": event, **fields}), flush=True)


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def wait_for_the_end() -> None:
    """Stay until the runner closes our standard input."""
    sys.stdin.read()
