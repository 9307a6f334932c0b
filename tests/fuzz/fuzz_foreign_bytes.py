"""Fuzz targets of everything that eats foreign bytes, as many at a time as there are cores.

    python tests/fuzz/fuzz_foreign_bytes.py --seconds 60
    python tests/fuzz/fuzz_foreign_bytes.py --runs 500000 --seed 1811 journal_file trace_file

Inputs are valid ones, mutated. A target may only refuse with the errors that its parser names; what
it holds must stay within its bound. Prints the target and the seed on failure.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import math
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import engine_words
import foreign_http
import line_words
import link_frames
import msgspec
import said_values
from mutations import Made, altered, misshapen, mutated
from xxhash import xxh3_64_intdigest

from prfaas.core.cache_copies import AwaitCopy
from prfaas.core.cache_news import Alive as DiskRate
from prfaas.core.cache_news import CacheNews, Evicted, KeyedWith, Stored, Whole
from prfaas.core.errors import (
    UNREADABLE,
    CallerError,
    ConfigError,
    EngineError,
    LinkError,
    PeerError,
)
from prfaas.core.extents import Extent
from prfaas.core.gateway_sessions import (
    Decided,
    EngineShare,
    EngineUse,
    LiveGateway,
    Renewal,
    Standing,
    Use,
)
from prfaas.core.handoff import ExportParams, parse_handoff
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
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
from prfaas.gateway import json_fields
from prfaas.gateway.agent_client import TransferStatus, read_answer
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.body import RequestBody
from prfaas.gateway.carried_events import KeyedFollower
from prfaas.gateway.pools import Holder, Pools
from prfaas.index.cache_events import BlocksGone, BlocksStored
from prfaas.index.keyed_blocks import KeyedBlocks, key_id
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.index.keys import BlockHasher, KnownTokens, PromptKeys
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.follower import KvEventFollower
from prfaas.kv_events.wire import Alive, Begun, Changed, Deflater, FrameReader, Held, Reached
from prfaas.link.api import LinkState, LinkStates, TransferKey
from prfaas.link.protocol.frames import Welcome, decode
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.link.tcp.worker_messages import (
    Ended,
    FromConnection,
    Heard,
    Introduced,
    Logged,
    Message,
    NotIntroduced,
    Progress,
    ToAgent,
    Told,
)
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.sessions import Sessions
from prfaas.pool.spill_format import (
    CHUNK_BYTES,
    FileHead,
    SpillFault,
    decode_head,
    encode_head,
    file_bytes,
    padded,
    span_of_head,
)
from prfaas.scheduler import journal
from prfaas.scheduler.events import EngineDown, PrefillCompleted, RequestArrived
from prfaas.scheduler.replay import read_journal
from prfaas.status.caches import caches_of, hit_share
from prfaas.status.exposition import MetricsPage
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout
from prfaas.workload.files import read_trace_file

_MEMORY_BOUND = 48 * 1024 * 1024
Target = Callable[[random.Random], None]


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
    raw = altered(rng, rng.choice(_BODIES), msgspec.json)
    endpoint = rng.choice(("/v1/completions", "/v1/chat/completions"))
    # As what is small is read, or what is large; also where a number is long, or a collector waits.
    json_fields._FEW_QUOTES = rng.choice((0, 20_000))
    json_fields._SLOW_BYTES, json_fields._MOST_NUMBER_BYTES = rng.choice(((2, 2), (65_536, 400)))
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
        parse_handoff(json.loads(altered(rng, json.dumps(given).encode(), msgspec.json)))


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
            follower.take(number, altered(rng, _EVENTS, msgspec.msgpack))
        except EngineError:
            follower.skip(number)
        index.match(PromptKeys(_TOKENS, salt=rng.choice((None, "salt"))))
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
    bodies = [altered(rng, f, msgspec.msgpack) if rng.random() < 0.3 else f for f in _FRAMES]
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    data = Deflater()(stream)
    if rng.random() < 0.3:
        data = mutated(rng, data)
    try:
        for frame in FrameReader().feed(data):
            follower.take(frame)
    except EngineError:
        follower.restart()
    index.match(PromptKeys([5, 6, 7, 8, 9, 10, 11]))
    index.check_integrity()


# what agents tell of their own caches, and gateways of what they are to copy

_TOKENS = list(range(40))
_ROOT = root_digest("w", adapter=None, salt="s")
_PROMPT_PREFIX = stretch(
    chain(_ROOT, _TOKENS, 4), _ROOT, _TOKENS, block_tokens=4,
    from_token=0, to_token=20, salt="s", adapter=None,
)  # fmt: skip
assert _PROMPT_PREFIX is not None
_PREFIX = KeyedPrefixes(b"seed").keyed(_PROMPT_PREFIX)
_NEWS = [
    msgspec.json.encode(news)
    for news in (
        KeyedWith(key_id(b"seed")),
        Stored("x", 0, 1, "layout", _PREFIX, 20),
        Stored("y", 0, 1, "layout", _PREFIX),
        Stored("x", 0, 1, "layout", _PREFIX, tier="disk"),
        Evicted("x", 0, 1),
        Whole(),
        DiskRate(2e9),
    )
]
_COPY = msgspec.msgpack.encode(AwaitCopy(prefix=_PREFIX, deadline_s=3.0))


def cache_news(rng: random.Random) -> None:
    pools = Pools(b"seed", max_blocks=1000, most_holders=4)
    for line in (*_NEWS, *rng.choices(_NEWS, k=3)):
        try:
            line = altered(rng, line, msgspec.json) if rng.random() < 0.5 else line
            pools.take("a", msgspec.json.decode(line, type=CacheNews))  # type: ignore[arg-type]
        except UNREADABLE:
            pools.lost("a")
    pools.match(PromptKeys(_TOKENS, salt="s"))
    pools.path(
        Holder("a", "layout"),
        KnownTokens(_TOKENS),
        salt="s",
        adapter=None,
        from_token=0,
        to_token=20,
    )
    pools.whole(KnownTokens(_TOKENS), salt="s", adapter=None)
    pools.index.check_integrity()
    for part in ("x", "y"):
        pools.take("a", Evicted(part, 0, 1))
    assert all(rate >= 1.0 for rate in pools.disk_rates.values())
    for holding in pools._holdings.values():
        for holder in filter(None, (holding._anywhere, holding._memory)):
            # Of one name under two keys the index may keep a block, as long as it has room.
            left = holder._blocks or holder._states or holder._early
            assert len(holding) or not left, "what is gone leaves nothing behind"


def cache_copies(rng: random.Random) -> None:
    """What a gateway orders."""
    with suppress(*UNREADABLE):
        awaited = msgspec.msgpack.decode(altered(rng, _COPY, msgspec.msgpack), type=AwaitCopy)
        if awaited.prefix.fault() is None:
            KeyedPrefixes(b"seed").learn(awaited.prefix)
    described = altered(rng, msgspec.msgpack.encode(_PROMPT_PREFIX), msgspec.msgpack)
    with suppress(*UNREADABLE, EngineError):
        KeyedPrefixes(b"seed").keyed(msgspec.msgpack.decode(described, type=PromptPrefix))


_END = _PREFIX.end_token
_KEPT = KeptPrefix(
    TransferKey("t", 0, 1), "layout", _PREFIX, _END, CHUNK_BYTES + 5, _END, needs_state=True
)
_SPILLED = encode_head(FileHead("0" * 16, _KEPT, bytes(16)))
_LEAD = struct.Struct("<IQ")
"""The length and digest of what follows them in a file."""


def spilled_file(rng: random.Random) -> None:
    """What lies in an agent's directory, its checksum right or not."""
    raw = mutated(rng, _SPILLED)
    if rng.random() < 0.7:
        before, body = _SPILLED[:12], raw[24:]
        if rng.random() < 0.5:
            (length, _) = _LEAD.unpack_from(_SPILLED, 12)
            body = misshapen(rng, _SPILLED[24 : 24 + length], msgspec.msgpack)
        raw = before + _LEAD.pack(len(body), xxh3_64_intdigest(body)) + body
    with suppress(SpillFault):
        span = span_of_head(raw)
        head = decode_head(raw, key_id="0" * 16, size=span + padded(_KEPT.total_bytes))
        assert head.what.fault() is None
        file_bytes(head.what)


