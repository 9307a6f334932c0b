"""Small parts: addresses, link states, usable prefixes, engine and agent answers."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.agent_client import RegisteredRank
from prfaas.gateway.endpoints import EngineEndpoint, parse_listen, resolve
from prfaas.gateway.facts import TraceLog, TraceRecord
from prfaas.gateway.fleet import Fleet, _replaced
from prfaas.gateway.links import LinkWatch, link_event
from prfaas.gateway.prompts import usable_prefix
from prfaas.gateway.server import _allow_open_files
from prfaas.index.prefix_index import PrefixMatch
from prfaas.link.api import LinkState
from prfaas.scheduler.events import LinkStateChanged
from prfaas.testing.mock_deployment import MockDeployment, clear_line, mock_layout, until


def test_every_missing_address_is_named() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    agent: {name: a}
    engines:
      - {name: d1, role: decode}
      - {name: p1, role: prefill, url: "localhost:8000"}
"""
    with pytest.raises(ConfigError) as caught:
        resolve(parse_deployment(text, source="x.yaml"), source="x.yaml")
    for part in ("x.yaml", "'a' has no fixed admin port", "'d1' has no url", "http://"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:8000", ("127.0.0.1", 8000)), ("[::1]:80", ("::1", 80)), (":9", ("0.0.0.0", 9))],
)
def test_listen(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize("listen", ["8000", "host:", "host:http", "host:70000", ""])
def test_listen_that_is_none(listen: str) -> None:
    with pytest.raises(ConfigError, match="not host:port"):
        parse_listen(listen)


@pytest.mark.parametrize(
    ("role", "transferable", "reusable", "expected"),
    [
        ("decode", 0, 0, 0),
        ("decode", 8, 0, 8),
        ("decode", 16, 16, 16),  # all it needs: a direct answer costs it one block
        ("decode", 16, 8, 12),  # blocks without the state: something must be sent
        ("decode", 12, 4, 12),
        ("prefill", 16, 8, 8),
    ],
)
def test_usable_prefix(role: str, transferable: int, reusable: int, expected: int) -> None:
    engine = EngineEndpoint(
        name="e",
        cluster="c",
        role=role,  # type: ignore[arg-type]
        url="",
        kv_events=None,
        kv_events_replay=None,
    )
    match = PrefixMatch(transferable, reusable)
    assert usable_prefix(engine, match, prompt_tokens=20, block_tokens=4) == expected


def state(**changed: float) -> LinkState:
    fields = {f: getattr(clear_line("west-agent"), f) for f in LinkState.__struct_fields__}
    return LinkState(**{**fields, **changed})


def test_link_states_become_events() -> None:
    assert link_event("east", "west", state()) == LinkStateChanged(
        "east", "west", up=True, rate_bytes_per_s=25e6, rtt_s=0.03
    )
    saturated = link_event("east", "west", state(congestion=0.91, goodput_bytes_per_s=12.34e6))
    assert saturated.rate_bytes_per_s == 12e6
    assert link_event("east", "west", state(goodput_bytes_per_s=12e6)).rate_bytes_per_s == 25e6
    unlimited = link_event("east", "west", state(limit_bytes_per_s=None))  # type: ignore[arg-type]
    assert unlimited.rate_bytes_per_s is None
    assert not link_event("east", "west", state(connections=0)).up


async def test_link_watch_tells_changes_only_and_a_lost_agent_is_a_lost_line() -> None:
    mock = MockDeployment()
    told: list[LinkStateChanged] = []
    async with mock.running():
        gateway = mock.gateway
        await mock.ready()
        endpoints = resolve(mock.deployment(), source="mock")
        watch = LinkWatch(endpoints.clusters[0], endpoints, gateway._agents["east"], told.append)
        running = asyncio.create_task(watch.run())
        await until(lambda: len(told) == 1)
        mock.agents["east-agent"].links = [state(utilisation=0.52), state(utilisation=0.53)]
        await until(lambda: len(told) == 2)
        await mock.agents["east-agent"].stop()
        await until(lambda: len(told) == 3)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert [e.up for e in told] == [True, True, False]
    assert told[1].utilisation == 0.5


@pytest.mark.parametrize(
    ("before", "now", "replaced"),
    [
        ([(0, 10), (1, 11)], [(0, 10)], set()),
        ([(0, 10)], [(0, 10), (1, 11)], set()),
        ([(0, 10), (1, 11)], [(0, 20)], {"e"}),
        ([(0, 20)], [(0, 20), (1, 21)], set()),
    ],
)
def test_ranks_that_register_one_by_one_are_no_restart(
    before: list[tuple[int, int]], now: list[tuple[int, int]], replaced: set[str]
) -> None:
    def registered(ranks: list[tuple[int, int]]) -> list[RegisteredRank]:
        layout = msgspec.structs.replace(mock_layout(), tp_size=2)
        return [
            RegisteredRank("e", pid, msgspec.structs.replace(layout, tp_rank=rank))
            for rank, pid in ranks
        ]

    assert _replaced(registered(before), registered(now)) == replaced


def test_a_full_disk_loses_lines_of_the_trace_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = TraceLog(Path("/dev/full"))
    for _ in range(3):
        log.write(TraceRecord(request_id="r", endpoint="/v1/completions", arrived_at=0.0))
    log.close()
    assert caplog.messages == ["trace file /dev/full loses lines: No space left on device"]


@pytest.mark.parametrize(("requests", "warned"), [(300, False), (301, True)])
def test_too_few_open_files_are_said(
    requests: int, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    _allow_open_files(requests)
    assert limits == [(1000, 1000)]
    assert ("1000 open files are allowed" in caplog.text) is warned


async def test_an_engine_that_was_replaced_is_noticed_without_ever_looking_down() -> None:
    mock = MockDeployment()
    restarted: list[str] = []
    async with mock.running():
        await mock.ready()
        gateway = mock.gateway
        fleet = Fleet(
            resolve(mock.deployment(), source="mock"),
            gateway.engines,
            gateway._agents,
            on_up=lambda _: None,
            on_down=lambda _a, _b: None,
            on_restart=restarted.append,
        )
        watch = asyncio.create_task(fleet.watch_agent("east"))
        await until(lambda: fleet.ranks("e1") == 1 and bool(fleet._ranks))
        agent = mock.agents["east-agent"]
        (rank,) = agent.ranks
        agent.register("e1", rank["layout"], pid=99)
        await until(lambda: restarted == ["e1"])
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
