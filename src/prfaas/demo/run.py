"""The demo: a deployment on this machine answers a script of prompts; a plain engine checks it."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from rich.console import Console

from prfaas.core.deployment import Deployment, GatewayConfig
from prfaas.demo import report
from prfaas.demo.client import Answer, ask, lead
from prfaas.demo.script import MEASURING, SCRIPTS, WHOLE_S, Prompt, Script, Speed, fitting
from prfaas.launch.commands import journal_of
from prfaas.launch.start import started
from prfaas.launch.supervisor import Supervisor
from prfaas.tls.front import trust_of

_SHOWS = (
    "Long prompts are prefilled in one cluster and answered in another, which gets their KV cache "
    "over a line; a plain vLLM engine is asked the same, and every answer must be identical."
)
_OPEN = GatewayConfig()
_UNSEEN_TOKENS_PER_S = 100.0
"""Where the measured answer came in one piece."""


async def demo(deployment: Deployment, console: Console, *, keep: bool) -> int:
    """Returns 0 only if every answer is identical to the plain engine's, or parts from it where
    that nearly tied."""
    console.print(_SHOWS + "\n", highlight=False)
    async with started(deployment, console, keep_journal=True, plain_engine=True) as supervisor:
        begun = time.monotonic()
        script = await _measured(supervisor, console)
        console.print("\nAsking ...", highlight=False)
        prompts, answers = await play(
            supervisor.url, _model(supervisor), script, console, supervisor.deployment.gateway
        )
        console.print("\nAsking a plain engine, without disaggregation, the same ...")
        plain = await replay(supervisor.plain_url, _model(supervisor), prompts)
        leads = await _leads(supervisor, prompts, answers, plain)
        status = _judge(answers, plain, leads, console)
        console.print(
            f"All of it took {time.monotonic() - begun:.0f} s from when the engines were up.",
            highlight=False,
        )
        _say_what_next(supervisor, console, keep=keep)
        if keep:
            await supervisor.stop_plain_engine()
            with contextlib.suppress(asyncio.CancelledError):  # An end that was asked for.
                await supervisor.watch()
    return status


async def _measured(supervisor: Supervisor, console: Console) -> Script:
    """The script whose length fits this machine."""
    console.print("\nMeasuring this machine ...", end=" ", highlight=False)
    begun = time.monotonic()
    async with _client(supervisor.deployment.gateway) as http:
        for prompt in MEASURING:
            answer = await ask(http, supervisor.url, model=_model(supervisor), prompt=prompt)
    speed = Speed(
        (answer.total_tokens or 1) / answer.ttft_s,
        answer.tokens_per_s or _UNSEEN_TOKENS_PER_S,
    )
    script = fitting(speed, left_s=WHOLE_S - (time.monotonic() - begun))
    fewer = len(SCRIPTS[0].prompts) - len(script.prompts)
    console.print(
        f"{speed.prompt_tokens_per_s:,.0f} prompt tokens/s, so {len(script.prompts)} prompts of up "
        f"to {script.long_tokens:,} tokens{f' ({fewer} are left out)' if fewer else ''}. "
        f"All takes about {script.lasts_s(speed):.0f} s.",
        highlight=False,
    )
    return script


async def play(
    url: str,
    model: str,
    script: Script,
    console: Console,
    gateway: GatewayConfig = _OPEN,
) -> tuple[dict[str, str], dict[str, Answer]]:
    """Send the script through the gateway; returns full prompts and answers by name. ``gateway``
    says what is trusted and shown there."""
    prompts: dict[str, str] = {}
    answers: dict[str, Answer] = {}

    async def send(prompt: Prompt) -> None:
        before = prompt.after
        told = "" if before is None else prompts[before] + answers[before].text
        prompts[prompt.name] = told + prompt.text
        answer = await ask(http, url, model=model, prompt=prompts[prompt.name])
        answers[prompt.name] = answer
        console.print(
            f"  {prompt.name:<16} {answer.route or '':<8} {answer.text.strip()[:60]} ...",
            highlight=False,
        )

    async with _client(gateway) as http:
        for step in script.steps:
            await asyncio.gather(*(send(prompt) for prompt in step))
    return prompts, {prompt.name: answers[prompt.name] for step in script.steps for prompt in step}


async def replay(url: str, model: str, prompts: Mapping[str, str]) -> dict[str, Answer]:
    """The same prompts, one at a time."""
    async with _client() as http:
        return {
            name: await ask(http, url, model=model, prompt=text) for name, text in prompts.items()
        }


async def _leads(
    supervisor: Supervisor,
    prompts: Mapping[str, str],
    answers: Mapping[str, Answer],
    plain: Mapping[str, Answer],
) -> dict[str, float]:
    """Of the plain engine's best token, where an answer parts from it."""
    model, url = _model(supervisor), supervisor.plain_url
    async with _client() as http:
        return {
            name: await lead(http, url, model=model, prompt=prompts[name], at=at)
            for name, answer in answers.items()
            if (at := report.parts_at(answer, plain[name])) is not None
        }


def _judge(
    answers: Mapping[str, Answer],
    plain: Mapping[str, Answer],
    leads: Mapping[str, float],
    console: Console,
) -> int:
    console.print()
    console.print(report.table(answers, plain, leads))
    console.print(report.bought(answers), highlight=False)
    different = report.differences(answers, plain, leads)
    for difference in different:
        console.print(difference, highlight=False)
    tied = sum(map(report.nearly_tied, leads.values()))
    beside = f", {tied} part where the plain engine's best two words nearly tie" if tied else ""
    same = len(answers) - len(different)
    console.print(f"identical: {same}/{len(answers)}{beside}", highlight=False)
    return 1 if len(different) > tied else 0


def _say_what_next(supervisor: Supervisor, console: Console, *, keep: bool) -> None:
    prfaas = sys.argv[0] if Path(sys.argv[0]).name == "prfaas" else "prfaas"
    url = supervisor.url
    lines = [f"  {prfaas} demo --keep   the same, and serves on: then there is a page to watch"]
    if keep:
        body = (
            f'{{"model": "{_model(supervisor)}", "prompt": "Tell me a story.", "max_tokens": 32}}'
        )
        kind = "-H 'Content-Type: application/json'"
        lines = [
            f"  {url}/ui   in a browser: what flows, the threshold, every request's stages",
            f"  {prfaas} status   in a second terminal: what it does now",
            f"  curl {url}/v1/completions {kind} -d '{body}'",
        ]
    whole = supervisor.deployment
    journal = journal_of(whole.gateway, whole, supervisor.journal_file)
    if journal is not None:
        file = shlex.quote(str(journal))
        lines.append(f"  {prfaas} replay {file}   what became of each request")
    lines += [
        f"  {prfaas} up            serves without the demo; with a file, your own deployment",
        f"  {prfaas} kv --list     how large the KV cache of your model is; then: {prfaas} plan",
        "  docs/deployment.md   how to write a deployment file; docs/architecture.md how it works",
    ]
    console.print("\nWhat to try next:", highlight=False)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if keep:
        console.print(f"Serving on at [bold]{url}/v1[/]. Ctrl-C stops it.")


def _model(supervisor: Supervisor) -> str:
    return str(supervisor.deployment.model.served_name)


def _client(gateway: GatewayConfig = _OPEN) -> aiohttp.ClientSession:
    key = gateway.key_to_ask_with()
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=600),
        read_bufsize=2**20,
        connector=aiohttp.TCPConnector(ssl=trust_of(gateway)),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )
