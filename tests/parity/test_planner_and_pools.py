"""The planner's walk through agents' caches against the simulator: the same hit tokens, the same
seconds of prefill, the same bytes on the line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.planner.pools import written

from prfaas.core.deployment import SchedulerConfig
from prfaas.description.experiments import RunConfig, Split
from prfaas.description.file import parse_description
from prfaas.description.speeds import kv_size_of
from prfaas.models.profiles import load_profile
from prfaas.planner.compare import prfaas_pd, walked_through
from prfaas.planner.demand import decode_point
from prfaas.planner.pool_site import site_of
from prfaas.planner.pool_walk import Walk, Way, walk
from prfaas.planner.scenario import scenario_of
from prfaas.policies.registry import make_policy
from prfaas.sim.build import build_workload, build_world
from prfaas.sim.experiment import simulate
from prfaas.sim.simulation import Simulation
from prfaas.testing.conversation_trace import conversation_trace
from prfaas.workload.requests import Workload
from prfaas.workload.trace import RecordedTrace

THRESHOLD = 12_000
TEXT = """
clusters:
  - name: east
    kind: prfaas
    prefix_cache: {{memory: {memory}, disk: {disk}}}
    instances: {{count: {far}, profile: paper-1t-h200}}
  - name: west
    kind: pd
    lan: {{rate: 100 Gbps}}
    prefix_cache: {{memory: {memory}, disk: {disk}}}
    profile: paper-1t-h20-fit
    instances: [{{role: prefill, count: {near}}}, {{role: decode, count: {decode}}}]
links: [{{from: east, to: west, rate: 100 Gbps, rtt: 20 ms}}]
model: {{block_tokens: 64}}
experiments: {{runs: [{{name: t, scheduler: {{policy: threshold, threshold: 12000}}}}]}}
"""


def both(trace: RecordedTrace, **fill: object) -> tuple[Walk, Simulation]:
    """One threshold, the trace's own times."""
    description = parse_description(TEXT.format(**fill), source="test")
    profiles = {"east": load_profile("paper-1t-h200"), "west": load_profile("paper-1t-h20-fit")}
    kv = kv_size_of(description.model, profiles.values(), beside=Path())
    site = site_of(description, trace, kv, beside=Path())
    assert site is not None
    assert trace.arrivals is not None
    decode = decode_point(profiles["west"].decode_or_refuse, 20.0)
    rate = len(trace.prompts) / trace.arrivals[-1]
    way = Way(THRESHOLD, int(str(fill["near"])), decode, rate)
    walked = walk(site, {name: p.prefill_or_refuse for name, p in profiles.items()}, way)
    workload = Workload(
        trace.arrivals, trace.prompts, trace.outputs, trace.blocks, trace.block_tokens
    )
    (run,) = description.experiments.runs
    world = build_world(description, run, workload, beside=Path())
    simulation = Simulation(world, workload, make_policy(run.scheduler), run.scheduler)
    simulation.run()
    return walked, simulation


def test_a_plan_carries_what_the_simulators_engines_have_time_for(tmp_path: Path) -> None:
    """At 80% of it, where a trace's turns still come after the answers before them."""
    written(conversation_trace(400, rate=3.2), tmp_path / "t.jsonl")
    text = TEXT.format(memory="64 GiB", disk="1 TB", far=2, near=3, decode=3)
    text = text.replace("100 Gbps, rtt", "20 Gbps, rtt") + "workload: {trace: t.jsonl}\n"
    description = parse_description(text, source="test")
    scenario = scenario_of(description, source="test", beside=tmp_path)
    exact = walked_through(msgspec.structs.replace(scenario, expectations="exact"))
    ours = prfaas_pd(exact)
    assert ours.threshold_tokens is not None
    assert ours.hits is not None
    assert ours.ttft is not None
    run = RunConfig(
        name="planned",
        scheduler=SchedulerConfig(policy="threshold", threshold=round(ours.threshold_tokens)),
        instances={"west": Split(prefill=ours.n_p, decode=ours.n_d)},
    )
    workload = build_workload(description, beside=tmp_path)
    simulation = simulate(description, run, workload, beside=tmp_path)
    table = simulation.recorder.table()
    found = sum(simulation.recorder.held_tokens) / sum(workload.prompts)
    assert ours.hits.found == pytest.approx(found, rel=0.03)
    busy: dict[str, list[float]] = {"east-prefill": [], "west-prefill": []}
    for name, engine in simulation.engines.items():
        if "prefill" in name:
            busy[name.rpartition("-")[0]].append(engine.prefill_busy_s)
    busiest_s = max(sum(spent) / len(spent) for spent in busy.values())
    assert ours.lambda_max_req_per_s == pytest.approx(len(workload) / busiest_s, rel=0.03)
    assert ours.ttft.mean_s == pytest.approx(float(np.nanmean(table.prefill_s)), rel=0.03)
    assert ours.ttft.p90_s == pytest.approx(float(np.nanpercentile(table.prefill_s, 90)), rel=0.06)


@pytest.mark.parametrize(
    ("fill", "rate"),
    [
        ({"memory": "8 GiB", "disk": "0 B", "far": 1, "near": 1, "decode": 1}, 0.02),
        ({"memory": "8 GiB", "disk": "0 B", "far": 1, "near": 2, "decode": 2}, 0.6),
        ({"memory": "8 GiB", "disk": "1 TB", "far": 1, "near": 2, "decode": 2}, 0.6),
        ({"memory": "1 TiB", "disk": "0 B", "far": 1, "near": 2, "decode": 2}, 0.6),
        ({"memory": "16 GiB", "disk": "0 B", "far": 2, "near": 3, "decode": 5}, 2.0),
        ({"memory": "4 GiB", "disk": "50 GB", "far": 2, "near": 3, "decode": 5}, 2.0),
    ],
)
def test_a_walk_finds_what_the_simulator_finds(fill: dict[str, object], rate: float) -> None:
    walked, simulation = both(conversation_trace(150, rate=rate), **fill)
    table = simulation.recorder.table()
    found = sum(float(tokens.sum()) for tokens in walked.found.values())
    assert found > 0.2 * walked.prompts.sum()
    assert found == pytest.approx(sum(simulation.recorder.held_tokens), rel=0.03)
    seconds = np.where(walked.offloaded, walked.prfaas_s, walked.pd_s)
    assert float(seconds.mean()) == pytest.approx(float(np.nanmean(table.prefill_s)), rel=0.03)
    share = float(walked.offloaded.mean())
    assert share == pytest.approx(float(table.offloaded.mean()), abs=0.02)
    (line,) = simulation.lines.values()
    assert float(walked.sent_bytes[walked.offloaded].sum()) == pytest.approx(
        line.received_bytes, rel=0.05
    )
