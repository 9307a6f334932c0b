"""What is read out of each benchmark's results: a figure of ours beside a peer's or a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure.

    ``ours`` and ``other`` are in ``unit``; ``beside`` says whose or what ``other`` is, ``wanted``
    at most (or, where ``more`` is better, at least) which ratio of the two is aimed at.
    """

    benchmark: str
    what: str
    ours: float
    unit: str
    beside: str
    other: float
    wanted: float | None = None
    more: bool = False

    @property
    def key(self) -> str:
        """Names the row in every run."""
        return f"{self.benchmark}: {self.what} / {self.beside}"

    @property
    def ratio(self) -> float:
        """Of ours to the other."""
        return self.ours / self.other

    @property
    def reached(self) -> bool | None:
        """None where nothing is aimed at."""
        if self.wanted is None:
            return None
        return self.ratio >= self.wanted if self.more else self.ratio <= self.wanted

    def worse_than(self, stored: Row) -> float:
        """By which factor the ratio has become worse; below 1: better."""
        change = self.ratio / stored.ratio
        return 1 / change if self.more else change


Reader = Callable[[Any], Iterator[Row]]

_ADDED_MS = {2000: 1.5, 128_000: 5.0}
_FLOOR, _PD = "aiohttp pass-through", "prefill and decode"
_ALONE = "inner exchanges alone"


def gateway(result: Any) -> Iterator[Row]:
    """Of `benchmarks.gateway.peers`."""
    found = {(r["router"], r["route"], r.get("prompt_tokens")): r for r in result}
    for row in result:
        tokens = row.get("prompt_tokens")
        if row["router"] != "prfaas":
            continue
        if tokens is None:
            yield Row(
                "gateway", "CPU time of a streamed event", row["event_cpu_us"], "us",
                "limit", 75.0, 1.0,
            )  # fmt: skip
            continue
        cpu, what = row["cpu_ms_per_request"], f"CPU time of a request of {tokens:,} tokens"
        floor = found.get((_FLOOR, "direct", tokens))
        if row["route"] == "direct" and floor is not None:
            yield Row("gateway", what, cpu, "ms", _FLOOR, floor["cpu_ms_per_request"], 1.5)
        two = found.get(("prfaas, 2 workers", row["route"], tokens))
        if two is not None:
            both = two["cpu_ms_per_request"]
            yield Row("gateway", f"{what}, two workers", both, "ms", "one process", cpu, 1.1)
        peer = found.get(("vllm-router", _PD, tokens))
        if row["route"] == "offload" and peer is not None:
            wanted = 1.5 if tokens > 100_000 else 2.0
            of = "vllm-router, prefill and decode"
            yield Row("gateway", what, cpu, "ms", of, peer["cpu_ms_per_request"], wanted)
            added = f"added to the first byte, {tokens:,} tokens"
            yield Row("gateway", added, row["added_p50_ms"], "ms", of, peer["added_p50_ms"])
            alone = found.get((_ALONE, "offload", tokens))
            if alone is not None:
                yield Row(
                    "gateway", added, row["added_p50_ms"], "ms", _ALONE, alone["added_p50_ms"]
                )
            limit_ms = _ADDED_MS.get(tokens)
            if limit_ms is not None:
                yield Row("gateway", added, row["added_p50_ms"], "ms", "limit", limit_ms, 1.0)


_FLEET = {
    "idle_cpu_share": ("of a core while nothing is asked, 1,000 engines", "share", 0.05),
    "arrival_p99_ms_27k": ("arrival to command, 27K tokens, p99", "ms", 1.0),
    "arrival_p99_ms_128k_block256": ("arrival to command, 128K tokens, p99", "ms", 3.0),
    "arrival_p99_ms_128k_block16": ("the same, blocks of 16 tokens", "ms", 10.0),
    "longest_stall_ms": ("longest stall of the event loop", "ms", 20.0),
    "bytes_per_block": ("memory of the index for a block", "bytes", 150.0),
}


def fleet(result: Any) -> Iterator[Row]:
    """Of `benchmarks.gateway.fleet`."""
    for name, (what, unit, limit) in _FLEET.items():
        if name in result:
            yield Row("fleet", what, result[name], unit, "limit", limit, 1.0)


def transfer(result: Any) -> Iterator[Row]:
    """Of `benchmarks.transfer`."""
    for row in result:
        mine = row["ours_bytes_per_s"]
        how = "TLS" if row["tls"] else "plaintext"
        for peer in ("iperf3", "nixl", "mooncake"):
            other = row[f"{peer}_bytes_per_s"]
            if not mine or not other:
                continue
            wanted = 0.95 if peer == "iperf3" and row["tls"] and row["link"] != "loopback" else None
            yield Row(
                "link", f"{row['link']}, {how}", mine * 8e-9, "Gbit/s", peer, other * 8e-9,
                wanted, more=True,
            )  # fmt: skip


def carry(result: Any) -> Iterator[Row]:
    """Of `benchmarks.carry`."""
    for kind in ("request", "event"):
        times = result[kind]
        yield Row(
            "carried by agents", f"{kind}, p50", times["carried"]["p50_ms"], "ms",
            "without agents", times["direct"]["p50_ms"],
        )  # fmt: skip


def engine(result: Any) -> Iterator[Row]:
    """Of `benchmarks.engine`."""
    for row in result:
        for mode in ("idle", "exporting"):
            yield Row(
                "connector", f"prefill of {row['prompt_tokens']:,.0f} tokens, {mode}",
                row[f"{mode}_tokens_per_s"], "tokens/s", "stock vLLM",
                row["stock_tokens_per_s"], more=True,
            )  # fmt: skip


def handoff(result: Any) -> Iterator[Row]:
    """Of `benchmarks.handoff`."""
    for row in result:
        yield Row(
            "hand-off", f"first token of {row['prompt_tokens']:,.0f} tokens, over 200 Mbit/s",
            row["offload_ttft_s"], "s", "same cluster", row["local_ttft_s"],
        )  # fmt: skip


def simulator(result: Any) -> Iterator[Row]:
    """Of `benchmarks.simulator`: plain and compiled, by CPU time."""
    speeds: dict[tuple[str, bool], list[float]] = {}
    for timing in result["timings"]:
        if "compiled" in timing:
            key = timing["name"], timing["compiled"]
            speeds.setdefault(key, []).append(timing["requests_per_s"])
    for (name, compiled), found in speeds.items():
        if compiled and (name, False) in speeds:
            yield Row(
                "simulator", f"{name}, compiled", max(found), "requests/s", "plain",
                max(speeds[name, False]), more=True,
            )  # fmt: skip


def pool(result: Any) -> Iterator[Row]:
    """Of `benchmarks.pool`, as far as it was measured."""
    for name, rate in (result.get("rates") or {}).items():
        if isinstance(rate, dict) and "limit_bytes_per_s" in rate:
            yield Row(
                "cache", name.replace("_", " "), rate["bytes_per_s"] * 1e-9, "GB/s",
                rate["limit"], rate["limit_bytes_per_s"] * 1e-9, more=True,
            )  # fmt: skip
