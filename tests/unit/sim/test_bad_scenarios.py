"""What is wrong with a scenario is said with its place and what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prfaas.cli.main import main

GOOD = """
clusters:
  - {name: east, kind: prfaas, instances: {count: 2, profile: paper-1t-h200}}
  - name: west
    kind: pd
    instances:
    - {role: prefill, count: 1, profile: paper-1t-h20-fit}
    - {role: decode, count: 2, profile: paper-1t-h20-fit}
links: [{from: east, to: west, rate: 50 Gbps, rtt: 20 ms, loss: 0.001}]
workload:
  requests: 60
  output_tokens: 50
  lengths: {lognormal: {high: 128K}}
  arrivals: {rate: 1.0}
slo: {ttft: 10 s}
experiments:
  failures: [{engine: west-prefill-0, at: 10 s, for: 5 s}]
  runs: [{name: paper, scheduler: {policy: threshold}}]
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("50 Gbps", "50", r"a number alone at \$\.links\[0\]\.rate; write its unit"),
        ("20 ms", "20", r"from 'east' to 'west': rtt: duration '20' has no unit"),
        ("10 s", "10", r"slo: ttft: duration '10' has no unit"),
        ("count: 2", "count: 0", r"`int` >= 1 - at `\$\.clusters\[0\]\.instances"),
        ("high: 128K", "high: 512K", r"'paper-1t-h200' ends at 131072 tokens, the workload's"),
        ("kind: pd", "kind: dp", r"'dp' at \$\.clusters\[1\]\.kind; write one of prfaas, pd"),
        ("rate: 1.0", "rate: 1, process: x", r"write one of uniform, poisson, bursty, diurnal"),
        ("kind: pd", "kind: prfaas", "nothing could decode"),
        ("name: east", "name: west", "name used twice: west"),
        ("to: west", "to: nest", "no cluster 'nest'; known: east, west"),
        ("0.001", "1.5", r"Expected `float` < 1.0 - at `\$\.links"),
        ("requests: 60", "requests: 0", "write 1 or more"),
        ("rate: 1.0", "rate: 0", r"workload: arrivals: rate 0: write more than 0"),
        ("rate: 1.0", "rate: .nan", r"workload: arrivals: rate nan: write more than 0"),
        ("rate: 1.0", "rate: 1, process: bursty, variation: 0", "variation 0: write more than 0"),
        ("rate: 1.0", "rate: 1, process: diurnal, period: 0 s", "period 0: write more than 0"),
        ("rate: 1.0", "rate: 1, process: diurnal, swing: 1", "swing 1: write a share"),
        ("high: 128K", "mu: .nan", r"workload: lengths: .*finite mu"),
        ("requests: 60", "speed_up: .nan", "speed_up: nan; write more than 0"),
        ("  arrivals: {rate: 1.0}\n", "", r"write arrivals: \{rate"),
        ("policy: threshold", "policy: treshold", r"run 'paper': .*did you mean 'threshold'"),
        ("loss:", "los:", "did you mean 'loss'"),
        ("west-prefill-0", "west-prefill-7", "no engine 'west-prefill-7'; known: east-prefill-0"),
        ("at: 10 s", "at: 10", r"failures\[0\]: duration '10' has no unit"),
        ("paper-1t-h200", "paper-1t-h100", "no built-in profile"),
        ("count: 2, profile: paper-1t-h20-fit", "count: 2, profile: paper-1t-h200",
         "'paper-1t-h200' has no 'decode' table"),
        ("count: 1, profile: paper-1t-h20-fit", "count: 1, profile: paper-1t-h200",
         "'paper-1t-h200' has no 'decode' table"),
        ("{count: 2, ", "{count: 2, role: decode, ", "only prefills"),
        ("role: decode", "role: prefill", "a PD cluster needs instances with role: decode"),
        ("role: decode, ", "", "say the role of each, or write one count for all"),
        ("paper-1t-h200", "table3-kimi-linear-h200", "S_kv: the profiles do not agree"),
        ("  runs:", "  link_reports: 0 s\n  runs:", "link_reports: 0 s; write 1 ms or more"),
        ("  runs:", "  link_reports: 1 ns\n  runs:", "link_reports: duration '1 ns'"),
        ("  runs:", "  link_reports: 1 us\n  runs:", "link_reports: 1 us; write 1 ms or more"),
        # What takes memory or time without end, or is no number once it is computed with.
        ("count: 2, ", "count: 1000000000, ", r"`int` <= 1048576 - at `\$\.clusters\[0\]"),
        ("requests: 60", f"requests: {10**30}", "write 1 or more, up to 100000000"),
        ("output_tokens: 50", "output_tokens: 1.0e+18", "write 1 or more, up to 16777216"),
        ("high: 128K", "sigma: 1.0e-308", r"sigma > 0 \(0.001 to 100\)"),
        ("high: 128K", "high: 1e300K", "'1e300K' is more than can be computed with"),
        ("20 ms", "1e-300 ms", "'1e-300 ms' is less than can be computed with"),
        ("rate: 1.0", "rate: 1.0e-300", "rate 1e-300: write 0.0001 to 1e\\+06"),
        ("rate: 1.0", "rate: 1, variation: 1.0e+300", r"variation 1e\+300: write 0.01 to 1000"),
        ("rate: 1.0", "rate: 1, period: 1 us", r"period 1e-06: write 1 to 1e\+09"),
        ("requests: 60", "speed_up: 1.0e-300", r"speed_up: 1e-300; write 1e-06 to 1e\+06"),
        ("  runs:", "  seed: -1\n  runs:", "seed: -1; write 0 or more"),
        ("50 Gbps", "0 Gbps", "rate must be above zero, not 0"),
        ("to: west", "to: east", "inside a cluster no link is needed"),
        ("links: [", "links: [{from: east, to: west, rate: 1 Gbps}, ", "'west': written twice"),
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
