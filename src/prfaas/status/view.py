"""Draws a snapshot for a terminal."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prfaas.core.units import format_bytes, format_count, format_rate
from prfaas.status.snapshot import (
    CacheStatus,
    ClusterStatus,
    EngineStatus,
    GatewayStatus,
    LineStatus,
    MachineStatus,
    Snapshot,
)

_DECISIONS_SHOWN = 8
_WIDE = 100
"""Columns of a terminal in which all is shown."""
_DETAILS = frozenset({"memory", "cached", "limit", "queued", "congestion", "why"})


def draw(snapshot: Snapshot, *, width: int = _WIDE) -> RenderableType:
    """The whole picture; every state is a word, so colour is not needed to read it. Where it has
    few columns (``width``), the less important ones are left out."""
    parts: list[RenderableType] = [_head(snapshot)]
    tables = [_clusters(snapshot.clusters)]
    if snapshot.lines:
        tables.append(_lines(snapshot.lines))
    parts += [_without_details(table) if width < _WIDE else table for table in tables]
    if snapshot.troubles:  # Before what may lie below the end of a small screen.
        parts.append(Text("troubles", "bold red"))
        parts += [Text(f"  {trouble}", "red") for trouble in snapshot.troubles]
    if snapshot.decisions:
        decisions = _decisions(snapshot)
        parts.append(_without_details(decisions) if width < _WIDE else decisions)
    return Group(*parts)


def _without_details(whole: Table) -> Table:
    kept = [column for column in whole.columns if column.header not in _DETAILS]
    table = Table(*(str(column.header) for column in kept), box=None, pad_edge=False)
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*cells)
    return table


def _head(snapshot: Snapshot) -> Text:
    gateway = snapshot.gateway
    state = "ready" if gateway.ready else "not ready" if gateway.up else "does not answer"
    text = Text.assemble(
        ("gateway ", "bold"),
        f"{gateway.url}  ",
        _word(state, good=gateway.ready),
        f"  {gateway.inflight} in flight{_waiting(gateway)}",
        f"  policy {snapshot.policy}{_threshold(snapshot)}",
        f"  {time.strftime('%H:%M:%S', time.localtime(snapshot.at))}\n",
    )
    counts = [f"{name}: {count:,}" for name, count in sorted(gateway.requests.items())]
    if counts:
        text.append(f"requests  {', '.join(counts)}\n")
    return text


def _waiting(gateway: GatewayStatus) -> str:
    """What waits for a place in an engine; nothing where nothing does."""
    found = (
        [f"{gateway.waiting_tokens:,} tokens wait for prefill"] if gateway.waiting_tokens else []
    )
    found += [
        f"{count:,} wait for decode in {cluster}"
        for cluster, count in sorted(gateway.waiting_for_decode.items())
        if count
    ]
    return f" ({', '.join(found)})" if found else ""


def _threshold(snapshot: Snapshot) -> str:
    tokens = snapshot.threshold_tokens
    used = "" if tokens is None else f", threshold {tokens:,} tokens"
    best = ", ".join(f"{name} {best:,}" for name, best in snapshot.searched_thresholds.items())
    return f"{used}; best now: {best}" if best else used


def _word(word: str, *, good: bool) -> tuple[str, str]:
    return word, "green" if good else "bold red"


def _clusters(clusters: list[ClusterStatus]) -> Table:
    columns = ("cluster", "process", "role", "state", "running", "waiting", "memory", "cached")
    table = Table(*columns, box=None, pad_edge=False)
    for cluster in clusters:
        several = len(cluster.machines) > 1
        if several:
            table.add_row(f"{cluster.name} ({cluster.kind})")
        for machine in cluster.machines:
            title = f"  {machine.name}" if several else f"{cluster.name} ({cluster.kind})"
            table.add_row(title, *_machine(machine))
            for engine in cluster.engines:
                if engine.machine == machine.name:
                    table.add_row("", *_engine(engine))
    return table


def _machine(machine: MachineStatus) -> list[str | Text]:
    total = sum(machine.slots.values())
    used = total - machine.slots.get("free", 0) - machine.slots.get("cached", 0)
    memory = (
        f"{format_bytes(used * machine.slot_bytes)} of {format_bytes(total * machine.slot_bytes)}"
    )
    transfers = sum(machine.transfers.values())
    return [
        machine.agent,
        "agent",
        _state(machine.up),
        format_count(transfers, "transfer") if machine.up else "",
        "",
        memory if total else "",
        ", ".join(_cache(cache) for cache in machine.caches),
    ]


def _cache(cache: CacheStatus) -> str:
    used, size = format_bytes(cache.used_bytes), format_bytes(cache.size_bytes)
    return f"{cache.tier} {used} of {size}"


def _engine_cache(engine: EngineStatus) -> str:
    blocks = "" if engine.cached_blocks is None else format_count(engine.cached_blocks, "block")
    return blocks if engine.hit_share is None else f"{blocks}, {engine.hit_share:.0%} hits"


def _engine(engine: EngineStatus) -> list[str | Text]:
    return [
        engine.name,
        engine.role,
        Text("draining", "yellow") if engine.up and engine.draining else _state(engine.up),
        _number(engine.running),
        _number(engine.waiting),
        "" if engine.kv_used is None else f"{engine.kv_used:.0%} of KV cache",
        _engine_cache(engine).removeprefix(", "),
    ]


def _state(up: bool) -> Text:
    return Text("up", "green") if up else Text("down", "bold red")


def _line_state(line: LineStatus) -> Text:
    if line.up and line.down:
        return Text(f"{line.pairs - len(line.down)} of {line.pairs} pairs up", "yellow")
    return _state(line.up)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _lines(lines: list[LineStatus]) -> Table:
    table = Table("line", "state", "goodput", "limit", "RTT", "queued", "congestion", box=None,
                  pad_edge=False)  # fmt: skip
    for line in lines:
        limit = line.limit_bytes_per_s
        table.add_row(
            line.source if line.source == line.target else f"{line.source} -> {line.target}",
            _line_state(line),
            format_rate(line.goodput_bytes_per_s),
            "none" if limit is None else format_rate(limit),
            f"{line.rtt_s * 1e3:.1f} ms" if line.rtt_s else "-",
            format_bytes(line.queued_bytes),
            f"{line.congestion:.0%}",
        )
    return table


def _decisions(snapshot: Snapshot) -> Table:
    table = Table("last requests", "route", "tokens", "cached", "engines", "first token", "why",
                  box=None, pad_edge=False)  # fmt: skip
    for row in snapshot.decisions[:_DECISIONS_SHOWN]:
        engines = " -> ".join(name for name in (row.prefill_engine, row.decode_engine) if name)
        table.add_row(
            row.request_id[:12],
            row.route or row.outcome,
            _number(row.total_tokens),
            _number(row.cached_tokens),
            engines,
            "" if row.first_token_s is None else f"{row.first_token_s:.3f} s",
            row.reason or "",
        )
    return table