# what gateways, agents and link workers tell each other

_STATES = msgspec.json.encode(
    LinkStates([LinkState("w", 1.0, 2, 3.0, None, 0.5, 0.1, 0.1, 0, 0, 0.0, 1, 1)])
)
_STATUS = b'{"state": "complete", "reason": null, "bytes_total": 3, "bytes_stored": 3}'


_USE = Use(total=4, held=1, wanted=2, may=3)
_RENEWAL = msgspec.json.encode(
    Renewal(
        name="g",
        known=2,
        engines={"d": EngineUse(decode=_USE, prefill=_USE, queued_s=0.5, kv_tokens=7, begun=9)},
        decided=Decided(roles={"d": "decode"}, thresholds={"west": 100}),
    )
)
_STANDING = msgspec.json.encode(
    Standing(
        gateways=[LiveGateway(id="g", name="g")], engines={"d": EngineShare(decode=1, prefill=1)}
    )
)


def agent_answers(rng: random.Random) -> None:
    for data, kind in (
        (_STATES, LinkStates),
        (_STATUS, TransferStatus),
        (_STANDING, Standing),
    ):
        with suppress(LinkError):
            read_answer("agent", altered(rng, data, msgspec.json), kind)


def gateway_sessions(rng: random.Random) -> None:
    """What gateways of one deployment tell an agent, and it tells the others."""
    sessions = Sessions()
    for now, life in enumerate(("aaaaaaaa", "bbbbbbbb", "aaaaaaaa")):
        with suppress(*UNREADABLE):
            renewal = msgspec.json.decode(altered(rng, _RENEWAL, msgspec.json), type=Renewal)
            sessions.renew(life, renewal, now=float(now))
            msgspec.json.encode(sessions.standing(life, now=float(now)))
    for life in sessions.lapsed(now=100.0):
        sessions.end(life)
    assert not len(sessions)


