"""What a cached prefix saves: first tokens after an engine's restart, loaded and computed.

Starts two clusters with one engine each, has prompts prefilled and handed over, and kills the
decode engine (kill -9). When it is back, each prompt is asked once more through the gateway, which
has it loaded from the agent's cache, and once of the engine itself under another salt, which
computes it.
Both times are from the request to the whole answer of one token.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from prfaas.testing.calling import call
from prfaas.testing.measuring import prompt
from prfaas.testing.running import RunningDeployment

DEPLOYMENT = """
clusters:
  - name: east
    kind: prfaas
    engines: [{name: east-prefill, role: prefill}]
    agent: {name: east-agent, arena: 512 MiB}
  - name: west
    kind: pd
    engines: [{name: west-decode, role: decode}]
    agent: {name: west-agent, arena: 1 GiB}
links: [{from: east, to: west, rate: 1 Gbit/s}]
scheduler: {policy: threshold, threshold: 1}
"""
RESTART_S = 300.0


def timed(url: str, model: str | None, ids: list[int], **more: Any) -> tuple[float, Any]:
    """Seconds to an answer of one token, and the answer."""
    body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, **more}
    began = time.monotonic()
    answer = call(f"{url}/v1/completions", body)
    took_s = time.monotonic() - began
    if answer.status != 200:
        raise SystemExit(f"{url} answered {answer.status}: {answer.body!r}")
    return took_s, answer


def restart(running: RunningDeployment, engine: str) -> None:
    """Kill it, and wait until the gateway gives it work again."""
    before = set(running.pids(engine))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + RESTART_S
    while time.monotonic() < end:
        time.sleep(0.25)
        try:
            replaced = not before & set(running.pids(engine))
        except KeyError:
            continue  # nothing runs of it now
        if replaced and running.ready():
            return
    raise SystemExit(f"{engine} did not come back")


def measure(running: RunningDeployment, tokens: int, rounds: int) -> list[list[int]]:
    """Prompts of one length, prefilled and handed over."""
    prompts = [prompt(f"pool {tokens} {number}", tokens) for number in range(rounds)]
    for ids in prompts:
        timed(running.url, running.deployment.model.served_name, ids)
    return prompts


def row(running: RunningDeployment, tokens: int, prompts: list[list[int]]) -> dict[str, Any]:
    """Of one length, after the restart."""
    model, engine = running.deployment.model.served_name, str(running.engine("west-decode").url)
    loaded, computed, hit_tokens = [], [], 0
    for number, ids in enumerate(prompts):
        took_s, answer = timed(running.url, model, ids)
        loaded.append(took_s)
        hit_tokens += int(answer.headers.get("x-prfaas-pool-tokens", 0))
        computed.append(timed(engine, model, ids, cache_salt=f"{tokens} {number}")[0])
    return {
        "prompt_tokens": tokens,
        "rounds": len(prompts),
        "hit_tokens": hit_tokens,
        "hit_share": hit_tokens / (tokens * len(prompts)),
        "loaded_s": statistics.median(loaded),
        "computed_s": statistics.median(computed),
        "loaded_to_computed": statistics.median(loaded) / statistics.median(computed),
        "every_loaded_s": loaded,
        "every_computed_s": computed,
    }


def measured(model: str, tokens: list[int], *, rounds: int) -> dict[str, Any]:
    """A row for each length; told as it goes."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "pool.yaml"
        file.write_text(DEPLOYMENT)
        with RunningDeployment(file, Path(home) / "up", model=model) as running:
            prompts = {n: measure(running, n, rounds) for n in tokens}
            restart(running, "west-decode")
            timed(str(running.engine("west-decode").url), running.deployment.model.served_name,
                  prompt("warm up", 512))  # fmt: skip
            rows = [row(running, length, some) for length, some in prompts.items()]
            cache = call(f"{running.admin('west')}/cache").json()
    for one in rows:
        print(
            f"{one['prompt_tokens']:>6} tokens: loaded {one['loaded_s']:.2f} s, "
            f"computed {one['computed_s']:.2f} s ({one['loaded_to_computed']:.2f}), "
            f"hits {one['hit_share']:.1%}",
            flush=True,
        )
    return {
        "model": model,
        "rows": rows,
        "cache_used_bytes": cache["used_bytes"],
        "cache_size_bytes": cache["size_bytes"],
    }
