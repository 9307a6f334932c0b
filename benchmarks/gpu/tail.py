"""What a decode engine pays: for the end of a hand-off, and for importing beside running answers.

A prefill and a decode engine of one model share the first GPU, their agents a line of 10 Gbit/s.
Per length, hand-offs that end at a block's end and exact ones are timed from the prefill's begin to
the decode engine's first token, while answers stream from the decode engine: their longest pauses
are the price that neighbours pay. Then hand-offs wait in the agent's memory, the prefill engine is
idle, and the answers' pace is compared while nothing else happens, while the decode engine loads
them, and while it is asked as many prompts that it has in its own cache.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu.bench import Bench, Row, complete, prompt
from benchmarks.gpu.prefill import one_length

LENGTHS = (1500, 9000)
NEIGHBOURS = 4
WARM_UP_ROUNDS = 2
IMPORTED_TOKENS = 8192
"""Of whole blocks; the prompt has one token more, which the decode engine computes."""
IMPORTS = 8
IMPORT_EVERY_S = 0.25
"""A prompt of 8,192 tokens in so short a time is twice what one engine of this size prefills."""
_ANSWER_TOKENS = 30_000


def measure(
    model: str,
    lengths: Sequence[int],
    rounds: int,
    *,
    modes: Sequence[str],
    prefill_lengths: Sequence[int],
    kv_cache: str,
    args: Sequence[str],
) -> Iterator[Row]:
    longest = max(*lengths, *prefill_lengths, _ANSWER_TOKENS + 1000)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        bench = Bench(
            stack, Path(directory) / "bench", model,
            beside=["decode", *(["stock"] if "stock" in modes else [])],
            kv_cache=kv_cache, max_model_len=longest + 4096, args=args,
        )  # fmt: skip
        for length in lengths:
            yield from _one_length(bench, length, rounds)
        yield _importing(bench, rounds)
        bench.check_that_no_load_failed()
        for length in prefill_lengths:
            yield {"what": "prefill", **one_length(bench, length, rounds, modes)}


class _Neighbour(threading.Thread):
    """An answer that streams from the decode engine; ``at``: when each token came."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.at: list[float] = []
        self.over = False

    def run(self) -> None:
        body = {
            "model": "big", "prompt": prompt(300), "max_tokens": _ANSWER_TOKENS, "temperature": 0,
            "stream": True, "ignore_eos": True,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self._url}/v1/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=300) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    self.at.append(time.perf_counter())
                if self.over:
                    return

    def longest_pause_s(self, begin: float, end: float) -> float:
        times = [t for t in self.at if begin - 0.1 <= t <= end + 0.1]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def tokens(self, begin: float, end: float) -> int:
        return sum(begin <= t < end for t in self.at)


class _Neighbours:
    """Answers that stream while ``with`` lasts."""

    def __init__(self, bench: Bench) -> None:
        self.all = [_Neighbour(bench.engines["decode"]) for _ in range(NEIGHBOURS)]

    def __enter__(self) -> _Neighbours:
        for neighbour in self.all:
            neighbour.start()
        time.sleep(1.0)
        return self

    def __exit__(self, *_: object) -> None:
        for neighbour in self.all:
            neighbour.over = True
            neighbour.join(30)

    def usual_pause_s(self) -> float:
        return statistics.median(b - a for n in self.all for a, b in itertools.pairwise(n.at))

    def longest_pause_s(self, begin: float, end: float) -> float:
        return statistics.median(n.longest_pause_s(begin, end) for n in self.all)

    def tokens_per_s(self, begin: float, end: float) -> float:
        """Of one answer, on average."""
        return sum(n.tokens(begin, end) for n in self.all) / (end - begin) / len(self.all)


