"""Engines of one rank and of two hand over to each other on two GPUs, beside stock engines.

Two prefill and two decode engines, of one rank and of two; a gateway for each pair knows only its
two. Answers are compared with a stock engine's that has the decode engine's ranks: bit-identical
where both engines have as many, else a text may part where the stock engine's best two nearly tie,
since the cache was summed over another number of ranks. The line's bytes are S_kv whatever the
ranks. At last something is lost on the way of each pair: its answers must differ.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu.identity import FOLLOWED_UP, Row, compare, difference, prompt

from prfaas.core.layout import KvLayout
from prfaas.testing.comparing import complete
from prfaas.testing.lost_bytes import answer_without, layout_of, losses_of
from prfaas.testing.running import (
    PlainEngine,
    RunningDeployment,
    SecondGateway,
    call,
    engine_args_here,
)

KINDS = ("gdn", "kda")
LENGTHS = (257, 1000, 2049, 5000, 16000, 32000)
PAIRS = ((1, 1), (1, 2), (2, 1), (2, 2))
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
    for (p, d), gateway in gateways.items():
        for row in _one_pair(running, gateway.url, plain[d].url, lengths, layout):
            yield {"what": "hand-off", "prefill_ranks": p, "decode_ranks": d, **row}
        for row in _losses(running, plain[d].url, f"east-{p}", f"west-{d}", layout):
            yield {"what": "lost", "prefill_ranks": p, "decode_ranks": d, **row}
    yield {"what": "imports", **_imports(running)}


def _one_pair(
    running: RunningDeployment, url: str, plain: str, lengths: Sequence[int], layout: KvLayout
) -> Iterator[Row]:
    """``line_bytes`` beside ``kv_bytes``, those of one rank's layout."""
    model = running.deployment.model.served_name
    for length in lengths:
        ids = prompt(f"{url} {length}", length)
        before = _sent_bytes(running)
        row = compare(url, plain, model, ids)
        size = layout.handoff_bytes(0, layout.boundary(length))
        yield {"turn": 1, "line_bytes": _sent_bytes(running) - before, "kv_bytes": size, **row}
        if length in FOLLOWED_UP:
            turn = ids + row["token_ids"] + prompt(f"{url} {length} more", length // 3)
            yield {"turn": 2, **compare(url, plain, model, turn)}


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


def _imports(running: RunningDeployment) -> Row:
    """A load that fails shows in no answer."""
    page = call(f"{running.admin('west')}/metrics").body.decode()
    counts = re.findall(r'imports_total\{outcome="(\w+)"\} (\S+)', page)
    return {outcome: float(count) for outcome, count in counts}
