"""Fuzz targets of everything else that eats foreign bytes, one by one.

    python tests/fuzz/fuzz_foreign_bytes.py [SECONDS [SEED [TARGET ...]]]

SECONDS are for each target. Inputs are valid ones, mutated: bytes changed, cut, doubled and moved,
numbers made huge, nested deep. A target may only refuse with the errors that its parser names; what
it holds must stay within its bound. Prints the target and the seed on failure.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from prfaas.core.errors import CallerError, ConfigError, EngineError, LinkError, PeerError
from prfaas.core.extents import Extent
from prfaas.core.handoff import ExportParams, parse_handoff
from prfaas.engine_socket.framing import (
    FrameBuffer,
    decode_from_agent,
    decode_from_engine,
    encode,
)
from prfaas.engine_socket.messages import (
    AbortExport,
    BeginExport,
    CloseImport,
    ExportSlot,
    ImportReady,
    OpenImport,
    RegisterEngine,
)
from prfaas.gateway.agent_client import TransferStatus, read_answer
from prfaas.gateway.body import RequestBody
from prfaas.gateway.carried_events import KeyedFollower
from prfaas.gateway.openai_errors import RequestRefused
from prfaas.index.engine_index import BlocksStored
from prfaas.index.keyed_blocks import BlocksGone, KeyedBlocks, key_id
from prfaas.index.keys import BlockHasher
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.follower import KvEventFollower
from prfaas.kv_events.wire import Alive, Begun, Changed, Deflater, FrameReader, Held, Reached
from prfaas.link.api import LinkState, LinkStates
from prfaas.link.protocol.frames import decode
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.scheduler import journal
from prfaas.scheduler.events import EngineDown, PrefillCompleted, RequestArrived
from prfaas.scheduler.replay import read_journal
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout
from prfaas.workload.files import read_trace_file

_MEMORY_BOUND = 48 * 1024 * 1024
_DEEP = 20_000
_ODD = (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xd9\x02\xff\xfe", b"null", b"-1", b"\n")
Target = Callable[[random.Random], None]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Up to four changes."""
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randrange(9) :]
        elif kind == 2:
            end = at + rng.randrange(40)
            data = data[:end] + data[at:end] * rng.randrange(3) + data[end:]
        elif kind == 3:
            data = data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            huge = (b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"1e999", b"9" * 400)
            data = data[:at] + rng.choice(huge) + data[at:]
        elif kind == 6:
            deep = rng.choice((b"[", b'{"a":', b"\x91", b"\x81\xa1a"))
            data = data[:at] + deep * rng.choice((3, _DEEP)) + data[at:]
        else:
            data = data[:at] + rng.choice(_ODD) + data[at:]
    return data


# HTTP bodies

_BODIES = [
    json.dumps(body).encode()
    for body in (
        {"model": "m", "prompt": "a text", "max_tokens": 7, "n": 2, "stream": True},
        {"prompt": [1, 2, 3], "cache_salt": "s", "kv_transfer_params": None, "echo": False},
        {"prompt": ["a", "b"], "max_completion_tokens": 3, "priority": 0, "logit_bias": {"1": 2}},
        {"messages": [{"role": "user", "content": "h\u00e9 \ud83d\ude00"}], "n": 1, "user": "u"},
    )
]


def http_body(rng: random.Random) -> None:
    raw = mutated(rng, rng.choice(_BODIES))
    endpoint = rng.choice(("/v1/completions", "/v1/chat/completions"))
    with suppress(RequestRefused):
        body = RequestBody(endpoint, raw)  # type: ignore[arg-type]
        _ = body.model, body.cache_salt, body.needs_engine_alone()
        body.belong_to("tenant")
        params = ExportParams(
            transfer_id="t", destination="w", readers=("d",), from_token=0, to_token=1
        )
        for made in (body.for_prefill([1], params), body.for_decode([1], None), body.raw):
            assert made.lstrip().startswith(b"{")
            assert made.rstrip().endswith(b"}")
        assert body.choices >= 1
        assert body.prompts >= 1


