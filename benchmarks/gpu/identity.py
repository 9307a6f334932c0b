"""Answers after a hand-off beside a stock engine's: tokens, bits of log-probabilities, margins.

A stock engine is asked twice: its second answer goes on from its prefix cache, which is the
schedule a decode engine has after a hand-off. What the engines compute without any hand-off is
compared as well: a difference there is no difference of the hand-off. At last, prompts are handed
over with something lost on the way: their answers must differ.
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

from benchmarks.gpu.bench import PIECEWISE

from prfaas.core.layout import KvLayout
from prfaas.testing.comparing import complete
from prfaas.testing.lost_bytes import answer_without, layout_of, losses_of
from prfaas.testing.running import (
    PlainEngine,
    RunningDeployment,
    SecondGateway,
    engine_args_here,
)

KINDS = ("gdn", "kda", "mamba2", "mla", "sliding_window", "dense")
LENGTHS = (257, 1000, 2049, 5000, 16000, 32000)
FOLLOWED_UP = (1000, 5000, 16000)
AT_ONCE = 6
_LOSING = 1200
"""Tokens, or a block and a little: long enough for all of it, and one block still weighs."""
ENGINES = ("east-prefill", "west-prefill", "west-decode")

Row = dict[str, Any]


def measure(
    kinds: Sequence[str], lengths: Sequence[int], block_tokens: int, args: list[str]
) -> Iterator[Row]:
    """``block_tokens``: from 1,024 on, hand-offs of these lengths are mostly exact ones."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            for row in _one_kind(stack, Path(directory), kind, lengths, block_tokens, args):
                yield {"kind": kind, "block_tokens": block_tokens, **row}


def _one_kind(
    stack: ExitStack,
    home: Path,
    kind: str,
    lengths: Sequence[int],
    block_tokens: int,
    args: list[str],
) -> Iterator[Row]:
    file = home / "deployment.json"  # which is YAML too
    args = [*args, *engine_args_here(kind)]
    file.write_text(json.dumps(_deployment(block_tokens, args)))
    running = stack.push(RunningDeployment(file, home / "up", model=f"tiny:{kind}"))
    local = stack.push(SecondGateway(running, home / "local", threshold="1M"))
    running.wait_until_ready()  # its first engine tunes the kernels for all
    plain = stack.push(PlainEngine(running, home / "plain", args=tuple(args)))
    piecewise = stack.push(PlainEngine(running, home / "piecewise", args=(*args, *PIECEWISE)))
    for part in (local, plain, piecewise):
        part.wait_until_ready()
    layout = layout_of(running, "west-decode")
    yield {"what": "layout", "aligned_to_tokens": layout.alignment_tokens}
    model = running.deployment.model.served_name
    for route, url in (("offload", running.url), ("pd-p", local.url)):
        for length in lengths:
            ids = prompt(f"{route} {length}", length)
            row = compare(url, plain.url, model, ids)
            yield {"what": "first turn", "route": route, **row}
            if length in FOLLOWED_UP:
                turn = ids + row["token_ids"] + prompt(f"{route} {length} more", length // 3)
                row = compare(url, plain.url, model, turn)
                yield {"what": "second turn", "route": route, **row}
    for name in ENGINES:
        for stock, url in (("as it is", plain.url), ("piecewise graphs", piecewise.url)):
            ids = prompt(f"{name}, {stock}", 5000)
            row = compare(str(running.engine(name).url), url, model, ids, handed_over=False)
            yield {"what": "no hand-off", "engine": name, "stock": stock, **row}
    yield from _at_once(running.url, plain.url, model)
    yield from _losses(running, plain.url, layout)


def _deployment(block_tokens: int, args: list[str]) -> Row:
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
        "model": {"max_model_len": 65536, "block_tokens": block_tokens},
    }  # fmt: skip


def prompt(seed: str, length: int) -> list[int]:
    return random.Random(seed).choices(range(300, 4000), k=length)


def compare(
    url: str, plain: str, model: str | None, ids: list[int], *, handed_over: bool = True
) -> Row:
    """Against the stock engine's answer of the same schedule."""
    ours, route = complete(url, model, ids)
    first, _ = complete(plain, model, ids)
    second, _ = complete(plain, model, ids)
    return {
        "prompt_tokens": len(ids), "took": route, "token_ids": ours["token_ids"],
        **difference(ours, second if handed_over else first),
        "stock_repeats_itself": _bits(first) == _bits(second),
    }  # fmt: skip


def _at_once(url: str, plain: str, model: str | None) -> Iterator[Row]:
    prompts = [prompt(f"at once {n}", 3000 + 777 * n) for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda ids: complete(url, model, ids)[0], prompts))
    for ids, answer in zip(prompts, answers, strict=True):
        stock, _ = complete(plain, model, ids)
        yield {"what": "at once", "prompt_tokens": len(ids), **difference(answer, stock)}


def _losses(running: RunningDeployment, plain: str, layout: KvLayout) -> Iterator[Row]:
    """Negative controls, the first a positive one."""
    model = running.deployment.model.served_name
    length = max(_LOSING, layout.alignment_tokens + _LOSING // 4)
    for loss in losses_of(layout):
        ids = prompt(f"lost {loss.__name__}", length)
        ours = answer_without(running, loss, ids, layout.boundary(length))
        complete(plain, model, ids)
        stock, _ = complete(plain, model, ids)
        yield {"what": "lost", "lost": loss.__name__, "prompt_tokens": length,
               **difference(ours, stock)}  # fmt: skip


def _bits(choice: Row) -> list[float]:
    found: list[float] = choice["logprobs"]["token_logprobs"]
    return found


def difference(ours: Row, stock: Row) -> Row:
    """``margin``: nats between the stock engine's best two tokens where the texts part;
    ``bits_part_at``: the answer's first token whose log-probability is not the same."""
    pairs = zip(ours["token_ids"], stock["token_ids"], strict=True)
    parts = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
    margin = None
    if parts is not None:
        best, second = sorted(stock["logprobs"]["top_logprobs"][parts].values())[::-1][:2]
        margin = best - second
    until = len(_bits(ours)) if parts is None else parts
    gaps = [abs(a - b) for a, b in zip(_bits(ours)[:until], _bits(stock)[:until], strict=True)]
    bits = zip(_bits(ours), _bits(stock), strict=True)
    return {
        "same_tokens": parts is None, "same_bits": _bits(ours) == _bits(stock), "margin": margin,
        "bits_part_at": next((at for at, (a, b) in enumerate(bits) if a != b), None),
        "largest_difference": max(gaps, default=0.0),
    }  # fmt: skip
