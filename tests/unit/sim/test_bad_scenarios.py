"""What is wrong with a scenario is said with its place and what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prfaas.cli.main import main

GOOD = """
clusters:
  - {name: east, kind: prfaas, prefill: {instances: 2, profile: paper-1t-h200}}
  - name: west
    kind: pd
    prefill: {instances: 1, profile: paper-1t-h20-fit}
    decode: {instances: 2, profile: paper-1t-h20-fit}
links: [{from: east, to: west, rate: 50 Gbps, rtt: 20 ms, loss: 0.001}]
workload: {requests: 60, output_tokens: 50, lengths: {high: 128K}, arrivals: {rate: 1.0}}
slo: {ttft: 10 s}
failures: [{engine: west-prefill-0, at: 10 s, for: 5 s}]
runs: [{name: paper, scheduler: {policy: threshold}}]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("50 Gbps", "50", r"links\[0\]\.rate: rate '50' has no unit; use one of .*Gbps"),
        ("20 ms", "20", r"links\[0\]\.rtt: duration '20' has no unit"),
        ("10 s", "10", r"slo\.ttft: duration '10' has no unit"),
        ("instances: 2, profile: paper-1t-h200", "instances: 0, profile: paper-1t-h200",
         r"cluster 'east': prefill\.instances: 0; write 1 or more"),
        ("decode: {instances: 2", "decode: {instances: -1", r"decode\.instances: -1; write 1"),
        ("high: 128K", "high: 512K", r"'paper-1t-h200' ends at 131072 tokens, the workload's"),
        ("kind: pd", "kind: dp", r"'dp' at \$\.clusters\[1\]\.kind; write one of prfaas, pd"),
        ("rate: 1.0", "rate: 1, process: x", r"write one of uniform, poisson, bursty, diurnal"),
        ("kind: pd", "kind: prfaas", "nothing could decode"),
        ("name: east", "name: west", "every name once"),
        ("to: west", "to: nest", "no cluster 'nest'; known: east, west"),
        ("0.001", "1.5", "share of packets lost"),
        ("requests: 60", "requests: 0", "write 1 or more"),
        ("rate: 1.0", "rate: 0", r"workload\.arrivals: rate 0: write more than 0"),
        ("rate: 1.0", "rate: .nan", r"workload\.arrivals: rate nan: write more than 0"),
        ("rate: 1.0", "rate: 1, process: bursty, variation: 0", "variation 0: write more than 0"),
        ("rate: 1.0", "rate: 1, process: diurnal, period: 0 s", "period 0: write more than 0"),
        ("rate: 1.0", "rate: 1, process: diurnal, swing: 1", "swing 1: write a share"),
        ("high: 128K", "mu: .nan", r"workload\.lengths: .*finite mu"),
        ("requests: 60", "requests: 60, speed_up: .nan", "speed-up nan: write more than 0"),
        (", arrivals: {rate: 1.0}", "", r"write arrivals: \{rate"),
        ("policy: threshold", "policy: treshold", r"runs\[0\]: .*did you mean 'threshold'"),
        ("loss:", "los:", "did you mean 'loss'"),
        ("west-prefill-0", "west-prefill-7", "no engine 'west-prefill-7'; known: east-prefill-0"),
        ("at: 10 s", "at: 10", r"failures\[0\]\.at: duration '10' has no unit"),
        ("paper-1t-h200", "paper-1t-h100", "no built-in profile"),
        ("decode: {instances: 2, profile: paper-1t-h20-fit", "decode: {instances: 2, profile: "
         "paper-1t-h200", "'paper-1t-h200' has no 'decode' table"),
        ("prefill: {instances: 1, profile: paper-1t-h20-fit", "prefill: {instances: 1, profile: "
         "paper-1t-h200", "'paper-1t-h200' has no 'decode' table"),
        ("h200}}", "h200}, decode: {instances: 1, profile: paper-1t-h20-fit}}", "only prefills"),
        ("paper-1t-h200", "table3-kimi-linear-h200", "S_kv: the profiles do not agree"),
        ("slo:", "link_reports: 0 s\nslo:", "link_reports: 0 s; write more than 0"),
        ("slo:", "seed: -1\nslo:", "seed: -1; write 0 or more"),
        ("50 Gbps", "0 Gbps", r"links\[0\]\.rate: 0 Gbps; write more than 0"),
        ("to: west", "to: east", "links: from 'east' to itself"),
        ("links: [", "links: [{from: east, to: west, rate: 1 Gbps}, ", "'east' to 'west' twice"),
        ("runs: [", "runs: [{name: paper}, ", "runs: every name once"),
        ("threshold}}", "threshold}, instances: {wset: {decode: 1}}}",
         "run 'paper': instances: no cluster 'wset'; known: east, west"),
        ("threshold}}", "threshold}, instances: {west: {prefill: -1, decode: 2}}}",
         "run 'paper': instances: west: write 0 or more of each role"),
        ("policy: threshold", "policy: adaptive, options: {period_s: 0}", r"> 0.*\$\.period_s"),
        ("policy: threshold", "policy: adaptive, options: {scale_s: 0}", r"> 0.*\$\.scale_s"),
        ("failures: [", "failures: [{engine: west-prefill-0, at: 15 s, for: 1 s}, ",
         "'west-prefill-0' fails at 15 s and is not back from the failure at 10 s"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD)
    assert main(["simulate", str(path)]) == 0
    path.write_text(GOOD.replace(old, new, 1))
    capsys.readouterr()
    assert main(["simulate", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error), error
