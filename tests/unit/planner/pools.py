"""A small deployment with agents' caches, and a trace for it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.description.file import Description, parse_description
from prfaas.models.kv_size import KvSize
from prfaas.planner.pool_site import PoolSite, site_of
from prfaas.workload.trace import RecordedTrace

TEXT = """
clusters:
  - name: east
    kind: prfaas
    prefix_cache: {memory: 8 GiB, disk: 100 GB}
    instances: {count: 1, profile: paper-1t-h200}
  - name: west
    kind: pd
    lan: {rate: 100 Gbps}
    prefix_cache: {memory: 8 GiB, disk: 100 GB}
    instances: {count: 3, profile: paper-1t-h20-fit}
links: [{from: east, to: west, rate: 100 Gbps, rtt: 20 ms}]
model: {block_tokens: 64}
slo: {ttft: 10 s, tpot: 25 ms}
"""
KV = KvSize(172 * 2**20, 17280)


def described(text: str = TEXT) -> Description:
    return parse_description(text, source="test")


def site(trace: RecordedTrace, text: str = TEXT, kv: KvSize = KV) -> PoolSite:
    found = site_of(described(text), trace, kv, beside=Path())
    assert found is not None
    return found


def written(trace: RecordedTrace, path: Path) -> Path:
    """As Mooncake publishes them."""
    assert trace.arrivals is not None
    rows = zip(trace.arrivals, trace.prompts, trace.outputs, trace.blocks, strict=True)
    path.write_bytes(
        b"\n".join(
            msgspec.json.encode(
                {
                    "timestamp": int(at * 1000),
                    "input_length": prompt,
                    "output_length": output,
                    "hash_ids": blocks,
                }
            )
            for at, prompt, output, blocks in rows
        )
    )
    return path
