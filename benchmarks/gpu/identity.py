"""Answers after a hand-off beside a stock engine's: tokens, bits of log-probabilities, margins.

A stock engine is asked twice: its second answer goes on from its prefix cache, which is the
schedule a decode engine has after a hand-off. What the engines compute without any hand-off is
compared as well: a difference there is no difference of the hand-off.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prfaas.testing.comparing import complete
from prfaas.testing.running import PlainEngine, RunningDeployment, SecondGateway

KINDS = ("gdn", "kda", "mamba2", "mla", "sliding_window", "dense")
LENGTHS = (257, 1000, 2049, 5000, 16000, 32000)
FOLLOWED_UP = (1000, 5000, 16000)
AT_ONCE = 6
ENGINES = ("east-prefill", "west-prefill", "west-decode")

Row = dict[str, Any]


def measure(kinds: Sequence[str], lengths: Sequence[int], args: list[str]) -> Iterator[Row]:
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            yield from _one_kind(stack, Path(directory), kind, lengths, args)


def _one_kind(
    stack: ExitStack, home: Path, kind: str, lengths: Sequence[int], args: list[str]
) -> Iterator[Row]:
    file = home / "deployment.json"  # which is YAML too
    file.write_text(json.dumps(_deployment(args)))
    running = stack.enter_context(RunningDeployment(file, home / "up", model=f"tiny:{kind}"))
    local = stack.enter_context(SecondGateway(running, home / "local", threshold="1M"))
    plain = stack.enter_context(PlainEngine(running, home / "plain", args=tuple(args)))
    model = running.deployment.model.served_name
    for route, url in (("offload", running.url), ("pd-p", local.url)):
        for length in lengths:
            ids = _prompt(f"{route} {length}", length)
            row = _compare(url, plain.url, model, ids)
            yield {"what": "first turn", "kind": kind, "route": route, **row}
            if length in FOLLOWED_UP:
                turn = ids + row["token_ids"] + _prompt(f"{route} {length} more", length // 3)
                row = _compare(url, plain.url, model, turn)
                yield {"what": "second turn", "kind": kind, "route": route, **row}
    for name in ENGINES:
        row = _compare(
            str(running.engine(name).url), plain.url, model, _prompt(name, 5000), handed_over=False
        )
        yield {"what": "no hand-off", "kind": kind, "engine": name, **row}
    yield from _at_once(running.url, plain.url, model, kind)


def _deployment(args: list[str]) -> Row:
    def engine(name: str, role: str) -> Row:
        return {"name": name, "role": role, "args": args}

    return {
        "clusters": [
            {"name": "east", "kind": "prfaas", "engines": [engine("east-prefill", "prefill")],
             "agent": {"name": "east-agent", "arena": "1 GiB"}},
            {"name": "west", "kind": "pd",
             "engines": [engine("west-prefill", "prefill"), engine("west-decode", "decode")],
             "agent": {"name": "west-agent", "arena": "1 GiB"}},
        ],
        "links": [{"from": "east", "to": "west", "rate": "10 Gbit/s"}],
        "scheduler": {"policy": "threshold", "threshold": 1},
        "model": {"max_model_len": 65536},
    }  # fmt: skip


def _prompt(seed: str, length: int) -> list[int]:
    return random.Random(seed).choices(range(300, 4000), k=length)


def _compare(
    url: str, plain: str, model: str | None, ids: list[int], *, handed_over: bool = True
) -> Row:
    """Against the stock engine's answer of the same schedule."""
    ours, route = complete(url, model, ids)
    first, _ = complete(plain, model, ids)
    second, _ = complete(plain, model, ids)
    return {
        "prompt_tokens": len(ids), "took": route, "token_ids": ours["token_ids"],
        **_difference(ours, second if handed_over else first),
        "stock_repeats_itself": _bits(first) == _bits(second),
    }  # fmt: skip


def _at_once(url: str, plain: str, model: str | None, kind: str) -> Iterator[Row]:
    prompts = [_prompt(f"at once {n}", 3000 + 777 * n) for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda ids: complete(url, model, ids)[0], prompts))
    for ids, answer in zip(prompts, answers, strict=True):
        stock, _ = complete(plain, model, ids)
        yield {"what": "at once", "kind": kind, "prompt_tokens": len(ids),
               **_difference(answer, stock)}  # fmt: skip


def _bits(choice: Row) -> list[float]:
    found: list[float] = choice["logprobs"]["token_logprobs"]
    return found


def _difference(ours: Row, stock: Row) -> Row:
    """``margin``: nats between the stock engine's best two tokens where the texts part."""
    pairs = zip(ours["token_ids"], stock["token_ids"], strict=True)
    parts = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
    margin = None
    if parts is not None:
        best, second = sorted(stock["logprobs"]["top_logprobs"][parts].values())[::-1][:2]
        margin = best - second
    until = len(_bits(ours)) if parts is None else parts
    gaps = [abs(a - b) for a, b in zip(_bits(ours)[:until], _bits(stock)[:until], strict=True)]
    return {
        "same_tokens": parts is None, "same_bits": _bits(ours) == _bits(stock), "margin": margin,
        "largest_difference": max(gaps, default=0.0),
    }  # fmt: skip
