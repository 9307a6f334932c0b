"""The demo: a deployment on this machine answers a script of prompts; a plain engine checks it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from rich.console import Console

from prfaas.core.deployment import Deployment
from prfaas.core.units import format_bytes
from prfaas.demo import report
from prfaas.demo.client import Answer, ask
from prfaas.demo.script import STEPS, Prompt
from prfaas.launch.start import started
from prfaas.launch.supervisor import Supervisor


async def demo(deployment: Deployment, console: Console, *, keep: bool) -> int:
    """Returns 0 only if every answer is identical to the plain engine's."""
    async with started(deployment, console) as supervisor:
        console.print("\nAsking ...", highlight=False)
        prompts, answers = await _play(supervisor, console)
        console.print("\nAsking a plain engine, without disaggregation, the same ...")
        async with supervisor.plain_engine() as url:
            plain = await _replay(url, _model(supervisor), prompts)
        status = _judge(answers, plain, console)
        if keep:
            console.print(f"\nServing on at [bold]{supervisor.url}/v1[/]. Ctrl-C stops it.")
            await supervisor.watch()
    return status


async def _play(
    supervisor: Supervisor, console: Console
) -> tuple[dict[str, str], dict[str, Answer]]:
    """Send the script through the gateway; returns full prompts and answers by name."""
    prompts: dict[str, str] = {}
    answers: dict[str, Answer] = {}

    async def send(prompt: Prompt) -> None:
        before = prompt.after
        told = "" if before is None else prompts[before] + answers[before].text
        prompts[prompt.name] = told + prompt.text
        answer = await ask(
            http, supervisor.url, model=_model(supervisor), prompt=prompts[prompt.name]
        )
        answers[prompt.name] = answer
        console.print(
            f"  {prompt.name:<16} {answer.route or '':<8} {answer.text.strip()[:60]} ...",
            highlight=False,
        )

    async with _client() as http:
        for step in STEPS:
            await asyncio.gather(*(send(prompt) for prompt in step))
    return prompts, {prompt.name: answers[prompt.name] for step in STEPS for prompt in step}


async def _replay(url: str, model: str, prompts: Mapping[str, str]) -> dict[str, Answer]:
    """The same prompts, one at a time."""
    async with _client() as http:
        return {
            name: await ask(http, url, model=model, prompt=text) for name, text in prompts.items()
        }


def _judge(answers: Mapping[str, Answer], plain: Mapping[str, Answer], console: Console) -> int:
    console.print()
    console.print(report.table(answers, plain))
    sent_bytes = sum(a.kv_bytes or 0 for a in answers.values() if a.route == "offload")
    offloaded = sum(a.route == "offload" for a in answers.values())
    console.print(
        f"{offloaded} of {len(answers)} prompts were prefilled in the other cluster; "
        f"{format_bytes(sent_bytes)} of KV cache crossed the line.",
        highlight=False,
    )
    different = report.differences(answers, plain)
    for difference in different:
        console.print(difference, highlight=False)
    console.print(f"identical: {len(answers) - len(different)}/{len(answers)}", highlight=False)
    return 1 if different else 0


def _model(supervisor: Supervisor) -> str:
    return str(supervisor.deployment.model.served_name)


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600), read_bufsize=2**20)
