"""All engines of a case in one process: ``python -m benchmarks.case_study.engines``.

Reads what to be as one line of JSON from stdin, writes where they answer as one line of JSON, and
ends when stdin does.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from prfaas.models.profiles import load_profile
from prfaas.testing.profiled_engine import ProfiledEngine, scaled_layout


async def serve(wanted: dict[str, object]) -> None:
    profiles = {name: load_profile(name) for name in {e["profile"] for e in wanted["engines"]}}
    [kv] = {profile.kv_size() for profile in profiles.values()}
    layout = scaled_layout(kv, byte_scale=wanted["byte_scale"], block_tokens=wanted["block_tokens"])
    engines = [
        ProfiledEngine(
            e["name"],
            e["socket"],
            profiles[e["profile"]],
            layout,
            max_batch=wanted["max_batch"],
            slow=wanted["slow"],
        )
        for e in wanted["engines"]
    ]
    for engine in engines:
        await engine.start()
    print(json.dumps({engine.name: engine.url for engine in engines}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for engine in engines:
        await engine.stop()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.stdin.readline())))
