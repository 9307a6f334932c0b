"""How a snapshot looks: everything it says is a word, also without colour."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from prfaas.status.snapshot import (
    CacheStatus,
    ClusterStatus,
    Decision,
    EngineStatus,
    GatewayStatus,
    LineStatus,
    MachineStatus,
    Snapshot,
)
from prfaas.status.view import draw


def snapshot(*, up: bool) -> Snapshot:
    engine = EngineStatus(
        name="d1", machine="west", role="decode", url="http://d1", up=up,
        running=3, waiting=2, kv_used=0.5,
        cached_blocks=1200, hit_share=0.25,
    )  # fmt: skip
    machine = MachineStatus(
        name="west", agent="west-agent", address="w:1", up=up, engines_registered=1,
        slots={"free": 3, "held": 1}, slot_bytes=1 << 20, transfers={"export": 2},
        caches=[
            CacheStatus(tier="memory", used_bytes=1 << 20, size_bytes=2 << 20),
            CacheStatus(tier="ssd", used_bytes=3 << 30, size_bytes=8 << 30),
        ],
    )  # fmt: skip
    line = LineStatus(
        source="east", target="west", up=up, pairs=1, down=[], connections=8,
        goodput_bytes_per_s=1.25e8,
        limit_bytes_per_s=None, rtt_s=0.03, queued_bytes=1 << 20, congestion=0.25,
    )  # fmt: skip
    decision = Decision(
        request_id="0123456789abcdef", route="offload", reason="100 uncached tokens > 40",
        total_tokens=100, cached_tokens=0, prefill_engine="e1", decode_engine="d1",
        first_token_s=0.5, outcome="ok",
    )  # fmt: skip
    return Snapshot(
        at=0.0,
        model="m",
        policy="threshold",
        threshold_tokens=19_400,
        searched_thresholds={"west": 21_000},
        gateway=GatewayStatus(
            url="http://g",
            up=up,
            ready=up,
            inflight=7,
            requests={"pd ok": 5},
            waiting_tokens=45_000,
            waiting_for_decode={"west": 3},
        ),
        clusters=[ClusterStatus(name="west", kind="pd", machines=[machine], engines=[engine])],
        lines=[line],
        decisions=[decision],
        troubles=[] if up else ["engine d1 of west is down"],
    )


def text(*, up: bool) -> str:
    page = io.StringIO()
    Console(width=200, color_system=None, file=page).print(draw(snapshot(up=up)))
    return page.getvalue()


def test_all_of_a_healthy_deployment_is_shown() -> None:
    shown = text(up=True)
    for part in (
        "ready", "7 in flight", "19,400 tokens", "pd ok: 5", "west (pd)", "1.0 MiB of 4.0 MiB",
        "50% of KV cache", "1,200 blocks, 25% hits", "memory 1.0 MiB of 2.0 MiB, ssd 3.0 GiB",
        "7 in flight (45,000 tokens wait for prefill, 3 wait for decode in west)",
        "east -> west", "1.0 Gbit/s", "30.0 ms", "25%",
        "e1 -> d1", "100 uncached tokens > 40",
    ):  # fmt: skip
        assert part in shown
    assert "troubles" not in shown


def test_what_is_down_is_said_in_words() -> None:
    shown = text(up=False)
    for part in ("does not answer", "down", "troubles", "engine d1 of west is down"):
        assert part in shown


def test_machines_of_a_cluster_and_pairs_of_a_line_are_told_apart() -> None:
    whole = snapshot(up=True)
    (cluster,), (line,) = whole.clusters, whole.lines
    (machine,), (engine,) = cluster.machines, cluster.engines
    second = msgspec.structs.replace(machine, name="west-2", agent="agent-2")
    other = msgspec.structs.replace(engine, name="d2", machine="west-2")
    cluster = msgspec.structs.replace(cluster, machines=[machine, second], engines=[other, engine])
    line = msgspec.structs.replace(line, pairs=2, down=["e to agent-2"])
    page = io.StringIO()
    changed = msgspec.structs.replace(whole, clusters=[cluster], lines=[line])
    Console(width=200, color_system=None, file=page).print(draw(changed))
    rows = page.getvalue().splitlines()
    order = [n for row in rows for n in ("west-agent", "d1 ", "agent-2", "d2 ") if f" {n}" in row]
    assert order[:4] == ["west-agent", "d1 ", "agent-2", "d2 "]
    assert "1 of 2 pairs up" in page.getvalue()


def test_a_narrow_screen_has_names_and_states_whole_and_troubles_first() -> None:
    page = io.StringIO()
    Console(width=60, color_system=None, file=page).print(draw(snapshot(up=False), width=60))
    shown = page.getvalue()
    for part in ("west-agent", "d1", "engine d1 of west is down"):
        assert part in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert "KV cache" not in shown
    assert shown.index("troubles") < shown.index("last requests")
