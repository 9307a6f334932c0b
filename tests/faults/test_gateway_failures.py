"""What fails is told apart: whose fault it is, whether another try may help, and how long to wait.

Whole requests through a real gateway over mock engines and agents, each with one thing that fails.
"""

from __future__ import annotations

import asyncio
import errno
import json

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.gateway.http_client import Peer
from prfaas.gateway.http_connection import Connection
from prfaas.testing.asking import COMPLETIONS, SHORT, answer_to, ask, text_of
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import MockEngine
from prfaas.testing.raw_server import talking

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
WORD = b'data: {"choices": [{"index": 0, "text": " a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def decoders(mock: MockDeployment) -> list[MockEngine]:
    return [mock.engines["d1"], mock.engines["d2"]]


async def test_a_failing_health_check_ends_no_stream_and_stops_new_work() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in decoders(mock):
            engine.middle_gate.clear()
        async with client.post(COMPLETIONS, json={"prompt": SHORT, "stream": True}) as response:
            first = await response.content.readuntil(b"\n\n")
            suspect = next(e for e in decoders(mock) if e.requests)
            other = next(e for e in decoders(mock) if not e.requests)
            suspect.health_status = 503
            await until(lambda: suspect.name not in mock.gateway.fleet.up)
            other.middle_gate.set()
            for _ in range(4):
                _, content = await ask(client)
                assert text_of(content) == answer_to(SHORT)
            assert (len(suspect.requests), len(other.requests)) == (1, 4)
            suspect.health_status = 200
            await until(lambda: suspect.name in mock.gateway.fleet.up)
            suspect.middle_gate.set()
            content = first + await response.read()
        assert content.endswith(DONE)
        assert b"error" not in content


async def test_an_engine_that_closes_its_listener_first_finishes_its_streams() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in decoders(mock):
            engine.middle_gate.clear()
        async with client.post(COMPLETIONS, json={"prompt": SHORT, "stream": True}) as response:
            first = await response.content.readuntil(b"\n\n")
            leaving = next(e for e in decoders(mock) if e.requests)
            await leaving.stop_listening()
            leaving.reset_kept = True
            await until(lambda: leaving.name not in mock.gateway.fleet.up)
            leaving.middle_gate.set()
            content = first + await response.read()
        assert content.endswith(DONE)
        assert b"error" not in content


async def test_having_no_descriptors_left_is_no_engines_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dial, failures = Peer.dial, 0
    # Each request needs a connection of its own.
    monkeypatch.setattr(Peer, "take", lambda peer, used_after: None)
    mock = MockDeployment()

    async def out_of_descriptors(peer: Peer, within_s: float) -> Connection:
        nonlocal failures
        if failures < 30 and peer.address.port in {engine.port for engine in decoders(mock)}:
            failures += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await dial(peer, within_s)

    async with mock.running() as client:
        await mock.ready()
        monkeypatch.setattr(Peer, "dial", out_of_descriptors)
        for engine in decoders(mock):
            engine.first_token_gate.clear()
        asked = [asyncio.create_task(ask(client, f"p{n}")) for n in range(8)]
        await until(lambda: failures == 30)
        for engine in decoders(mock):
            engine.first_token_gate.set()
        answers = await asyncio.gather(*asked)
    assert [response.status for response, _ in answers] == [200] * 8
    assert {response.headers["x-prfaas-attempts"] for response, _ in answers} == {"1"}
    assert "gets no new work" not in caplog.text
    assert "is down" not in caplog.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("says_so", [True, False])
async def test_a_prompt_that_kills_engines_kills_no_third(says_so: bool, stream: bool) -> None:
    mock = MockDeployment()
    for name in ("p1", "d1", "d2"):
        mock.engines[name].dies_of, mock.engines[name].says_so = "bad", says_so
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client, "bad", stream=stream)
        assert response.status == 502, content
        assert "2 engines went away while they had it" in json.loads(content)["error"]["message"]
        assert len(mock.engines["p1"].requests) == 0
        await until(lambda: mock.gateway.fleet.up == {"e1", "p1"})
        _, content = await ask(client)
        assert text_of(content) == answer_to(SHORT)


