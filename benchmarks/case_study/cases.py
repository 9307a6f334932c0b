"""The deployments of Table 6, and `auto` on the hardware of the first: what each has, what the
planner expects of it, and its deployment file for engines that take the profiles' times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.units import parse_duration, parse_rate
from prfaas.description.experiments import RunConfig, Split
from prfaas.description.file import Description
from prfaas.models.profiles import load_profile
from prfaas.planner.compare import elastic_bound, two_clusters
from prfaas.planner.scenario import load_scenario as load_planned
from prfaas.policies.registry import options_of
from prfaas.sim.runs import load_scenario

FILE = Path(__file__).parents[2] / "examples" / "paper.yaml"
THRESHOLD_TOKENS = 19_400
"""The paper's 19.4K."""
BLOCK_TOKENS = 64
_OVERLOAD = 1.2
DEADLINE = "7200 s"
"""At saturation queues grow as long as a run lasts; none of them is to be given up."""


class Case(msgspec.Struct, frozen=True):
    """``paper`` and ``planned``: Lambda in requests per second, of the paper's table and of our
    planner with exact expectations (for `auto` the elastic fluid bound)."""

    name: str
    title: str
    scheduler: SchedulerConfig
    n_prfaas: int
    n_p: int
    n_d: int
    paper: float | None
    planned: float

    @property
    def offered(self) -> float:
        """Requests per second. A policy that refuses what is hopeless keeps the lighter requests of
        an overload, and answers more of them than the bound of the whole mix: it is offered the
        bound, and must carry it."""
        return self.planned * (1.0 if self.scheduler.policy == "auto" else _OVERLOAD)

    @property
    def cut(self) -> int | None:
        """Where it routes by length: above how many tokens."""
        return THRESHOLD_TOKENS if self.scheduler.policy == "threshold" else None

    @property
    def run(self) -> RunConfig:
        """As the simulator takes it."""
        return RunConfig(
            name=self.name,
            scheduler=self.scheduler,
            instances={
                "east": Split(prefill=self.n_prfaas),
                "west": Split(prefill=self.n_p, decode=self.n_d),
            },
        )

    def engines(self) -> list[dict[str, Any]]:
        """Every engine: cluster, name, role, profile."""
        pools = (
            ("east", "prefill", self.n_prfaas, "paper-1t-h200"),
            ("west", "prefill", self.n_p, "paper-1t-h20-fit"),
            ("west", "decode", self.n_d, "paper-1t-h20-fit"),
        )
        return [
            {"cluster": c, "name": f"{c}-{role}-{i}", "role": role, "profile": profile}
            for c, role, count, profile in pools
            for i in range(count)
        ]


def cases() -> list[Case]:
    """All four."""
    scenario = load_planned(FILE)
    model = two_clusters(scenario)
    paper = model.at(THRESHOLD_TOKENS, 4, 3, 5, "exact").lambda_max
    homogeneous = model.best(0, 12, "exact")
    assert (homogeneous.n_p, homogeneous.n_d) == (9, 3)
    naive = model.at(0.0, 4, 0, 8, "exact").lambda_max
    threshold = SchedulerConfig(policy="threshold", threshold=THRESHOLD_TOKENS)
    return [
        Case("homogeneous", "homogeneous PD", SchedulerConfig(policy="homogeneous"), 0, 9, 3,
             2.11, homogeneous.lambda_max),
        Case("naive", "naive heterogeneous PD", SchedulerConfig(policy="naive"), 4, 0, 8,
             2.45, naive),
        Case("threshold", "PrfaaS-PD, t = 19.4K", threshold, 4, 3, 5, 3.24, paper),
        Case("auto", "PrfaaS-PD, auto", SchedulerConfig(policy="auto"), 4, 3, 5,
             None, elastic_bound(scenario).lambda_max),
    ]  # fmt: skip


def description(rate: float, requests: int) -> Description:
    """The case study asked for ``requests`` at ``rate`` per second."""
    found = load_scenario(FILE)
    arrivals = msgspec.structs.replace(found.asked.arrivals, rate=rate)
    workload = msgspec.structs.replace(found.asked, arrivals=arrivals, requests=requests)
    gateway = msgspec.structs.replace(found.gateway, request_deadline=DEADLINE)
    return msgspec.structs.replace(found, workload=workload, gateways=(gateway,))


def deployment_file(
    case: Case, urls: dict[str, str], home: Path, *, slow: float, byte_scale: float
) -> dict[str, Any]:
    """The deployment file of engines that answer at ``urls``; agents' sockets lie in ``home``."""
    clusters = []
    for name, kind in (("east", "prfaas"), ("west", "pd")):
        own = [e for e in case.engines() if e["cluster"] == name]
        if own:
            clusters.append(
                {
                    "name": name,
                    "kind": kind,
                    "profile": str(_slowed(own[0]["profile"], slow, home)),
                    "agent": {
                        "name": f"{name}-agent",
                        "socket": str(home / f"{name}.sock"),
                        "arena": "2 GiB",
                        "slot": "1 MiB",
                    },
                    "engines": [_engine(e, urls[e["name"]]) for e in own],
                }
            )
    [link] = load_scenario(FILE).links
    bits = parse_rate(str(link.rate)) * 8 / slow / byte_scale
    links = [{"from": "east", "to": "west", "rate": f"{bits:.0f} bit/s"}] if case.n_prfaas else []
    scheduler = msgspec.to_builtins(case.scheduler)
    if "ttft" in options_of(case.scheduler.policy):  # The SLO is slowed like everything else.
        ttft_s = parse_duration(str(load_scenario(FILE).slo.ttft)) * slow
        scheduler["options"] = {**case.scheduler.options, "ttft": f"{ttft_s:g} s"}
    return {
        "clusters": clusters,
        "links": links,
        "scheduler": {k: v for k, v in scheduler.items() if v is not None},
        "gateway": {"request_deadline": DEADLINE, "max_body": "64 MiB"},
        "model": {"served_name": "mock-model", "block_tokens": BLOCK_TOKENS},
    }


def _slowed(name: str, slow: float, home: Path) -> Path:
    """The profile as `prfaas profile` would measure it on engines that are so much slower."""
    profile = load_profile(name)
    table = profile.prefill_or_refuse.table
    points = {int(x): y * slow for x, y in zip(table.x, table.y, strict=True)}
    file = {
        "name": profile.name,
        "hardware": profile.hardware,
        "gpus": profile.gpus,
        "source": f"{profile.name}, times {slow:g}",
        "basis": "implied",
        "prefill": {"interpolation": table.interpolation, "points": points},
    }
    path = home / f"{name}.yaml"
    path.write_bytes(msgspec.yaml.encode(file))
    return path


def _engine(engine: dict[str, Any], url: str) -> dict[str, Any]:
    return {
        "name": engine["name"],
        "role": engine["role"],
        "url": url,
        "kv_events": "tcp://127.0.0.1:1",  # They keep nothing: every prompt is new.
        "max_num_seqs": 20,  # The paper's BS_max at 40 tokens/s.
    }
