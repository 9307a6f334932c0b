"""Real engines: prefixes on an agent's disk outlive agent and engine, and change no token.

Prompts are offloaded; then agent and decode engine are killed at the same time, so nothing is left
but the files. Asked again, the prompts come from there. Of one prompt a byte is flipped meanwhile:
it must be computed, and its answer right. Of another all bytes are zeroed, with checksums that fit:
its answer must be another, or the load would prove nothing.

Runs for the kinds of cache in DISK_MODELS, none by default; `make test-disk` has every kind.
"""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from string import Template

import pytest
from tests.integration.test_pool import (
    LENGTHS,
    ask,
    cached,
    choice,
    is_replaced,
    loaded_tokens,
    until,
)
from xxhash import xxh3_64_intdigest

from prfaas.agent.spill_directory import file_system
from prfaas.core.cache_news import Stored
from prfaas.gateway.feeds import cache_key
from prfaas.index.keyed_blocks import key_id
from prfaas.pool.spill_format import (
    CHUNK_BYTES,
    FileHead,
    chunks_of,
    decode_head,
    encode_head,
    pack_checksums,
)
from prfaas.testing.calling import metric
from prfaas.testing.comparing import assert_same_or_near_tie
from prfaas.testing.measuring import prompt
from prfaas.testing.running import PlainEngine, RunningDeployment, compared, engine_args_here

pytestmark = [pytest.mark.engine, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("disk.yaml")


@pytest.mark.parametrize("kind", os.environ.get("DISK_MODELS", "").split())
def test_a_prefix_from_disk_changes_no_token(kind: str, tmp_path: Path) -> None:
    if file_system(tmp_path) == "tmpfs":
        pytest.skip("pytest's directory is in memory: give --basetemp on a disk")
    disk, file = tmp_path / "kv", tmp_path / "disk.yaml"
    args = engine_args_here(kind)
    file.write_text(Template(DEPLOYMENT.read_text()).substitute(args=json.dumps(args), disk=disk))
    with compared(file, tmp_path, model=f"tiny:{kind}", args=args) as (running, plain):
        _play(running, plain, disk, kind)


def _play(running: RunningDeployment, plain: PlainEngine, disk: Path, kind: str) -> None:
    model, west, size = running.deployment.model.served_name, running.admin("west"), LENGTHS[kind]
    assert model is not None
    names = ("whole", "again", "flipped", "zeroed", "longer")
    prompts = {name: prompt(f"{name} on disk {kind}", size) for name in names}
    files: dict[str, Path] = {}
    for name, ids in prompts.items():
        answer = ask(running.url, model, ids)
        assert answer.headers["x-prfaas-route"].startswith("offload"), answer.headers
        until(lambda: len(set(disk.glob("*.kv")) - {*files.values()}) == 1, "nothing was written")
        (files[name],) = set(disk.glob("*.kv")) - {*files.values()}
    boundary = max(entry.prefix.end_token for entry in cached(west))

    kill(running, "west-agent", "west-decode")
    flip(files["flipped"])
    zero(files["zeroed"], running)
    until(running.ready, "the deployment did not come back")
    until(lambda: len(cached(west)) == len(names), "not all was found on disk")
    assert {entry.tier for entry in cached(west)} == {"disk"}

    for name in ("whole", "again"):
        got = ask(running.url, model, prompts[name])
        assert loaded_tokens(got) == boundary, got.headers
        assert got.headers["x-prfaas-route"].startswith("direct"), got.headers
        ask(plain.url, model, prompts[name])  # its second answer has the decode engine's schedule
        stock = ask(plain.url, model, prompts[name])
        assert_same_or_near_tie(choice(got), choice(stock))
        if kind != "mla":
            assert choice(got)["token_ids"] == choice(stock)["token_ids"]
    assert metric(west, "prfaas_pool_spill_parts_total", outcome="read") == 2
    assert metric(west, "prfaas_pool_loads_total", outcome="ready") == 2
    assert tiers(west) == {"memory": 2, "disk": 3}

    # What is on disk is what is answered from.
    zeroed = ask(running.url, model, prompts["zeroed"])
    assert loaded_tokens(zeroed) == boundary
    stock = ask(plain.url, model, prompts["zeroed"])
    assert choice(zeroed)["token_ids"] != choice(stock)["token_ids"]

    # A byte that is wrong is a recompute.
    flipped = ask(running.url, model, prompts["flipped"])
    assert_same_or_near_tie(choice(flipped), choice(ask(plain.url, model, prompts["flipped"])))
    assert metric(west, "prfaas_pool_spill_parts_total", outcome="unreadable") == 1
    assert not files["flipped"].exists()

    # Another salt is another tenant's.
    salted = ask(running.url, model, prompts["zeroed"], cache_salt="another tenant's")
    assert not loaded_tokens(salted)
    assert_same_or_near_tie(choice(salted), choice(stock))

    # The first blocks from disk, what follows over the line.
    more = [*prompts["longer"], *prompt(f"more {kind}", size)]
    mixed = ask(running.url, model, more)
    assert mixed.headers["x-prfaas-route"].startswith("offload"), mixed.headers
    assert loaded_tokens(mixed) == boundary
    assert metric(west, "prfaas_pool_spill_parts_total", outcome="read") == 4
    assert_same_or_near_tie(choice(mixed), choice(ask(plain.url, model, more)))


def kill(running: RunningDeployment, *names: str) -> None:
    """kill -9 of them together; each is replaced."""
    before = {name: running.pids(name) for name in names}
    for pid in (pid for killed in before.values() for pid in killed):
        os.kill(pid, signal.SIGKILL)
    for name, killed in before.items():
        until(partial(is_replaced, running, name, killed), f"{name} was not replaced")


def tiers(admin: str) -> dict[str, int]:
    found: list[Stored] = cached(admin)
    return {tier: sum(e.tier == tier for e in found) for tier in ("memory", "disk")}


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def zero(file: Path, running: RunningDeployment) -> None:
    """All of its bytes, and nobody could tell."""
    key = cache_key(running.deployment)
    assert key is not None
    raw = file.read_bytes()
    what = decode_head(raw, key_id=key_id(key), size=len(raw)).what
    lengths = [
        min(CHUNK_BYTES, what.total_bytes - n * CHUNK_BYTES)
        for n in range(chunks_of(what.total_bytes))
    ]
    sums = pack_checksums([xxh3_64_intdigest(bytes(length)) for length in lengths])
    file.write_bytes(encode_head(FileHead(key_id(key), what, sums)).ljust(len(raw), b"\0"))
