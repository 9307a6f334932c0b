"""Fuzz targets of values that are well typed and senseless: what is taken is used as a gateway and
our verbs use it, so that none ends in an error of ours. See `fuzz_foreign_bytes`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec
import numpy as np
from mutations import altered, misshapen
from prometheus_client import generate_latest

from prfaas.core.deployment import TenantConfig
from prfaas.core.errors import ConfigError, EngineError, LinkError
from prfaas.description.file import parse_description
from prfaas.gateway.agent_client import CacheSizes, TransferStatus, read_answer
from prfaas.gateway.arrivals import arrival, first_byte_within_s
from prfaas.gateway.body import RequestBody
from prfaas.gateway.engine_client import EngineAnswer, EngineClient
from prfaas.gateway.facts import RequestFacts
from prfaas.gateway.links import link_event
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.prefix_matches import NO_MATCHES
from prfaas.gateway.prompts import _prompt
from prfaas.gateway.tracing import stages
from prfaas.link.api import LinkState, LinkStates
from prfaas.models.profiles import parse_profile
from prfaas.policies.line_rate import LineRate
from prfaas.scheduler import journal
from prfaas.scheduler.replay import read_journal
from prfaas.status.exposition import MetricsPage
from prfaas.workload.requests import draw

_LOOP = asyncio.new_event_loop()
_NANOSECONDS_MOST = 1 << 64

# agents

_STATUS = (
    b'{"state":"complete","bytes_total":30,"bytes_stored":30,"first_byte_at":105.5,'
    b'"sent":{"bytes_acknowledged_at_export_end":20},"reads":1}'
)
_SIZES = b'{"size_bytes":9,"used_bytes":5,"pinned_bytes":1,"disk":{"size_bytes":3,"used_bytes":2}}'
_STATES = msgspec.json.encode(
    LinkStates(
        [
            LinkState("w", 1.0, 2, 3.0, 25e6, 0.5, 0.1, 0.1, 0, 7, 0.9, 1, 1),
            LinkState("v", 1.0, 2, 3.0, 5e6, 0.5, 0.1, 0.1, 0, 0, 0.0, 1, 1),
        ]
    )
)


def agents_words(rng: random.Random) -> None:
    """Transfers in headers, metrics, spans and journals; lines as the scheduler believes them."""
    facts = RequestFacts(request_id="r", endpoint="/v1/completions", arrived_at=100.0)
    facts.route, facts.prefill_engine, facts.total_tokens = "offload", "e", 40
    facts.rendered_s, facts.prefill_started_s, facts.prefilled_s = 0.1, 0.2, 3.0
    with suppress(LinkError):
        status = read_answer("a", altered(rng, _STATUS, msgspec.json), TransferStatus)
        facts.note_transfer(status, 6.0)
        if status.sent is not None:
            facts.kv_bytes_hidden = status.sent.bytes_acknowledged_at_export_end
    facts.headers()
    metrics = GatewayMetrics()
    metrics.observe_request(facts)
    assert generate_latest(metrics.registry)
    for sent, hidden in zip(
        metrics.kv_bytes.values.values(), metrics.kv_bytes_hidden.values.values(), strict=True
    ):
        assert 0 <= hidden <= sent < 1 << 62
    for _, start_s, end_s, _ in stages(facts, 7.0):
        for at_s in (start_s, end_s):
            assert 0 <= round((facts.arrived_at + at_s) * 1e9) < _NANOSECONDS_MOST
    assert list(read_journal([journal.encode(1.0, facts.ended("k", 0.0))]))
    with suppress(LinkError):
        msgspec.json.encode(read_answer("a", altered(rng, _SIZES, msgspec.json), CacheSizes))
    rate = LineRate(1e6)
    for now in range(3):
        with suppress(LinkError):
            states = read_answer("a", altered(rng, _STATES, msgspec.json), LinkStates).links
            event = link_event("e", "w", states)
            rate.take(event.rate_bytes_per_s or 1e6, float(now))
            assert 1 / rate.at(now + 0.5) <= 1e-3, "it is tried again"


# engines

_BODY = RequestBody("/v1/completions", b'{"prompt": "a text", "max_tokens": 7, "n": 2}')
_RENDERED = (
    b'[{"token_ids":[1,2,3],"sampling_params":{"max_tokens":7,"skip_reading_prefix_cache":false},'
    b'"features":null,"stream":false}]'
)


class _Engine(EngineClient):
    """Answers a mutated text."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__("e", "http://127.0.0.1:1", cast("Any", None))
        self._rng = rng

    async def pass_on(self, *_args: Any, **_options: Any) -> EngineAnswer:
        return EngineAnswer(200, "", altered(self._rng, _RENDERED, msgspec.json))


