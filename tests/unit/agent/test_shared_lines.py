"""Which agents are told to share a line's rate."""

from __future__ import annotations

from pathlib import Path

from prfaas.agent.settings import settings_for
from prfaas.core.deployment import parse_deployment
from prfaas.link.tcp.config import SharedLine

MACHINE = (
    "{{name: m-{n}, agent: {{name: a-{n}, listen: '127.0.0.1:{p}', plaintext: true}}, "
    "engines: [{{name: e-{n}, role: {role}}}]}}"
)


def test_both_ends_are_told_the_same() -> None:
    east = [MACHINE.format(n=f"e{n}", p=7400 + n, role="prefill") for n in (1, 2)]
    west = MACHINE.format(n="w", p=7410, role="decode")
    text = f"""
clusters:
  - {{name: east, kind: prfaas, machines: [{", ".join(east)}]}}
  - {{name: west, kind: pd, machines: [{west}]}}
links: [{{from: east, to: west, rate: 1 Gbit/s}}]
"""
    deployment = parse_deployment(text, source="test")
    line = SharedLine(rate_bytes_per_s=125e6, senders=("a-e1", "a-e2"), receivers=("a-w",))
    for name in ("a-e1", "a-e2", "a-w"):
        link = settings_for(deployment, name, socket=Path("s")).link
        assert link is not None
        assert link.lines == (line,)
    assert (
        settings_for(deployment, "a-e1", socket=Path("s"))
        .link.peers[  # type: ignore[union-attr]
            "a-w"
        ]
        .rate_bytes_per_s
        == 125e6
    )