_FROM_WORKER: list[Message] = [
    Introduced(Welcome("west", 1, 65536)),
    NotIntroduced("no", peer=True),
    Progress(written=True, input=b"reply"),
    Heard([(1, 2, 3, 4, 5, 6, b"body"), True]),
    Ended("", peer=False),
    Told({"closed": 1}, 2),
    Logged(30, "prfaas", "a line"),
]


def worker_messages(rng: random.Random) -> None:
    """What a link worker, in which strangers' bytes end first, says to its agent."""
    raw = altered(rng, msgspec.msgpack.encode(rng.choice(_FROM_WORKER)), msgspec.msgpack)
    with suppress(*UNREADABLE):
        msgspec.msgpack.decode(raw, type=rng.choice((ToAgent, FromConnection)))  # type: ignore[arg-type]


def line_budget_frames(rng: random.Random) -> None:
    demand, grant = Demand(1, 2, 3, 4, 5, 6), Grant(1, 2, 3, 4, 5)
    for body, kind in ((demand, Demand), (grant, Grant)):
        with suppress(PeerError):
            decode(altered(rng, msgspec.msgpack.encode(body), msgspec.msgpack), kind)


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
    bodies = [misshapen(rng, encode(m)[4:], msgspec.msgpack) for m in rng.sample(_FROM_ENGINES, 3)]
    stream = b"".join(struct.pack("<I", len(body)) + body for body in bodies)
    stream = mutated(rng, stream) if rng.random() < 0.5 else stream
    frames, at = FrameBuffer(EngineError), 0
    with suppress(EngineError):
        while at < len(stream):
            step = rng.randrange(1, 200)
            for body in frames.feed(stream[at : at + step]):
                decode_from_engine(body)
            at += step
    ready = encode(ImportReady("t", (Extent(0, 0, 64),)))[4:]
    with suppress(PeerError):
        decode_from_agent(altered(rng, ready, msgspec.msgpack))


# files

_JOURNAL = b"".join(
    journal.encode(at, entry)
    for at, entry in enumerate(
        (RequestArrived("r", 100, 10, {"e": 4}), PrefillCompleted("r", 1), EngineDown("e", "why"))
    )
)


def said_otherwise(rng: random.Random, data: bytes) -> bytes:
    """Lines of JSON, half of which are others."""
    lines = data.splitlines()
    other = (misshapen(rng, li, msgspec.json) if rng.random() < 0.5 else li for li in lines)
    return b"".join(line + b"\n" for line in other)