async def test_a_full_engine_sends_the_request_to_an_idle_one() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].full_for_s = 7
        answers = await asyncio.gather(*(ask(client, stream=n % 2 == 0) for n in range(12)))
        assert [response.status for response, _ in answers] == [200] * 12
        assert {response.headers["x-prfaas-decode-engine"] for response, _ in answers} == {"d2"}
        mock.engines["d2"].full_for_s = 9
        response, content = await ask(client)
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert json.loads(content)["error"]["type"] == "rate_limit_error"
        assert mock.gateway.fleet.up == mock.engines.keys()


@pytest.mark.parametrize("prompt", [SHORT, LONG])
async def test_an_engine_that_fails_at_once_draws_no_retries_from_one_that_answers(
    prompt: str,
) -> None:
    """It is well by its health check, and free at all times."""
    mock = MockDeployment(engine_entry=", max_num_seqs: 1")
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].takes_s = 0.05
        mock.engines["d2"].fail_with_status = 500
        answers = await asyncio.gather(*(ask(client, prompt) for _ in range(12)))
        assert [response.status for response, _ in answers] == [200] * 12
        assert {response.headers["x-prfaas-decode-engine"] for response, _ in answers} == {"d1"}


async def test_connections_that_went_stale_are_dialled_again() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await asyncio.gather(*(ask(client, LONG) for _ in range(8)))
        for server in (*mock.engines.values(), *mock.agents.values()):
            server.reset_kept = True
        answers = await asyncio.gather(*(ask(client, LONG) for _ in range(8)))
        assert [text_of(content) for _, content in answers] == [answer_to(LONG)] * 8
        assert {response.headers["x-prfaas-attempts"] for response, _ in answers} == {"1"}


async def test_a_prompt_that_cannot_be_rendered_visits_two_engines() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine.render_status = 500
        response, content = await ask(client)
        assert response.status == 502
        assert "the template failed" in json.loads(content)["error"]["message"]
        assert sum(engine.renders_total for engine in mock.engines.values()) == 2
        assert mock.gateway.fleet.up == mock.engines.keys()


async def test_a_renderer_that_hangs_holds_nobody_up() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].render_gate.clear()
        async with asyncio.timeout(60):
            for _ in range(6):
                _, content = await ask(client)
                assert text_of(content) == answer_to(SHORT)
        # Once overtaken it is asked last: the second and later requests do not wait for it.
        assert mock.engines["d1"].renders_total <= 2


async def test_who_has_not_begun_in_its_share_of_the_time_may_still_answer() -> None:
    mock = MockDeployment(deadline="60 s", attempt_share=0.02)
    async with mock.running() as client:
        await mock.ready()
        for engine in decoders(mock):
            engine.takes_s = 1.7
        asked = asyncio.create_task(ask(client, stream=True))
        await until(lambda: any(engine.requests for engine in decoders(mock)))
        (first,) = [engine for engine in decoders(mock) if engine.requests]
        response, content = await asked
        assert response.status == 200
        assert content.endswith(DONE)
        assert response.headers["x-prfaas-attempts"] == "2", "its share of the time was over"
        assert response.headers["x-prfaas-decode-engine"] == first.name


async def test_a_prefill_that_is_not_late_is_not_given_up() -> None:
    mock = MockDeployment(deadline="60 s", attempt_share=0.02)
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].prefill_takes_s = 1.7
        for _ in range(2):  # One to warm up, one that teaches how long it takes.
            await ask(client, LONG, max_tokens=600)
        response, content = await ask(client, LONG, stream=True)
        assert response.headers["x-prfaas-route"].startswith("offload; ")
        assert response.headers["x-prfaas-attempts"] == "1"
        assert content.endswith(DONE)


async def test_an_engine_that_hangs_before_its_first_token_is_not_waited_for_to_the_end() -> None:
    mock = MockDeployment(deadline="60 s", attempt_share=0.02)
    async with mock.running() as client:
        await mock.ready()
        hung = mock.engines["d1"]
        hung.first_token_gate.clear()
        answers = await asyncio.gather(*(ask(client, stream=True) for _ in range(4)))
        assert [response.status for response, _ in answers] == [200] * 4
        assert {response.headers["x-prfaas-decode-engine"] for response, _ in answers} == {"d2"}
        assert hung.requests
        await until(lambda: len(hung.cancelled) == len(hung.requests))


