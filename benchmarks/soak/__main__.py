"""``make soak HOURS=1``: a whole fleet at saturation, then with churn of engines; what grows?

Real agents and gateways and engines without a model, on this machine (`LocalFleet`). The engines'
caches are filled first, also of those that are seldom asked, and the links have as many connections
as they are given. Every five seconds the memory, descriptors and threads of every process, the
arenas and the index are sampled. The first third of each part is its warm-up. Of the rest, the
first and the last quarter are compared: what is more than 2% higher at the end has grown. Of memory
and the index that is the mean. Of descriptors and threads, of which each request under way has
some, it is the least, and more than `MORE`; with churn, where those of an engine come and go with
it, the median, and more than `MORE_IN_CHURN`. Exit status 1 where something grew, or a request was
lost or wrong. Writes ``build/bench/soak.json`` and ``soak.png``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

from prfaas.plots.figure import new_figure
from prfaas.testing.calling import call
from prfaas.testing.fleet_load import LONG, FleetLoad
from prfaas.testing.local_fleet import DEADLINE_S, ENGINES, SLOTS, LocalFleet
from prfaas.testing.mock_machine import CACHED_BLOCKS

EVERY_S = 5.0
CHURN_S = 20.0
"""One set of engines is killed and started again so often."""
WARM_UP = 1 / 3
GROWS = 0.02
MORE, MORE_IN_CHURN = 2, 8
CLIENTS = 24
CONNECTIONS = 8
"""Of each line."""
OUT = Path("build/bench")
Sample = dict[str, float]


def sampled(fleet: LocalFleet, load: FleetLoad) -> Sample:
    """Everything that must stay flat, by name."""
    found: Sample = {}
    for name in fleet.names:
        with contextlib.suppress(KeyError, OSError, ValueError):
            found |= {f"{name} {what}": value for what, value in fleet.usage(name).items()}
    for machine in ENGINES:
        found[f"{machine} arena slots used"] = SLOTS - fleet.free_slots(machine)
    for name in fleet.gateways:
        page = fleet.metrics(name)
        found[f"{name} index blocks"] = page.get("prfaas_gateway_index_distinct_blocks", 0.0)
    found["answered"] = float(load.counts()["right"])
    return found


def fill_caches(fleet: LocalFleet) -> None:
    """Every engine is asked for as much as it can hold: what fills up is not what grows."""
    chance = random.Random(1)
    for engine in fleet.engine_addresses:
        for _ in range(CACHED_BLOCKS * 16 // LONG + 1):
            body = {"prompt": [chance.randrange(1000) for _ in range(LONG)], "max_tokens": 1}
            call(f"{fleet.url(engine)}/v1/completions", body)


async def part(fleet: LocalFleet, load: FleetLoad, lasts_s: float, *, churn: bool) -> list[Sample]:
    """Samples of one part, under load from begin to end, in seconds since it began under ``at``."""
    began, found = time.monotonic(), list[Sample]()
    async with load.running(CLIENTS), _churning(fleet, churn):
        while (at := time.monotonic() - began) < lasts_s:
            sample = await asyncio.to_thread(sampled, fleet, load)
            found.append({"at": at, **sample})
            await asyncio.sleep(EVERY_S)
    return found


@contextlib.asynccontextmanager
async def _churning(fleet: LocalFleet, churn: bool) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(_churn(fleet, stop)) if churn else None
    try:
        yield
    finally:
        stop.set()
        if task is not None:
            await task


async def _churn(fleet: LocalFleet, stop: asyncio.Event) -> None:
    """Kill and start engines in turn."""
    chance = random.Random(0)
    while not stop.is_set():
        name = f"{chance.choice(list(ENGINES))}-engines"
        await asyncio.to_thread(fleet.kill, name)
        await asyncio.sleep(1.0)
        fleet.start(name)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), CHURN_S)


def grown(samples: list[Sample], *, churn: bool) -> list[dict[str, Any]]:
    """What was higher in the last quarter than in the first, after the warm-up."""
    warm = [s for s in samples if s["at"] >= WARM_UP * samples[-1]["at"]]
    quarter = max(1, len(warm) // 4)
    rows = []
    for name in sorted(set.intersection(*(set(s) for s in warm)) - {"at", "answered"}):
        if churn and ("-engines" in name or "index" in name):
            continue  # Engines begin anew all the time, and their caches with them.
        counted = name.endswith(("descriptors", "threads"))
        middle = (median if churn else min) if counted else fmean
        first, last = (middle(s[name] for s in some) for some in (warm[:quarter], warm[-quarter:]))
        more = (MORE_IN_CHURN if churn else MORE) if counted else 0
        limit = first * (1 + GROWS) + more
        if "arena" in name:
            limit = SLOTS  # What is under way just then; in the end all is free, which `run` asks.
        rows.append({"what": name, "first": first, "last": last, "grew": last > limit})
    return rows


def draw(parts: dict[str, list[Sample]], path: Path) -> None:
    """Memory, descriptors and threads of agents and gateways, arenas, over both parts."""
    figure, axes = new_figure(size=(9, 10), rows=4, share_x=True)
    wanted = (("rss_kib", "MiB", 1024), ("descriptors", "descriptors", 1),
              ("threads", "threads", 1), ("arena slots used", "arena slots used", 1))  # fmt: skip
    for axis, (what, label, unit) in zip(axes, wanted, strict=True):
        offset = 0.0
        colours: dict[str, str] = {}
        for samples in parts.values():
            names = [n for n in samples[0] if n.endswith(what) and "-engines" not in n]
            for name in names:
                at = [(offset + s["at"]) / 60 for s in samples if name in s]
                values = [s[name] / unit for s in samples if name in s]
                label_once = None if name in colours else name.split()[0]
                (line,) = axis.plot(at, values, color=colours.get(name), label=label_once, lw=1)
                colours[name] = line.get_color()
            offset += samples[-1]["at"]
            axis.axvline(offset / 60, color="0.7", lw=0.5)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, ncols=3, fontsize=7)
    axes[-1].set_xlabel(f"minutes ({', then '.join(parts)})")
    figure.savefig(path)


async def run(hours: float, fleet: LocalFleet) -> dict[str, Any]:
    """Both parts; everything that was seen."""
    urls = {name: fleet.url(name) for name in fleet.gateways}
    load = FleetLoad(urls, seed=0, deadline_s=DEADLINE_S)
    lasts_s = {"steady": hours * 3600 * 2 / 3, "churn": hours * 3600 / 3}
    parts, rows = {}, []
    for name, seconds in lasts_s.items():
        parts[name] = await part(fleet, load, seconds, churn=name == "churn")
        await asyncio.to_thread(fleet.wait, fleet.whole, "whole again")
        for machine in ENGINES:
            free = lambda m=machine: fleet.free_slots(m) == SLOTS  # noqa: E731
            await asyncio.to_thread(fleet.wait, free, f"the arena of {machine} is free")
        rows += [{"part": name, **r} for r in grown(parts[name], churn=name == "churn")]
        told = [f"{r['what']}: {r['first']:.0f} -> {r['last']:.0f}" for r in rows if r["grew"]]
        print(f"{name}: {seconds / 60:.0f} min, {dict(load.counts())}; grew: {told}", flush=True)
    bad = [f"request {e.number} was {e.how}: {e.told}" for e in load.bad()]
    return {"hours": hours, "ended": dict(load.counts()), "bad": bad, "rows": rows, "parts": parts}


def main() -> int:
    """Run, write, say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="prfaas-soak-") as home,
        LocalFleet(Path(home), connections=CONNECTIONS) as fleet,
    ):
        fill_caches(fleet)
        found = asyncio.run(run(args.hours, fleet))
    draw(found["parts"], OUT / "soak.png")
    (OUT / "soak.json").write_text(json.dumps(found))
    print(f"{'part':8} {'what':32} {'first quarter':>14} {'last':>10}")
    for row in found["rows"]:
        mark = "  grew" if row["grew"] else ""
        print(f"{row['part']:8} {row['what']:32} {row['first']:14.1f} {row['last']:10.1f}{mark}")
    print(*found["bad"], sep="\n")
    return 1 if found["bad"] or any(row["grew"] for row in found["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