def journal_file(rng: random.Random) -> None:
    lines = _JOURNAL.splitlines(keepends=True)
    lines = [
        altered(rng, line, msgspec.json) + b"\n" if rng.random() < 0.5 else line for line in lines
    ]
    lines = mutated(rng, b"".join(lines)).splitlines(keepends=True)
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
    data = rng.choice(_TRACES)
    if data.startswith(b"{") and rng.random() < 0.5:
        data = said_otherwise(rng, data)
    data = mutated(rng, data)
    if not rng.randrange(4):
        data = mutated(rng, gzip.compress(data, 1))
    if not rng.randrange(8):
        data = rng.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\xfe\xff")) + data
    _FILE.write_bytes(data)
    with suppress(ConfigError):
        read_trace_file(_FILE)


_PAGE = b"""# HELP a b
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{model_name="m",engine="0"} 3.0
vllm:prefix_cache_queries_total{model_name="m",engine="0"} 9.0
prfaas_pool_slots{state="free"} 12
"""


def metrics_pages(rng: random.Random) -> None:
    """What `prfaas status` reads of engines and agents."""
    page = MetricsPage(mutated(rng, _PAGE).decode(errors="replace"))
    page.by("prfaas_pool_slots", "state")
    hit_share(page)
    caches_of(page)


def lengths_first(rng: random.Random) -> None:
    """A length that is huge takes no memory before its bytes are there."""
    frames = FrameBuffer(EngineError)
    with suppress(EngineError):
        frames.feed(struct.pack("<I", rng.randrange(1 << 32)) + rng.randbytes(8))


TARGETS: dict[str, Target] = {
    found.__name__: found
    for found in (
        *foreign_http.TARGETS, *said_values.TARGETS, engine_words.engine_words,
        line_words.line_words, link_frames.first_message, link_frames.link_frames,
        http_body, handoff_params, cache_events, carried_events, cache_news, cache_copies,
        spilled_file,
        gateway_sessions, worker_messages,
        agent_answers, line_budget_frames, engine_socket, journal_file, trace_file, lengths_first,
        metrics_pages,
    )
}  # fmt: skip


def run(name: str, *, seconds: float, runs: int, seed: int) -> str:
    """For so long, or so often; what to say of it. Raises what the target lets through."""
    logging.disable()
    target = TARGETS[name]
    if not runs:
        tracemalloc.start()
    until, done, before = time.monotonic() + seconds, 0, Made.inputs
    try:
        while done < runs if runs else time.monotonic() < until or not done:
            target(random.Random(seed + done))
            done += 1
    except BaseException:
        again = f"{sys.argv[0]} --runs 1 --seed {seed + done} {name}"
        print(f"failed; run it again with: {again}", flush=True)
        raise
    finally:
        _FILE.unlink(missing_ok=True)
    held = "memory not measured"
    if not runs:
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < _MEMORY_BOUND, f"{name}: {peak} bytes were held"
        held = f"at most {peak:,} bytes held"
    inputs = max(done, Made.inputs - before)
    return f"{name}: {inputs} inputs, seed {seed}, {held}"


def main() -> None:
    asked = arguments()
    names, cores = asked.targets or list(TARGETS), os.cpu_count() or 1
    seconds = min(asked.seconds, asked.within * cores / len(names))
    if not asked.runs:
        print(f"{len(names)} targets, {seconds:.0f} s each", flush=True)
    one = partial(run, seconds=seconds, runs=asked.runs, seed=asked.seed)
    # A process for each, so that none is blamed for what another holds.
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(cores, maxtasksperchild=1) as pool:
        told = [pool.apply_async(one, (name,)) for name in names]
        failed = 0
        for each in told:
            try:
                print(each.get(), flush=True)
            except Exception:
                traceback.print_exc()
                failed += 1
    if failed:
        sys.exit(f"{failed} of {len(told)} targets failed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--seconds", type=float, default=10.0, help="for each target (%(default)s)")
    amount.add_argument("--runs", type=int, default=0, help="faster, and memory is not measured")
    less = "for all of them: each gets less where they would take longer"
    parser.add_argument("--within", type=float, default=math.inf, metavar="SECONDS", help=less)
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="drawn, and told")
    some = "of: " + ", ".join(TARGETS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=some)
    asked = parser.parse_args()
    for unknown in set(asked.targets) - set(TARGETS):
        parser.error(f"there is no target {unknown!r}; see --help")
    return asked


if __name__ == "__main__":
    main()
