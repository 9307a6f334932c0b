"""Whatever the machines, the model and the way: a walk's books hold, and its figures are sound."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.unit.planner.pools import KV, TEXT, site

from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Decode
from prfaas.planner.pool_walk import Way, _Walker
from prfaas.testing.conversation_trace import conversation_trace

PROFILES = {
    "east": load_profile("paper-1t-h200").prefill_or_refuse,
    "west": load_profile("paper-1t-h20-fit").prefill_or_refuse,
}


@pytest.mark.parametrize("seed", range(24))
def test_a_walks_books_hold(seed: int) -> None:
    rng = random.Random(seed)
    memory = rng.choice(["1 MiB", "200 MiB", "1 GiB", "8 GiB", "100 GiB"])
    disk = rng.choice(["0 B", "500 MiB", "10 GB", "1 TB"])
    answers = rng.choice(["true", "false"])
    text = TEXT.replace("memory: 8 GiB", f"memory: {memory}, answers: {answers}")
    text = text.replace("100 GB", disk).replace("count: 3", f"count: {rng.randint(2, 6)}")
    if rng.random() < 0.3:
        text = text.replace("h20-fit}", "h20-fit, kv_tokens: 100K}")
    kv = rng.choice([KV, KvSize(0, 17280)])
    trace = conversation_trace(rng.randint(1, 40), rate=rng.choice([0.05, 1, 20]), seed=seed)
    place = site(trace, text, kv=kv)
    way = Way(
        rng.choice([-1.0, 3000.0, 20_000.0, np.inf]),
        rng.randrange(len(place.pd.engines)),
        Decode(rng.choice([1, 20]), 0.02),
        rng.choice([0.01, 1.0, 50.0]),
    )
    walker = _Walker(place, PROFILES, way)
    walked = walker.run(lambda step: None)
    for cache in walker._pools.caches.values():
        cache.memory.check_integrity()
        cache.disk.check_integrity()
    assert all((tokens >= 0).all() for tokens in walked.found.values())
    found = np.sum(list(walked.found.values()), axis=0)
    assert (found < walked.prompts).all()
    assert ((walked.uncached >= 1) & (walked.uncached <= walked.prompts)).all()
    for seconds in (walked.pd_s, walked.prfaas_s):
        assert (np.isfinite(seconds) & (seconds > 0)).all()
    assert (walked.sent_bytes >= kv.bytes(0)).all()
    fetched = found - walked.found["own"] > 0
    assert (fetched | (walked.fetch_s == 0)).all()
