"""A line that becomes slow while a gateway serves, and a deployment that is asked for too much."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec

from prfaas.gateway.learned_file import LearnedFile
from prfaas.link.api import LinkState
from prfaas.scheduler.load_times import LearnedTimes
from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import MockDeployment, clear_line, until

COMPLETIONS = "/v1/completions"


def crawling(bytes_per_s: float) -> LinkState:
    """It carries so much and no more."""
    return msgspec.structs.replace(
        clear_line("west-agent"),
        goodput_bytes_per_s=bytes_per_s,
        utilisation=1.0,
        congestion=1.0,
        queued_bytes=1 << 20,
    )


async def ask(client: aiohttp.ClientSession, prompt: str) -> tuple[str, aiohttp.ClientResponse]:
    async with client.post(COMPLETIONS, json={"prompt": prompt}) as response:
        body = await response.json()
        return body["choices"][0]["text"] if response.ok else "", response


async def test_a_prompt_on_a_line_that_crawls_is_prefilled_anew_and_others_follow(
    tmp_path: Path,
) -> None:
    speeds = {"e1": 1e-6, **dict.fromkeys(("p1", "d1", "d2"), 1e-4)}
    mock = MockDeployment(policy="auto", learned_file=knowing(tmp_path, speeds))
    east = mock.agents["east-agent"]
    long, other = "a" * 4000, "b" * 4000
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].exports_complete = False
        asked = asyncio.create_task(ask(client, long))
        await until(lambda: len(mock.engines["e1"].bodies(COMPLETIONS)) == 1)
        east.links = [crawling(1000.0)]
        text, response = await asked
        assert text == answer_to(long)
        assert response.headers["x-prfaas-attempts"] == "2"
        assert "the line from east would take" in response.headers["x-prfaas-route"]
        text, response = await ask(client, other)
        assert text == answer_to(other)
        assert not response.headers["x-prfaas-route"].startswith("offload")
        mock.engines["e1"].exports_complete = True
        east.links = [clear_line("west-agent")]
        async with asyncio.timeout(60):
            while True:  # It comes back little by little.
                _, response = await ask(client, "c" * 4000)
                if response.headers["x-prfaas-route"].startswith("offload"):
                    break


async def test_what_cannot_be_in_time_is_refused_at_once_and_the_rest_is_served(
    tmp_path: Path,
) -> None:
    """4 s each: every engine can have two in time."""
    slow = dict.fromkeys(("e1", "p1", "d1", "d2"), 1e-3)
    mock = MockDeployment(policy="auto", learned_file=knowing(tmp_path, slow))
    prompts = [f"{n:x}" * 4000 for n in range(12)]
    async with mock.running() as client:
        await mock.ready()
        gates = [engine.prefill_gate for engine in mock.engines.values()]
        gates += [engine.first_token_gate for engine in mock.engines.values()]
        for gate in gates:
            gate.clear()
        asked = [asyncio.create_task(ask(client, prompt)) for prompt in prompts]
        refused, under_way = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        while len(refused) < 4:
            more, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            refused |= more
        for task in refused:
            _, response = task.result()
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 4
        for gate in gates:
            gate.set()
        answers = await asyncio.gather(*asked)
        served = [prompt for prompt, (text, _) in zip(prompts, answers, strict=True) if text]
        assert [text for text, _ in answers if text] == [answer_to(prompt) for prompt in served]
        assert len(served) == 8
        text, _ = await ask(client, prompts[-1])
        assert text == answer_to(prompts[-1])


def knowing(directory: Path, s_per_token: dict[str, float]) -> Path:
    """A file of a gateway that has seen engines prefill at these speeds."""
    path = directory / "learned.json"
    sums = {name: (3.0, 7e3, 7e3 * s, 21e6, 21e6 * s) for name, s in s_per_token.items()}
    LearnedFile(path).write(LearnedTimes(sums, {}))
    return path
