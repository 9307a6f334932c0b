"""Conversations asked of one system: what was computed again, and how long first tokens took."""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from typing import Any, NamedTuple

from benchmarks.pool.conversations import Conversations, Histories, UnboundedCache
from benchmarks.pool.systems import System

from prfaas.testing.calling import call


class _Heard(NamedTuple):
    first_s: float
    token_ids: list[int]
    pool_tokens: int


def talk(system: System, conversations: Conversations, *, block_tokens: int) -> dict[str, Any]:
    """Ask all turns, one after the other; what is counted is counted by the engines themselves."""
    histories = Histories(conversations.system)
    unbounded = UnboundedCache(block_tokens)
    if conversations.system:
        # Once by itself, as an operator warms it: hybrids go on from where a prompt has ended.
        _ask(system, list(conversations.system), 1)
        unbounded.holds(conversations.system)
    before, began = _counted(system), time.monotonic()
    firsts: list[float] = []
    prompt_tokens = unbounded_tokens = pool_tokens = 0
    for turn in conversations.turns:
        prompt = histories.prompt(turn)
        heard = _ask(system, prompt, turn.answer_tokens)
        histories.answered(turn, heard.token_ids)
        firsts.append(heard.first_s)
        prompt_tokens += len(prompt)
        pool_tokens += heard.pool_tokens
        unbounded_tokens += unbounded.hit_tokens(prompt)
        # The last token was sampled: nobody has its KV.
        unbounded.holds([*prompt, *heard.token_ids][:-1])
    took_s, after = time.monotonic() - began, _counted(system)
    computed = int(after["computed"] - before["computed"])
    hits = prompt_tokens - computed
    return {
        "requests": len(firsts),
        "prompt_tokens": prompt_tokens,
        "computed_tokens": computed,
        "hit_tokens": hits,
        "pool_tokens": pool_tokens,
        "unbounded_hit_tokens": unbounded_tokens,
        "share_of_unbounded": hits / unbounded_tokens if unbounded_tokens else None,
        "ttft_median_s": statistics.median(firsts),
        "ttft_p90_s": statistics.quantiles(firsts, n=10)[-1],
        "prefill_s": after["prefill_s"] - before["prefill_s"],
        "took_s": took_s,
    }


def _ask(system: System, prompt: list[int], answer_tokens: int) -> _Heard:
    body = {
        "model": system.model, "prompt": prompt, "max_tokens": answer_tokens, "temperature": 0,
        "ignore_eos": True, "stream": True, "return_token_ids": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{system.url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    began, first_s, ids = time.monotonic(), 0.0, []
    with urllib.request.urlopen(request, timeout=300) as answer:
        pool_tokens = int(answer.headers.get("x-prfaas-pool-tokens", 0))
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            found = json.loads(line[6:])
            if "choices" not in found:
                raise SystemExit(f"{system.url}: {line!r}")
            new = [i for choice in found["choices"] for i in choice.get("token_ids") or ()]
            if new and not ids:
                first_s = time.monotonic() - began
            ids += new
    if len(ids) != answer_tokens:
        raise SystemExit(f"{system.url} answered {len(ids)} tokens instead of {answer_tokens}")
    return _Heard(first_s, ids, pool_tokens)


def _counted(system: System) -> dict[str, float]:
    found = {"computed": 0.0, "prefill_s": 0.0}
    for url in system.engines:
        for line in call(f"{url}/metrics").body.decode().splitlines():
            if line.startswith("vllm:prompt_tokens_by_source_total{") and "local_compute" in line:
                found["computed"] += float(line.rsplit(" ", 1)[1])
            elif line.startswith("vllm:request_prefill_time_seconds_sum{"):
                found["prefill_s"] += float(line.rsplit(" ", 1)[1])
    return found
