"""What the end of a hand-off costs: at the last block's end, or exact.

A prefill and a decode engine of one model share the first GPU, their agents a line of 10 Gbit/s.
Per length, hand-offs of both kinds are timed from the prefill's begin to the decode engine's first
token, while answers stream from the decode engine: their longest pauses are the price that
neighbours pay. Then prefill alone, the connector idle and exporting, for the KV throughput table.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.gpu.prefill import LENGTHS as PREFILL_LENGTHS
from benchmarks.gpu.prefill import Bench, one_length

from prfaas.testing.running import call

LENGTHS = (1500, 9000)
NEIGHBOURS = 4
WARM_UP_ROUNDS = 2
_ANSWER_TOKENS = 4000

Row = dict[str, Any]


def measure(
    model: str, lengths: Sequence[int], rounds: int, *, kv_cache: str, args: list[str]
) -> Iterator[Row]:
    longest = max(*lengths, *PREFILL_LENGTHS)
    serves = {"path": model, "kv_cache": kv_cache, "max_model_len": longest + 4096}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        bench = Bench(stack, Path(directory), serves, args, beside="decode")
        for length in lengths:
            yield from _one_length(bench, length, rounds)
        for length in PREFILL_LENGTHS:
            row = one_length(bench, length, rounds, modes=("idle", "exporting"))
            yield {"what": "prefill", **row}


class _Neighbour(threading.Thread):
    """An answer that streams from the decode engine; ``at``: when each token came."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.at: list[float] = []
        self.over = False

    def run(self) -> None:
        body = {
            "model": "big", "prompt": _prompt(300), "max_tokens": _ANSWER_TOKENS, "temperature": 0,
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


def _one_length(bench: Bench, length: int, rounds: int) -> Iterator[Row]:
    boundary = bench.layout.boundary(length)
    found: dict[str, list[Row]] = {"aligned": [], "exact": []}
    neighbours = [_Neighbour(bench.engines["decode"]) for _ in range(NEIGHBOURS)]
    for neighbour in neighbours:
        neighbour.start()
    time.sleep(1.0)
    for number in range(WARM_UP_ROUNDS + rounds):
        for kind, end in random.sample([("aligned", boundary), ("exact", length - 1)], 2):
            row = _handoff(bench, length, end, neighbours, exact=kind == "exact")
            if number >= WARM_UP_ROUNDS:
                found[kind].append(row)
    usual = [b - a for n in neighbours for a, b in zip(n.at, n.at[1:], strict=False)]
    for neighbour in neighbours:
        neighbour.over = True
        neighbour.join(30)
    for kind, rows in found.items():
        yield {
            "what": "tail", "kind": kind, "prompt_tokens": length, "boundary": boundary,
            "rounds": rounds, "neighbours": NEIGHBOURS,
            "usual_pause_ms": 1e3 * statistics.median(usual),
            **{key: statistics.median(row[key] for row in rows) for key in rows[0]},
            "all_ttft_s": [row["ttft_s"] for row in rows],
        }  # fmt: skip


def _handoff(
    bench: Bench, length: int, end: int, neighbours: Sequence[_Neighbour], *, exact: bool
) -> Row:
    """One prompt through both engines; without a block to hand over, the decode engine alone."""
    ids, transfer_id = _prompt(length), uuid.uuid4().hex
    body: Row = {"model": "big", "max_tokens": 1, "temperature": 0}
    about = {"transfer_id": transfer_id, "from_token": 0, "to_token": end}
    began = time.perf_counter()
    more: Row = {}
    if end:
        params = {"prfaas": "export", "destination": "west-agent", **about}
        prompt = ids[:end] if exact else ids
        _ask(bench, "big", body | {"prompt": prompt, "kv_transfer_params": params})
        path = f"transfers/{transfer_id}"
        arrived = call(f"{bench.admins['west']}/{path}?wait_s=60&ranks=1").json()
        if arrived["state"] != "complete":
            raise RuntimeError(f"the transfer did not arrive: {arrived}")
        more["kv_transfer_params"] = {"prfaas": "import", **about}
    arrived_at = time.perf_counter()
    _ask(bench, "decode", body | {"prompt": ids, **more})
    done = time.perf_counter()
    if end:
        for admin in bench.admins.values():
            call(f"{admin}/{path}", method="DELETE")
    time.sleep(0.2)
    return {
        "ttft_s": done - began, "decode_s": done - arrived_at,
        "neighbours_longest_pause_ms": 1e3
        * statistics.median(n.longest_pause_s(arrived_at, done) for n in neighbours),
        "handed_over_tokens": end,
    }  # fmt: skip


def _ask(bench: Bench, engine: str, body: Row) -> None:
    answer = call(f"{bench.engines[engine]}/v1/completions", body)
    if answer.status != 200:
        raise RuntimeError(f"{engine}: {answer.body[:500]!r}")


def _prompt(length: int) -> list[int]:
    return random.choices(range(300, 4000), k=length)
