"""What differs between two deployments is said in words, and no secret among them."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.deployment.changes import changes, check_change
from prfaas.core.errors import ConfigError

OLD = """
clusters:
  - name: east
    kind: prfaas
    agent: {name: ea}
    engines: [{name: e1, role: prefill, url: "http://h:1"}]
  - name: west
    kind: pd
    machines:
      - {name: w1, agent: {name: wa}, engines: [{name: d1, role: decode}, {name: d2, role: decode}]}
links: [{from: east, to: west, rate: 1 Gbit/s}]
gateway: {api_keys: [old-secret]}
"""


def deployment(text: str) -> Deployment:
    return parse_deployment(text, source="test")


def said(new: str) -> list[str]:
    return [str(change) for change in changes(deployment(OLD), deployment(new))]


def test_equal_files_differ_in_nothing() -> None:
    assert said(OLD) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (", {name: d2, role: decode}", "", ["engine d2 leaves"]),
        (
            "[{name: d1, role: decode}, {name: d2, role: decode}]}",
            "[{name: d1, role: decode}, {name: d2, role: decode}]}\n"
            "      - {name: w2, agent: {name: wb}, engines: [{name: d3, role: decode}]}",
            [
                "machine w2 joins cluster west",
                "agent wb joins cluster west, machine w2",
                "engine d3 joins cluster west, machine w2 (decode)",
            ],
        ),
        ("http://h:1", "http://h:2", ["engine e1: url http://h:1 -> http://h:2"]),
        ("1 Gbit/s", "2 Gbit/s", ["link east to west: rate 1 Gbit/s -> 2 Gbit/s"]),
        ("links: [{from: east, to: west, rate: 1 Gbit/s}]", "", ["link east to west leaves"]),
        ("old-secret", "new-secret", ["gateway gateway: api_keys differ"]),
        (
            "gateway: {",
            'gateway: {listen: "0.0.0.0:80", ',
            [
                "gateway gateway: listen 127.0.0.1:8000 -> 0.0.0.0:80 (when it is started anew)",
            ],
        ),
        (
            "gateway:",
            "scheduler: {link_grace: 9 s}\ngateway:",
            ["scheduler: link_grace 2 s -> 9 s (when it is started anew)"],
        ),
    ],
)
def test_each_difference_is_said(old: str, new: str, words: list[str]) -> None:
    assert old in OLD
    assert said(OLD.replace(old, new)) == words


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            "{name: d2, role: decode}",
            "{name: d2, role: prefill}",
            "engine 'd2' cannot change from decode on machine w1 of west to prefill",
        ),
        ("name: w1", "name: w9", "engine 'd1' cannot change from decode on machine w1 of west"),
        ("kind: prfaas", "kind: pd", "cluster 'east' cannot turn from prfaas into pd"),
    ],
)
def test_what_is_another_thing_under_an_old_name_is_refused(old: str, new: str, why: str) -> None:
    text = OLD.replace(old, new, 1)
    if "kind: prfaas" in old:
        text = text.replace("role: prefill", "role: decode")
    with pytest.raises(ConfigError, match=why):
        check_change(deployment(OLD), deployment(text))


def test_a_new_file_is_not_refused_for_what_joins_and_leaves() -> None:
    check_change(deployment(OLD), deployment(OLD.replace("d2", "d9").replace("wa}", "wz}")))


@pytest.mark.parametrize(
    ("entry", "half", "whose"),
    [
        ("{api_keys: [old-secret]}", "{}", "clients"),
        ("{tenants: [{name: a, api_keys_file: f}], drain: 9 s}", "{drain: 9 s}", "clients"),
        ("{operator_keys_env: E}", "{}", "operators"),
        ("{api_keys: [k], operator_keys_file: f}", "{api_keys: [k]}", "operators"),
    ],
)
def test_a_gateway_asks_for_keys_as_long_as_it_runs(entry: str, half: str, whose: str) -> None:
    """Half of a file, as of a copy that broke off, would let everybody in."""
    asks, asks_not = (deployment(OLD.replace("{api_keys: [old-secret]}", e)) for e in (entry, half))
    with pytest.raises(ConfigError, match=f"'gateway' has no keys of {whose} any more"):
        check_change(asks, asks_not)
    check_change(asks_not, asks)
    check_change(asks, deployment(OLD.replace("{api_keys: [old-secret]}", entry)))


def test_a_gateway_that_is_another_may_ask_for_none() -> None:
    new = OLD.replace("{api_keys: [old-secret]}", "{name: other}")
    check_change(deployment(OLD), deployment(new))
