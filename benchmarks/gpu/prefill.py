"""Prefill of one engine: stock, with the connector idle, and exporting over a line of 10 Gbit/s.

Servers of one model share the first GPU (or as many as they have ranks), one with the connector; an
agent beside it sends to a second one on this machine, the line paced. Fresh prompts, the order of
modes drawn anew each round, two rounds to warm up (kernels are compiled and tuned at the first use
of a length). Several models start at once and are timed one after the other.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu.bench import Bench, Row, complete, prompt

from prfaas.core.transfer_plan import TransferPlan

LENGTHS = (1024, 8192, 32768, 131072)
MODES = ("stock", "idle", "exporting")
STOCK = ("stock", "piecewise")
WARM_UP_ROUNDS = 2
SETTLE_S = 0.25


def measure(
    models: Sequence[str],
    lengths: Sequence[int],
    rounds: int,
    *,
    modes: Sequence[str],
    kv_cache: str,
    args: Sequence[str],
    ranks: int = 1,
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:

        def start(number: int) -> Bench:
            return Bench(
                stack, Path(directory) / str(number), models[number],
                beside=[mode for mode in STOCK if mode in modes], ranks=ranks,
                kv_cache=kv_cache, max_model_len=max(lengths) + 4096, args=args,
            )  # fmt: skip

        with ThreadPoolExecutor(len(models)) as pool:
            benches = list(pool.map(start, range(len(models))))
        for model, bench in zip(models, benches, strict=True):
            for length in lengths:
                yield {"model": model, "ranks": ranks, **one_length(bench, length, rounds, modes)}


def one_length(bench: Bench, length: int, rounds: int, modes: Sequence[str] = MODES) -> Row:
    """Prefill of ``length`` tokens in each mode. A hand-off ends at the last block's end, or, where
    the prompt has none, before its last token."""
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    exports: list[Row] = []
    boundary = bench.layout.boundary(length)
    to_token = boundary or length - 1
    for number in range(WARM_UP_ROUNDS + rounds):
        for mode in random.sample(modes, len(modes)):
            seconds, export = _prefill(bench, mode, length, to_token)
            if number >= WARM_UP_ROUNDS:
                times[mode].append(seconds)
                exports += [export] if export else []
    medians = {mode: statistics.median(found) for mode, found in times.items()}
    size = sum(
        TransferPlan(bench.layout.of_rank(rank), from_token=0, to_token=to_token).total_bytes
        for rank in bench.layout.sending_ranks()
    )
    return {
        "prompt_tokens": length, "handed_over_tokens": to_token,
        "ends": "at a block's end" if boundary else "exact", "kv_bytes": size, "rounds": rounds,
        **{f"{mode}_s": medians[mode] for mode in modes},
        **{f"{mode}_all_s": times[mode] for mode in modes},
        "kv_throughput_gbit_per_s": 8e-9 * size / medians["idle"],
        **{key: statistics.median(e[key] for e in exports) for key in (exports or [{}])[0]},
    }  # fmt: skip


def _prefill(bench: Bench, mode: str, length: int, to_token: int) -> tuple[float, Row | None]:
    """Seconds to the first token of a prompt no cache knows; what became of its export."""
    ids, transfer_id = prompt(length), uuid.uuid4().hex
    exact = to_token == length - 1
    time.sleep(SETTLE_S)
    began = time.perf_counter()
    if mode == "exporting":
        bench.export(transfer_id, ids[:to_token] if exact else ids, to_token)
    else:
        complete(bench.engines[mode if mode in STOCK else "big"], ids)
    seconds, answered_at = time.perf_counter() - began, time.time()
    return seconds, _export(bench, transfer_id, answered_at) if mode == "exporting" else None


def _export(bench: Bench, transfer_id: str, answered_at: float) -> Row:
    arrived = bench.arrival(transfer_id)
    sent = bench.transfer("east", transfer_id, wait_s=5)["sent"]
    bench.forget(transfer_id)
    late_s = arrived["completed_at"] - answered_at
    hidden = sent["bytes_acknowledged_at_export_end"] / sent["bytes_total"]
    return {
        "arrived_after_answer_s": late_s,
        "hidden_share": hidden,
        # An export may end before the prompt does: at its last block's end.
        "hidden_when_answered_at_least": hidden if late_s > 0 else 1.0,
    }