async def test_a_prefill_engine_that_hangs_does_not_draw_every_offload() -> None:
    mock = MockDeployment(second_prefill=True)
    async with mock.running() as client:
        await mock.ready()
        first, second = mock.engines["e1"], mock.engines["e2"]
        for engine in (first, second):
            engine.prefill_gate.clear()
        asked = [asyncio.create_task(ask(client, LONG))]
        await until(lambda: len(first.requests) + len(second.requests) == 1)
        hung, idle = (first, second) if first.requests else (second, first)
        idle.prefill_gate.set()
        await asyncio.sleep(0.1)  # By now it should have been done, as far as anyone can tell.
        for _ in range(8):
            response, _ = await ask(client, LONG)
            assert response.headers["x-prfaas-prefill-engine"] == idle.name
        assert len(hung.requests) == 1
        hung.prefill_gate.set()
        await asyncio.gather(*asked)


async def test_an_engine_that_falls_silent_in_its_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.gateway.event_stream._SILENCE_S", 0.2)
    mock = MockDeployment()
    for engine in decoders(mock):
        engine.script = [WORD, asyncio.Event()]
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client, stream=True)
        assert response.status == 200
        assert content.startswith(WORD + b'data: {"error"')
        assert b"said nothing for 0.2 s" in content
        await until(lambda: sum(len(engine.cancelled) for engine in decoders(mock)) == 1)


async def test_an_answer_without_its_end_is_an_error_and_counted_as_one() -> None:
    mock = MockDeployment()
    for engine in decoders(mock):
        engine.script = [WORD, WORD + WORD[:9]]
    async with mock.running() as client:
        await mock.ready()
        _, content = await ask(client, stream=True)
        whole = WORD + WORD
        assert content.startswith(whole + b'data: {"error"')
        assert json.loads(content[len(whole) + 6 :])["error"]["code"] == 502
        metrics = await (await client.get("/metrics")).text()
        assert 'outcome="engine_error"' in metrics
        assert 'outcome="ok"' not in metrics


@pytest.mark.parametrize("garbage", [b"<html>busy</html>", b"", b"[1]"])
async def test_garbage_with_a_200_is_an_engines_failure(garbage: bytes) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["d1"].garbage = garbage
        for _ in range(3):
            response, content = await ask(client)
            assert text_of(content) == answer_to(SHORT)
            assert response.headers["x-prfaas-decode-engine"] == "d2"


async def test_a_stream_of_something_else_is_an_engines_failure() -> None:
    mock = MockDeployment()
    mock.engines["d1"].script = [b"<html>\n\n"]
    mock.engines["d2"].script = [WORD, DONE]
    async with mock.running() as client:
        await mock.ready()
        for _ in range(3):
            _, content = await ask(client, stream=True)
            assert content == WORD + DONE


async def test_events_that_end_with_carriage_returns_are_passed_on_at_once() -> None:
    gate = asyncio.Event()
    event = WORD.replace(b"\n\n", b"\r\n\r\n")
    mock = MockDeployment()
    for engine in decoders(mock):
        engine.script = [event, gate, DONE]
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json={"prompt": SHORT, "stream": True}) as response:
            async with asyncio.timeout(60):
                assert await response.content.readuntil(b"\r\n\r\n") == event
            gate.set()
            assert await response.read() == DONE


async def test_a_drop_that_fails_is_repeated() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        west = mock.agents["west-agent"]
        west.failing_drops = 2
        await ask(client, LONG, stream=True)
        (transfer_id,) = west.transfers
        await until(lambda: transfer_id in west.dropped)


async def test_a_bad_line_of_link_states_is_one_bad_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await ask(client, LONG)

        def said() -> bool:
            mock.agents["east-agent"].garbage = b'{"links": [{"\xff\n'
            return "unreadable answer" in caplog.text

        await until(said)
        response, _ = await ask(client, LONG)
        assert response.headers["x-prfaas-route"].startswith("offload")
        assert "is down" not in caplog.text


async def test_a_gateway_that_starts_without_the_pd_agent_answers() -> None:
    mock = MockDeployment(absent=("west-agent",))
    async with mock.running() as client:
        await until(lambda: {"d1", "d2"} <= mock.gateway.fleet.up)
        response, content = await ask(client, LONG)
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("direct; ")
        await mock.agents["west-agent"].start()
        await mock.ready()
        await until(lambda: "e1" in mock.gateway.fleet.up)
        response, content = await ask(client, LONG)
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("offload; ")


