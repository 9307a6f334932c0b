"""Who sends to whom, and what each pair of agents has of its line."""

from __future__ import annotations

from prfaas.core.deployment import lines_of, parse_deployment

TEXT = """
clusters:
  - name: east
    kind: prfaas
    machines:
      - {name: e1, agent: {name: ae1}, engines: [{name: p1, role: prefill}]}
      - {name: e2, agent: {name: ae2}, engines: [{name: p2, role: prefill}]}
  - name: west
    kind: pd
    lan: {rate: 8 Gbit/s, leave_to_others: 0.1}
    machines:
      - {name: w1, agent: {name: aw1, listen: "10.0.0.1:7", advertise: "203.0.113.1:7"},
         engines: [{name: q1, role: prefill}, {name: d1, role: decode}]}
      - {name: w2, agent: {name: aw2, listen: "10.0.0.2:7"}, engines: [{name: d2, role: decode}]}
      - {name: w3, agent: {name: aw3}, engines: [{name: q3, role: prefill}]}
      - {name: w4, agent: {name: aw4}}
  - {name: south, kind: pd, engines: [{name: d9, role: decode}], agent: {name: as9}}
links:
  - {from: east, to: west, rate: 4 Gbit/s, connections: 13, via: {aw2: "tunnel:9"}}
  - {from: east, to: south}
"""


def test_lines_join_every_machine_that_has_engines_with_every_one_of_the_other_end() -> None:
    lines = {(k.source, k.target): k for k in lines_of(parse_deployment(TEXT, source="test"))}
    assert list(lines) == [("east", "west"), ("east", "south"), ("west", "west")]
    assert lines["east", "west"].pairs == (
        ("ae1", "aw1"), ("ae1", "aw2"), ("ae1", "aw3"),
        ("ae2", "aw1"), ("ae2", "aw2"), ("ae2", "aw3"),
    )  # fmt: skip
    inside = lines["west", "west"].pairs
    assert len(inside) == 6
    assert {tuple(sorted(pair)) for pair in inside} == {
        ("aw1", "aw2"), ("aw1", "aw3"), ("aw2", "aw3"),
    }  # fmt: skip


def test_what_pairs_have_together() -> None:
    wide, free, inside = lines_of(parse_deployment(TEXT, source="test"))
    assert wide.rate_bytes_per_s == 0.5e9
    assert wide.fair_connections == 2
    assert free.rate_bytes_per_s is None
    assert (free.fair_connections, free.most_connections) == (None, 32)
    assert (inside.rate_bytes_per_s, inside.leave_to_others) == (1e9, 0.1)


def test_addresses_are_those_that_others_see() -> None:
    wide, *_ = lines_of(parse_deployment(TEXT, source="test"))
    assert [wide.address_of(agent) for agent in wide.receivers] == [
        "203.0.113.1:7", "tunnel:9", "127.0.0.1:0",
    ]  # fmt: skip