def _one_length(bench: Bench, length: int, rounds: int) -> Iterator[Row]:
    boundary = bench.layout.boundary(length)
    found: dict[str, list[Row]] = {"aligned": [], "exact": []}
    with _Neighbours(bench) as neighbours:
        for number in range(WARM_UP_ROUNDS + rounds):
            for kind, end in random.sample([("aligned", boundary), ("exact", length - 1)], 2):
                row = _handoff(bench, length, end, neighbours, exact=kind == "exact")
                if number >= WARM_UP_ROUNDS:
                    found[kind].append(row)
    for kind, rows in found.items():
        yield {
            "what": "tail", "kind": kind, "prompt_tokens": length, "boundary": boundary,
            "rounds": rounds, "neighbours": NEIGHBOURS,
            "usual_pause_ms": 1e3 * neighbours.usual_pause_s(),
            **{key: statistics.median(row[key] for row in rows) for key in rows[0]},
            "all_ttft_s": [row["ttft_s"] for row in rows],
        }  # fmt: skip


def _handoff(bench: Bench, length: int, end: int, neighbours: _Neighbours, *, exact: bool) -> Row:
    """One prompt through both engines; without a block to hand over, the decode engine alone."""
    ids, transfer_id = prompt(length), uuid.uuid4().hex
    began = time.perf_counter()
    if end:
        bench.export(transfer_id, ids[:end] if exact else ids, end)
        bench.arrival(transfer_id)
    arrived_at = time.perf_counter()
    if end:
        _load(bench, transfer_id, ids, end)
    else:
        complete(bench.engines["decode"], ids)
    done = time.perf_counter()
    bench.forget(transfer_id)
    time.sleep(0.2)
    return {
        "ttft_s": done - began, "decode_s": done - arrived_at,
        "neighbours_longest_pause_ms": 1e3 * neighbours.longest_pause_s(arrived_at, done),
        "handed_over_tokens": end,
    }  # fmt: skip


def _load(bench: Bench, transfer_id: str, ids: list[int], end: int) -> None:
    params = {"prfaas": "import", "transfer_id": transfer_id, "from_token": 0, "to_token": end}
    complete(bench.engines["decode"], ids, kv_transfer_params=params)


def _importing(bench: Bench, rounds: int) -> Row:
    """Pace of running answers: alone, beside imports, beside requests without any."""
    paces: dict[str, list[float]] = {"alone": [], "importing": [], "cached": []}
    pauses: dict[str, list[float]] = {kind: [] for kind in paces}
    end = bench.layout.boundary(IMPORTED_TOKENS + 1)
    cached = prompt(end + 1)
    complete(bench.engines["decode"], cached)
    with _Neighbours(bench) as neighbours:
        for number in range(1 + rounds):
            waiting = {uuid.uuid4().hex: prompt(end + 1) for _ in range(IMPORTS)}
            for transfer_id, ids in waiting.items():
                bench.export(transfer_id, ids, end)
                bench.arrival(transfer_id)
            asked: dict[str, list[Callable[[], object]]] = {
                "alone": [lambda: None] * IMPORTS,
                "importing": [
                    lambda t=t, ids=ids: _load(bench, t, ids, end) for t, ids in waiting.items()
                ],
                "cached": [lambda: complete(bench.engines["decode"], cached)] * IMPORTS,
            }
            for kind in random.sample(list(asked), len(asked)):
                begin, over = _paced(asked[kind])
                if number:
                    paces[kind].append(neighbours.tokens_per_s(begin, over))
                    pauses[kind].append(neighbours.longest_pause_s(begin, over))
            for transfer_id in waiting:
                bench.forget(transfer_id)
    return {
        "what": "importing", "prompt_tokens": end + 1, "imports": IMPORTS,
        "every_s": IMPORT_EVERY_S, "rounds": rounds, "neighbours": NEIGHBOURS,
        **{f"{kind}_tokens_per_s": statistics.median(found) for kind, found in paces.items()},
        **{f"{kind}_all_tokens_per_s": found for kind, found in paces.items()},
        **{f"{kind}_longest_pause_ms": 1e3 * statistics.median(p) for kind, p in pauses.items()},
    }  # fmt: skip


def _paced(calls: Sequence[Callable[[], object]]) -> tuple[float, float]:
    """One call each `IMPORT_EVERY_S`; when it began and ended."""
    begin = time.perf_counter()
    for number, ask in enumerate(calls):
        time.sleep(max(0.0, begin + number * IMPORT_EVERY_S - time.perf_counter()))
        ask()
    time.sleep(max(0.0, begin + len(calls) * IMPORT_EVERY_S - time.perf_counter()))
    return begin, time.perf_counter()