def handoff_params(rng: random.Random) -> None:
    given = {"prfaas": "export", "transfer_id": "t", "destination": "w", "readers": ["d"],
             "from_token": 0, "to_token": 16, "deadline_s": 3.0,
             "context": {"request_id": "r", "attempt": 1,
                         "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}}  # fmt: skip
    with suppress(CallerError, ValueError, RecursionError):
        parse_handoff(json.loads(mutated(rng, json.dumps(given).encode())))


# cache events

_EVENTS = msgspec.msgpack.encode(
    [
        1.5,
        [
            {"type": "BlockStored", "block_hashes": [1, b"two"], "parent_block_hash": None,
             "token_ids": list(range(8)), "block_size": 4, "medium": "GPU", "group_idx": 0,
             "extra_keys": [["salt"], None]},
            {"type": "BlockRemoved", "block_hashes": [1], "medium": None, "group_idx": 0},
            {"type": "AllBlocksCleared"},
        ],
        0,
    ]
)  # fmt: skip


def cache_events(rng: random.Random) -> None:
    index = PrefixIndex(max_blocks=1000, max_engines=4, seed=b"seed" * 4)
    follower = KvEventFollower(index.engine("e"))
    for number in range(3):
        try:
            follower.take(number, mutated(rng, _EVENTS))
        except EngineError:
            follower.skip(number)
    assert index.blocks <= 1000


# what agents tell of engines' caches

_KEYED = KeyedBlocks(BlockHasher(b"seed"), b"seed").stored(
    BlocksStored(
        group=0,
        kind="full_attention",
        block_tokens=2,
        hashes=[1, 2, 3],
        parent=None,
        token_ids=[5, 6, 7, 8, 9, 10],
    )
)
_FRAMES = [
    msgspec.msgpack.encode(frame)
    for frame in (
        Begun("e", key_id(b"seed")),
        Held([_KEYED] if _KEYED else []),
        Reached(3),
        Changed(4, [BlocksGone(None, b"12345678"), BlocksGone(0, b"")]),
        Alive(True),
    )
]


def carried_events(rng: random.Random) -> None:
    """Frames, and the stream that they come in."""
    index = PrefixIndex(max_blocks=1000, max_engines=4, seed=b"seed")
    follower = KeyedFollower(index.engine("e"), key_id(b"seed"))
    bodies = [mutated(rng, f) if rng.random() < 0.3 else f for f in _FRAMES]
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    data = Deflater()(stream)
    if rng.random() < 0.3:
        data = mutated(rng, data)
    try:
        for frame in FrameReader().feed(data):
            follower.take(frame)
    except EngineError:
        follower.restart()
    index.check_integrity()


# agents' control messages

_STATES = msgspec.json.encode(
    LinkStates([LinkState("w", 1.0, 2, 3.0, None, 0.5, 0.1, 0.1, 0, 0, 0.0, 1, 1)])
)
_STATUS = b'{"state": "complete", "reason": null, "bytes_total": 3, "bytes_stored": 3}'


def agent_answers(rng: random.Random) -> None:
    for data, kind in ((_STATES, LinkStates), (_STATUS, TransferStatus)):
        with suppress(LinkError):
            read_answer("agent", mutated(rng, data), kind)


def line_budget_frames(rng: random.Random) -> None:
    demand, grant = Demand(1, 2, 3, 4, 5, 6), Grant(1, 2, 3, 4, 5)
    for body, kind in ((demand, Demand), (grant, Grant)):
        with suppress(PeerError):
            decode(mutated(rng, msgspec.msgpack.encode(body)), kind)


# engine socket

_FROM_ENGINES = [
    RegisterEngine("e", mock_layout(), 1),
    BeginExport("t", "w", 0, 16, 64, 9.0, MOCK_DIGEST, ("d",)),
    ExportSlot("t", 1, (Extent(0, 0, 64),)),
    AbortExport("t", "why"),
    OpenImport("t", 0, 16, 64, MOCK_DIGEST),
    CloseImport("t"),
]


def engine_socket(rng: random.Random) -> None:
    stream = mutated(rng, b"".join(encode(m) for m in rng.sample(_FROM_ENGINES, 3)))
    frames, at = FrameBuffer(EngineError), 0
    with suppress(EngineError):
        while at < len(stream):
            step = rng.randrange(1, 200)
            for body in frames.feed(stream[at : at + step]):
                decode_from_engine(body)
            at += step
    ready = encode(ImportReady("t", (Extent(0, 0, 64),)))[4:]
    with suppress(PeerError):
        decode_from_agent(mutated(rng, ready))


# files

_JOURNAL = b"".join(
    journal.encode(at, entry)
    for at, entry in enumerate(
        (RequestArrived("r", 100, 10, {"e": 4}), PrefillCompleted("r", 1), EngineDown("e", "why"))
    )
)


def journal_file(rng: random.Random) -> None:
    lines = mutated(rng, _JOURNAL).splitlines(keepends=True)
    with suppress(CallerError):
        list(read_journal(lines))


_TRACES = [
    b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n' * 3,
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n" * 2,
    b"arrival_time,prompt_tokens,output_tokens\n0.5,100,20\n0.75,200,10\n",
    _JOURNAL,
]
_FILE = Path(tempfile.gettempdir()) / f"prfaas-fuzz-{time.time_ns()}"


def trace_file(rng: random.Random) -> None:
    data = mutated(rng, rng.choice(_TRACES))
    if not rng.randrange(4):
        data = mutated(rng, gzip.compress(data, 1))
    if not rng.randrange(8):
        data = rng.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\xfe\xff")) + data
    _FILE.write_bytes(data)
    with suppress(ConfigError):
        read_trace_file(_FILE)


def lengths_first(rng: random.Random) -> None:
    """A length that is huge takes no memory before its bytes are there."""
    frames = FrameBuffer(EngineError)
    with suppress(EngineError):
        frames.feed(struct.pack("<I", rng.randrange(1 << 32)) + rng.randbytes(8))


TARGETS: dict[str, Target] = {
    found.__name__: found
    for found in (
        http_body, handoff_params, cache_events, carried_events, agent_answers, line_budget_frames,
        engine_socket, journal_file, trace_file, lengths_first,
    )
}  # fmt: skip


def run(name: str, target: Target, *, seconds: float, seed: int) -> int:
    """How many inputs there were. Raises what the target lets through."""
    tracemalloc.start()
    until, runs = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < until or not runs:
            try:
                target(random.Random(seed + runs))
            except BaseException:
                print(f"failed; run it again with: {sys.argv[0]} 0 {seed + runs} {name}")
                raise
            runs += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _MEMORY_BOUND, f"{name}: {peak} bytes were held"
    print(f"{name}: {runs} inputs, seed {seed}, at most {peak:,} bytes held", flush=True)
    return runs


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    try:
        for name in sys.argv[3:] or TARGETS:
            run(name, TARGETS[name], seconds=seconds, seed=seed)
    finally:
        _FILE.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
