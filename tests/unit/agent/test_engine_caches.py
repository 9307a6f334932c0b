"""What an agent says of where its engines publish what they cache."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.agent import engine_caches
from prfaas.agent.engine_caches import EngineCaches, EngineReach, _source
from prfaas.core.errors import EngineError
from prfaas.index.cache_events import BlocksStored
from prfaas.index.keyed_blocks import key_id
from prfaas.kv_events.sources import PATH
from prfaas.kv_events.wire import Begun, Deflater, FrameReader, Reached, Stopped


@pytest.mark.parametrize(
    ("endpoint", "replay", "told"),
    [
        ("tcp://*:5557", None, 1),
        ("tcp://0.0.0.0:5557", "tcp://10.0.0.9:5558", 2),
        ("tcp://[::ffff:127.0.0.1]:5557", "tcp://127.0.0.1:5558", 0),
        ("ipc:///run/prfaas/e.events", "ipc:///run/prfaas/e.replay", 0),
    ],
)
async def test_an_engine_that_tells_strangers_is_warned_of_once(
    endpoint: str, replay: str | None, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def sources(_request: web.Request) -> web.Response:
        return web.json_response({"0": {"endpoint": endpoint, "replay_endpoint": replay}})

    app = web.Application()
    app.router.add_get(PATH, sources)
    async with TestServer(app) as server:
        reach = EngineReach(name=f"e-{told}", url=str(server.make_url("")))
        for _ in range(3):
            await _source(reach)
    lines = [r.getMessage() for r in caplog.records if "reads the tokens" in r.getMessage()]
    assert len(lines) == told


async def test_an_engine_whose_authority_is_not_there_yet_is_asked_again(tmp_path: Path) -> None:
    reach = EngineReach(name="e", url="https://127.0.0.1:1", ca=str(tmp_path / "ca.pem"))
    with pytest.raises(EngineError, match="not a CA certificate"):
        await _source(reach)


async def test_a_cache_is_followed_anew_whatever_has_ended_that(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Queue[None]()

    async def source(_reach: EngineReach) -> tuple[str, str | None]:
        asked.put_nowait(None)
        raise KeyError("a fault of ours")

    monkeypatch.setattr(engine_caches, "_source", source)
    monkeypatch.setattr(engine_caches, "_PAUSE_S", 0.0)
    caches = EngineCaches(bytes(32))
    caches.take([EngineReach(name="e", url="http://127.0.0.1:1")])
    async with asyncio.timeout(60):
        for _ in range(2):
            await asked.get()
    await caches.close()
    assert "what e has cached is followed anew" in caplog.text


async def test_with_another_key_every_record_begins_anew(tmp_path: Path) -> None:
    """Also for who comes back where it stopped under the other."""
    caches = EngineCaches(b"one")
    caches.take([EngineReach(name="e", url="http://127.0.0.1:1", kv_events=f"ipc://{tmp_path}/e")])
    before = caches.record("e")
    assert before is not None
    before.stored(
        BlocksStored(
            group=0,
            kind="full_attention",
            block_tokens=4,
            hashes=[1],
            parent=None,
            token_ids=[1, 2, 3, 4],
        )
    )
    stopped = Stopped(before.epoch, before.number)
    caches.rekey(b"two")
    after = caches.record("e")
    assert after is not None
    assert after is not before
    assert after.epoch != stopped.epoch
    reader, told = FrameReader(), []
    deflate = Deflater()
    async for frames in after.follow(stopped):
        told += reader.feed(deflate(frames))
        if isinstance(told[-1], Reached):
            break
    begun = [frame for frame in told if isinstance(frame, Begun)]
    assert begun == [Begun(after.epoch, key_id(b"two"), 0)]
    assert len(told) == 3, "that it lives, that it begins, and that this is all"
    await caches.close()