async def test_a_decode_engine_without_its_agent_gets_no_hand_offs() -> None:
    mock = MockDeployment()
    west = mock.agents["west-agent"]
    west.ranks = [rank for rank in west.ranks if rank["engine"] != "d1"]
    async with mock.running() as client:
        await mock.ready()
        answers = await asyncio.gather(*(ask(client, LONG) for _ in range(8)))
        assert [text_of(content) for _, content in answers] == [answer_to(LONG)] * 8
        imports = [
            body
            for engine in decoders(mock)
            for body in engine.bodies(COMPLETIONS)
            if body.get("kv_transfer_params")
        ]
        assert imports
        assert not any(b.get("kv_transfer_params") for b in mock.engines["d1"].bodies(COMPLETIONS))
        assert all(
            response.headers["x-prfaas-decode-engine"] == "d2"
            for response, _ in answers
            if response.headers["x-prfaas-route"].startswith("offload")
        )


async def test_a_background_task_that_dies_is_started_again_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.gateway.background._PAUSE_S", 0.01)
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        deaths = 2

        def dies(*_: object) -> None:
            nonlocal deaths
            if deaths > 0:
                deaths -= 1
                raise KeyError("a bug")

        monkeypatch.setattr("prfaas.gateway.fleet.Fleet._settle", dies)
        await until(lambda: deaths == 0)
        monkeypatch.undo()
        mock.engines["d1"].health_status = 503
        mock.engines["d2"].health_status = 503
        await until(lambda: not mock.gateway.fleet.up & {"d1", "d2"})
        metrics = await (await client.get("/metrics")).text()
        assert 'prfaas_gateway_background_deaths_total{task="engine_health"} 2.0' in metrics


@pytest.mark.parametrize(
    "line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"POST \xff HTTP/9.9\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/0.9\r\n\r\n",
    ],
)
async def test_a_request_line_that_is_none_is_a_400_without_a_traceback(
    line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        url = (await client.get("/health")).url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(line)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert not [record for record in caplog.records if record.exc_info]


async def test_a_hand_off_to_a_full_cluster_is_given_up_for_another_cluster() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        d3 = await mock.join("d3", "south-agent")
        text = mock.deployment_text().replace(
            "links:\n", mock.second_pd_cluster("south", d3) + "links:\n"
        )
        mock.gateway.become(parse_deployment(text, source="new"), source="new")
        await until(lambda: "d3" in mock.gateway.fleet.up)
        for engine in decoders(mock):
            engine.full_for_s = 7
        for stream in (True, False):
            response, content = await ask(client, LONG, stream=stream)
            assert response.status == 200, content
            assert response.headers["x-prfaas-decode-engine"] == "d3"
        west, east = mock.agents["west-agent"], mock.agents["east-agent"]
        await until(lambda: set(west.transfers) <= set(west.dropped) & set(east.dropped))
        d3.full_for_s = 3
        response, _ = await ask(client, LONG)
        assert (response.status, response.headers["Retry-After"]) == (429, "3")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/0.9 200 OK\r\n\r\n{}",
        b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"{}\r\n\r\n",
        b"HTTP/1.1 fine OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\nContent-Length: 2\r\n\r\n{}",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"",
    ],
    ids=["0.9", "9.9", "no head", "no status", "length", "header", "tls", "nothing"],
)
async def test_an_engine_that_does_not_speak_http_fails_and_another_is_asked(
    answer: bytes,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        healthy = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        writer.write(healthy if head.startswith(b"GET /health") else answer)
        await writer.drain()

    mock = MockDeployment()
    async with talking(talk) as url, mock.running() as client:
        await mock.ready()
        text = mock.deployment_text().replace(mock.engines["d1"].url, url)
        mock.gateway.become(parse_deployment(text, source="new"), source="new")
        await until(lambda: mock.gateway.fleet.up == mock.engines.keys())
        for stream in (True, False, True):
            response, content = await ask(client, stream=stream)
            assert response.status == 200, content
            assert response.headers["x-prfaas-decode-engine"] == "d2"
        metrics = await (await client.get("/metrics")).text()
        assert "background_deaths_total{" not in metrics
