"""Token- and bit-identical to a stock engine, for every kind of KV cache and awkward length.

bfloat16 results depend on the schedule, so the stock engine is asked for the same one: one request
at a time, same chunks, same threads. A hybrid model computes its last, partial block in a step of
its own on any engine. A model without recurrent layers does so only after a prefix cache hit, so
there the stock engine is asked twice and its second answer counts.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from prfaas.testing.running import call

BLOCK, CHUNK = 256, 2048
LENGTHS = (1, 2, 255, 256, 257, 512, 2047, 2048, 2049, 5000, 16000)
KINDS = ("gdn", "sliding_window", "dense", "mla")
ROUTES = ("offload", "pd-p")

pytestmark = pytest.mark.engine


def prompt(seed: str, length: int) -> list[int]:
    return random.Random(seed).choices(range(300, 4000), k=length)


def complete(url: str, ids: list[int], **more: Any) -> tuple[dict[str, Any], str]:
    """The answer's first choice, and the route it took."""
    model = call(f"{url}/v1/models").json()["data"][0]["id"]
    body = {
        "model": model,
        "prompt": ids,
        "max_tokens": 16,
        "temperature": 0,
        "logprobs": 1,
        "return_token_ids": True,
        "ignore_eos": True,
        **more,
    }
    answer = call(f"{url}/v1/completions", body)
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0], answer.headers.get("x-prfaas-route", "")


def reference(stack: Any, ids: list[int]) -> dict[str, Any]:
    choice, _ = complete(stack.plain.url, ids)
    if stack.kind != "gdn":
        choice, _ = complete(stack.plain.url, ids)
    return choice


def check(stack: Any, route: str, ids: list[int], *, cached: int = 0) -> None:
    """``cached``: leading tokens of the prompt that were part of an earlier one."""
    choice, taken = complete(stack.gateway(route), ids)
    wanted = reference(stack, ids)
    blocks_missing = (len(ids) - 1) // BLOCK - cached // BLOCK
    expected = route if blocks_missing > 0 else "direct"
    assert taken.startswith(expected), taken
    assert choice["token_ids"] == wanted["token_ids"]
    assert choice["logprobs"]["token_logprobs"] == wanted["logprobs"]["token_logprobs"]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_identical(stacks: Any, kind: str, route: str, length: int) -> None:
    stack = stacks.get(kind)
    ids = prompt(f"{route} {length}", length)
    check(stack, route, ids)
    if length > BLOCK:
        # A second prompt shares the first three fifths: only the rest is handed over.
        shared = ids[: length * 3 // 5]
        rest = prompt(f"{route} {length} more", length - len(shared))
        check(stack, route, shared + rest, cached=len(shared))
