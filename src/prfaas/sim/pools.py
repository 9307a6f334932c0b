"""The pool of a simulated deployment's agents."""

from __future__ import annotations

from prfaas.sim.world import World
from prfaas.workload.pools import Pools, pool_rates


def pools_of(world: World, block_tokens: int) -> Pools:
    """Of a world; without machines they have nothing."""
    lines = {
        (line.source, line.target): (line.rate_bytes_per_s, line.rtt_s) for line in world.lines
    }
    return Pools(
        world.machines,
        pool_rates(world.machines, world.lan_bytes_per_s, lines),
        world.costs,
        block_tokens=block_tokens,
        state_bytes=world.state_bytes,
        kv_tokens={engine.name: engine.kv_tokens for engine in world.engines},
    )
