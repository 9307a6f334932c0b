"""Engines of one rank and of two hand over to each other on two GPUs, beside stock engines.

Two prefill and two decode engines, of one rank and of two; a gateway for each pair knows only its
two. Answers are compared with a stock engine's that has the decode engine's ranks: bit-identical
where both engines have as many, else a text may part where the stock engine's best two nearly tie,
since the cache was summed over another number of ranks. How far that goes without any hand-off is
measured beside it: the stock engine of the prefill engine's ranks is asked the same prompt, and its
answer compared with the same one. The line's bytes are S_kv whatever the ranks. At last something
is lost on the way of each pair: its answers must differ.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from benchmarks.gpu.identity import FOLLOWED_UP, Row, compare, difference, prompt

from prfaas.core.layout import KvLayout
from prfaas.testing.calling import call
from prfaas.testing.comparing import complete
from prfaas.testing.lost_bytes import answer_without, layout_of, losses_of
from prfaas.testing.running import PlainEngine, RunningDeployment, SecondGateway, engine_args_here

KINDS = ("gdn", "kda")
LENGTHS = (257, 1000, 2049, 5000, 16000, 32000)
PAIRS = ((1, 1), (1, 2), (2, 1), (2, 2))
OF_A_LENGTH = {True: 1, False: 3}
"""How many prompts: one where bits must be equal, more where ranks are not, and chance decides."""
_LOSING = 1200


def measure(kinds: Sequence[str], lengths: Sequence[int], args: list[str]) -> Iterator[Row]:
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
            for row in _one_kind(stack, Path(directory), kind, lengths, args):
                yield {"kind": kind, **row}


def _one_kind(
    stack: ExitStack, home: Path, kind: str, lengths: Sequence[int], args: list[str]
) -> Iterator[Row]:
    file = home / "deployment.json"  # which is YAML too
    args = [*args, *engine_args_here(kind)]
    file.write_text(json.dumps(_deployment(args)))
    running = stack.push(RunningDeployment(file, home / "up", model=f"tiny:{kind}"))
    running.wait_until_ready()  # its first engines tune the kernels for all
    yield {"what": "starts", **_starts(running)}
    plain = {
        ranks: stack.push(
            PlainEngine(
                running, home / f"plain-{ranks}", like=f"west-{ranks}", args=(*args, *_ranks(ranks))
            )
        )
        for ranks in (1, 2)
    }
    gateways = {
        (p, d): stack.push(
            SecondGateway(running, home / f"{p}-{d}", engines=(f"east-{p}", f"west-{d}"))
        )
        for p, d in PAIRS
    }
    for part in (*plain.values(), *gateways.values()):
        part.wait_until_ready()
    layout = layout_of(running, "west-1")
    stock = {ranks: engine.url for ranks, engine in plain.items()}
    for (p, d), gateway in gateways.items():
        ranks = {"prefill_ranks": p, "decode_ranks": d}
        for number, length in product(range(OF_A_LENGTH[p == d]), lengths):
            seed = f"{p} to {d}, {number}: {length}"
            for row in _one_prompt(running, gateway.url, stock, (p, d), seed, length, layout):
                yield {**ranks, **row}
        for row in _losses(running, stock[d], f"east-{p}", f"west-{d}", layout):
            yield {"what": "lost", **ranks, **row}
    yield {"what": "imports", **_imports(running)}


def _one_prompt(
    running: RunningDeployment, url: str, stock: Mapping[int, str], ranks: tuple[int, int],
    seed: str, length: int, layout: KvLayout,
) -> Iterator[Row]:  # fmt: skip
    """``line_bytes`` beside ``kv_bytes``, those of one rank's layout."""
    model = running.deployment.model.served_name
    other, beside = (stock[n] for n in ranks)
    ids = prompt(seed, length)
    before = _sent_bytes(running)
    answer = compare(url, beside, model, ids)
    line_bytes = _sent_bytes(running) - before
    size = layout.handoff_bytes(0, layout.boundary(length))
    yield {"what": "hand-off", "turn": 1, "line_bytes": line_bytes, "kv_bytes": size, **answer}
    yield from _without_a_handoff(other, beside, model, ids, turn=1)
    if length in FOLLOWED_UP:
        ids = ids + answer["token_ids"] + prompt(f"{seed} more", length // 3)
        yield {"what": "hand-off", "turn": 2, **compare(url, beside, model, ids)}
        yield from _without_a_handoff(other, beside, model, ids, turn=2)


def _without_a_handoff(
    other: str, beside: str, model: str | None, ids: list[int], *, turn: int
) -> Iterator[Row]:
    """How far two stock engines are apart, both in the schedule of a second answer."""
    if other != beside:
        complete(other, model, ids)
        yield {"what": "stock", "turn": turn, **compare(other, beside, model, ids)}


def _losses(
    running: RunningDeployment, plain: str, prefill: str, decode: str, layout: KvLayout
) -> Iterator[Row]:
    """Nothing is lost first."""
    model = running.deployment.model.served_name
    length = max(_LOSING, layout.alignment_tokens + _LOSING // 4)
    for loss in losses_of(layout):
        ids = prompt(f"{prefill} {decode} lost {loss.__name__}", length)
        ours = answer_without(
            running, loss, ids, layout.boundary(length), prefill=prefill, decode=decode
        )
        complete(plain, model, ids)
        stock, _ = complete(plain, model, ids)
        yield {"lost": loss.__name__, "prompt_tokens": length, **difference(ours, stock)}


def _ranks(count: int) -> list[str]:
    return ["--tensor-parallel-size", str(count)]


def _deployment(args: list[str]) -> Row:
    def engine(name: str, role: str, ranks: int) -> Row:
        return {"name": f"{name}-{ranks}", "role": role, "args": [*args, *_ranks(ranks)]}

    def cluster(name: str, kind: str, role: str) -> Row:
        return {
            "name": name, "kind": kind, "engines": [engine(name, role, n) for n in (1, 2)],
            "agent": {"name": f"{name}-agent", "arena": "1 GiB"},
        }  # fmt: skip

    return {
        "clusters": [cluster("east", "prfaas", "prefill"), cluster("west", "pd", "decode")],
        "links": [{"from": "east", "to": "west", "rate": "10 Gbit/s"}],
        "scheduler": {"policy": "threshold", "threshold": 1},
        "model": {"max_model_len": 65536, "block_tokens": 256},
    }


def _sent_bytes(running: RunningDeployment) -> float:
    page = call(f"{running.admin('east')}/metrics").body.decode()
    return float(re.findall(r'exported_bytes_total\{path="link"\} (\S+)', page)[0])


def _starts(running: RunningDeployment) -> Row:
    """How often each engine was started: one that has tuned as several ranks is started again."""
    names = {engine.name for engine in running.deployment.engines}
    told = re.findall(r"(\S+): starting", running.log.read_text(errors="replace"))
    return dict(Counter(name for name in told if name in names))


def _imports(running: RunningDeployment) -> Row:
    """A load that fails shows in no answer."""
    page = call(f"{running.admin('west')}/metrics").body.decode()
    counts = re.findall(r'imports_total\{outcome="(\w+)"\} (\S+)', page)
    return {outcome: float(count) for outcome, count in counts}