def rendered_prompts(rng: random.Random) -> None:
    """How long an answer may be goes into deadlines, limits and the scheduler."""
    with suppress(EngineError):
        found = _LOOP.run_until_complete(_Engine(rng).render(_BODY, {}))
        if isinstance(found, EngineAnswer):
            return
        prompt = _prompt(_BODY, found)
        assert 0 <= prompt.max_output_tokens < 1 << 63
        assert first_byte_within_s(300.0, prompt, choices=_BODY.choices) >= 300.0
        event = arrival("k", prompt, NO_MATCHES, sequences=2, deadline=1.0)
        assert list(read_journal([journal.encode(1.0, event)]))


# files

_DESCRIPTION = b"""
clusters:
  - {name: east, kind: prfaas, instances: {count: 2, profile: paper-1t-h200}, prefix_cache: 16M}
  - name: west
    kind: pd
    instances: [{role: prefill, count: 1}, {role: decode, count: 2, max_num_seqs: 8}]
    profile: paper-1t-h20-fit
links: [{from: east, to: west, rate: 20 Gbps, rtt: 30 ms, loss: 0.00001, connections: 64}]
gateway: {tenants: [{name: t, api_keys: [k], weight: 2.0, requests_per_s: 3.0, priority: 1}]}
workload:
  lengths: {lognormal: {mu: 8.8, sigma: 1.0, low: 128, high: 128K}}
  output_tokens: 350
  arrivals: {process: bursty, rate: 3, variation: 3, period: 1 h}
slo: {ttft: 10 s, tpot: 50 ms}
prices: {usd_per_gpu_hour: {east: 4.5, west: 2.0}, links: [{from: east, to: west, usd_per_gb: 1.0}]}
experiments: {link_reports: 1 s, seed: 3}
"""
_PROFILE = b"""
name: n
hardware: h
gpus: 8
source: s
basis: measured
prefill: {interpolation: log-log, points: {1K: 0.44, 8K: 0.72}}
decode: {points: {2: 0.02, 20: 0.025}}
kv: {constant: 172 MiB, per_token: 16 KiB}
kv_tokens: 2M
"""


def descriptions(rng: random.Random) -> None:
    """What planner and simulator draw from a description, and read of a profile."""
    with suppress(ConfigError):
        found = parse_description(misshapen(rng, _DESCRIPTION, msgspec.yaml), source="fuzz")
        asked = found.workload
        if asked is not None and asked.arrivals is not None:
            lengths, answer = asked.uncached_lengths(), round(asked.answer_tokens())
            arrivals = asked.arrivals.arrivals()
            if arrivals.process != "diurnal":
                drawn = draw(lengths, answer, arrivals, 20, np.random.default_rng(1))
                assert np.isfinite(drawn.sped_up(asked.speed_up).arrivals).all()
        assert sum(engines.instances for engines in found.planned_engines) < 1 << 23
        for tenant in found.gateway.tenants:
            assert isinstance(tenant, TenantConfig)
            assert 0 < 1 / tenant.weight < float("inf")
    with suppress(ConfigError):
        profile = parse_profile(misshapen(rng, _PROFILE, msgspec.yaml), source="fuzz")
        if profile.decode is not None and profile.decode.max_batch < 1 << 10:
            profile.decode.batch_within(0.01)
        if profile.prefill is not None:
            assert profile.prefill.seconds(profile.prefill.max_tokens) > 0


_PAGE = b'prfaas_pool_slots{state="free"} %s\nprfaas_pool_slots{state="used"} %s\n'
_VALUES = (b"1e308", b"-1e308", b"nan", b"inf", b"0", b"12", b"1e18", b"9" * 400)


def metrics_values(rng: random.Random) -> None:
    """Sizes are products of what pages say."""
    page = MetricsPage((_PAGE % (rng.choice(_VALUES), rng.choice(_VALUES))).decode())
    slots = page.by("prfaas_pool_slots", "state").values()
    assert np.isfinite(float(sum(slots) * sum(slots)))
    assert np.isfinite(page.value("prfaas_pool_slots") or 0.0)


TARGETS: tuple[Callable[[random.Random], None], ...] = (
    agents_words, rendered_prompts, descriptions, metrics_values,
)  # fmt: skip
