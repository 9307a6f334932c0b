"""What each policy of the table decides by, and what it refuses."""

from __future__ import annotations

from math import nan

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import parse_yaml
from prfaas.policies.api import Route
from prfaas.policies.registry import (
    POLICIES,
    for_policy,
    make_policy,
    options_of,
    policy_config,
    with_slo,
)
from prfaas.testing.policy_views import decide, fleet


@pytest.mark.parametrize(
    ("policy", "tokens", "route"),
    [
        ("homogeneous", 9000, Route.PD_P),
        ("naive", 10, Route.OFFLOAD),
        ("static-length", 2048, Route.PD_P),
        ("static-length", 2049, Route.OFFLOAD),
        ("uncached-gate", 511, Route.PD_P),
        ("uncached-gate", 512, Route.OFFLOAD),
        ("threshold", 1000, Route.PD_P),
        ("threshold", 1001, Route.OFFLOAD),
        ("adaptive", 1001, Route.OFFLOAD),
    ],
)
def test_lengths_that_decide(policy: str, tokens: int, route: Route) -> None:
    assert decide(policy, tokens, fleet()).route is route


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'elastic'"):
        make_policy(SchedulerConfig(policy="elastik"))
    with pytest.raises(ConfigError, match="earliest knows: margin"):
        make_policy(SchedulerConfig(policy="earliest", options={"margn": 1.0}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            SchedulerConfig(policy="earliest", threshold="16K"),
            "policy 'earliest' does not use 'threshold'; earliest knows: margin",
        ),
        (
            SchedulerConfig(policy="naive", options={"margin": 0.1}),
            "policy 'naive' does not use 'margin'; naive knows: no options",
        ),
        (
            SchedulerConfig(policy="adaptive", options={"rolle_period_s": 1.0}),
            "did you mean 'role_period_s'",
        ),
        (SchedulerConfig(policy="adaptive", options={"scale_s": 0.0}), "scale_s"),
        (SchedulerConfig(policy="adaptive", options={"wait_s": -1.0}), "wait_s"),
        (SchedulerConfig(policy="earliest", options={"margin": -0.1}), "margin"),
        (SchedulerConfig(policy="earliest", options={"margin": nan}), "margin: nan is no number"),
        (SchedulerConfig(policy="elastic", options={"max_direct": -1}), "max_direct"),
        (SchedulerConfig(policy="static-length", options={"ratio": 7.0}), "ratio"),
        (SchedulerConfig(policy="uncached-gate", options={"tokens": -5}), "tokens"),
        (SchedulerConfig(policy="auto", options={"ttft": "0 s"}), "ttft '0 s'; write more than 0"),
        (SchedulerConfig(threshold="1K", options={"threshold": "2K"}), "written twice"),
        (SchedulerConfig(threshold="1Q"), "1Q"),
    ],
)
def test_options_that_a_policy_does_not_have_are_refused(
    config: SchedulerConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(config)


def test_an_option_may_stand_in_either_place() -> None:
    short = SchedulerConfig(threshold="2K", bandwidth="abundant")
    long = SchedulerConfig(options={"threshold": "2K", "bandwidth": "abundant"})
    assert short.policy_options() == long.policy_options()
    make_policy(short)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_option_can_be_written_in_a_file(policy: str) -> None:
    kind, _ = POLICIES[policy]
    written = {"policy": policy, "options": msgspec.to_builtins(kind())}
    config = parse_yaml(msgspec.yaml.encode(written), SchedulerConfig, source="f")
    assert policy_config(config) == kind()


def test_every_policy_is_made_without_options() -> None:
    for name in POLICIES:
        assert make_policy(SchedulerConfig(policy=name)).name == name


def test_another_policy_takes_over_the_options_that_it_has() -> None:
    config = SchedulerConfig(threshold=19400, engine_wait="9 s", options={"bandwidth": "scarce"})
    assert for_policy(config, "adaptive").policy_options() == {
        "threshold": 19400,
        "bandwidth": "scarce",
    }
    earliest = for_policy(config, "earliest")
    assert (earliest.policy_options(), earliest.engine_wait) == ({}, "9 s")
    assert options_of("naive") == ()


def test_a_policy_with_an_slo_takes_that_of_the_scenario_unless_it_has_its_own() -> None:
    assert with_slo(SchedulerConfig(policy="auto"), ttft="5 s").options == {"ttft": "5 s"}
    own = SchedulerConfig(policy="auto", options={"ttft": "2 s"})
    assert with_slo(own, ttft="5 s") == own
    assert with_slo(SchedulerConfig(policy="naive"), ttft="5 s").options == {}
