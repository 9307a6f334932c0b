"""``prfaas cache``: what is cached, for which prompt, computed ahead, and kept."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec

from prfaas.cli.gateway_requests import Reply, ask_gateway, operator_headers
from prfaas.cli.prompt_files import beginning, requests_of
from prfaas.cli.reports import add_json, teach
from prfaas.cli.which_deployment import add_deployment, deployment_file
from prfaas.core.deployment import load_deployment
from prfaas.core.units import format_bytes, format_count
from prfaas.process.signals import run_until_signal
from prfaas.tls.agents import Trust

_SAYS = """
FILE holds what is asked: one JSON object, or one a line, each a completion ({"prompt": ...}, a
text or token ids) or a chat ({"messages": [...]}); a JSON text alone is a prompt. '-' reads from
standard input. Of a chat's system prompt, send it with "add_generation_prompt": false.
"""
SHOW = """
examples:
  prfaas cache                               of the running 'prfaas up'
  prfaas cache show fleet.yaml --json        of any deployment whose addresses the file names

Exit status: 0, 1 where the gateway does not answer, 2 where the file or the running deployment
cannot be found.
"""
QUERY = f"""
examples:
  prfaas cache query prompts.jsonl           who has how much of each prompt
{_SAYS}
Exit status: 0, 1 where a prompt was refused or the gateway does not answer, 2 for wrong input.
"""
WARM = f"""
examples:
  prfaas cache warm system-prompt.json          have it computed, so that it is found from now on
  prfaas cache warm system-prompt.json --pin    have it kept, too
{_SAYS}
Exit status: 0, 1 where a prompt was refused, could not be pinned, or the gateway does not answer,
2 for wrong input.
"""
PIN = f"""
examples:
  prfaas cache pin system-prompt.json        it must have been computed; see 'prfaas cache warm'
  prfaas cache pin system-prompt.json fleet.yaml --tenant acme
{_SAYS}
What is pinned is not evicted while its agent runs. An agent pins half of what it may cache at most.

Exit status: 0, 1 where a prompt is not cached, could not be pinned, or the gateway does not answer,
2 for wrong input.
"""
UNPIN = f"""
examples:
  prfaas cache unpin system-prompt.json      it may be evicted again
{_SAYS}
Exit status: 0, 1 where a prompt is not cached or the gateway does not answer, 2 for wrong input.
"""

_TIMEOUT = aiohttp.ClientTimeout(total=600.0, sock_connect=10.0)
_KNOWN_WITHIN_S, _AGAIN_S = 10.0, 0.2
"""What an agent has cached it tells its gateways at once, but that may be after the answer."""


class Shown(msgspec.Struct, frozen=True):
    """What ``prfaas cache show --json`` prints: `prfaas.gateway.cache_api.CacheReport`."""

    class Sizes(msgspec.Struct, frozen=True):
        """How large an agent's cache is, and how full."""

        size_bytes: int
        used_bytes: int
        pinned_bytes: int = 0
        most_pinned_bytes: int = 0
        disk: dict[str, int] = {}

    agents: dict[str, int]
    blocks: dict[str, int] = {}
    sizes: dict[str, Sizes] = {}
    error: str | None = None
    """Why nothing is known."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of one prompt. ``report``: the gateway's answer (docs/gateway.md); ``pinned``:
    that to the pin that was asked for, too; ``error`` where it did not do as it was told."""

    prompt: str
    report: dict[str, Any] | None = None
    pinned: dict[str, Any] | None = None
    error: str | None = None


class _Way(NamedTuple):
    """To a gateway, for one tenant's prompts (None: there is one alone)."""

    http: aiohttp.ClientSession
    url: str
    trust: ssl.SSLContext | bool
    tenant: str | None

    async def post(self, action: str, body: bytes) -> Reply[dict[str, Any]]:
        """What it says to an action on one prompt."""
        query = "" if self.tenant is None else f"?tenant={quote(self.tenant)}"
        url = f"{self.url}/cache/{action}{query}"
        return await ask_gateway(
            self.http, "POST", url, dict[str, Any], body=body, trust=self.trust
        )


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    said = (
        ("show", SHOW, "how much is cached where (also without an ACTION)"),
        ("query", QUERY, "who has how much of prompts"),
        ("warm", WARM, "have prompts computed, so that they are cached"),
        ("pin", PIN, "have cached prompts stay"),
        ("unpin", UNPIN, "let them go again"),
    )
    for name, examples, summary in said:
        action = actions.add_parser(name, help=summary)
        teach(action, examples)
        if name != "show":
            action.add_argument("file", metavar="FILE", help="prompts; see below")
        add_deployment(action)
        action.add_argument(
            "--gateway", metavar="URL", help="ask this one (default: the file's first)"
        )
        if name == "show":
            add_json(action, Shown)
            continue
        action.add_argument(
            "--tenant", metavar="NAME", help="whose prompts, where there are several"
        )
        if name == "warm":
            action.add_argument("--pin", action="store_true", help="have them stay, too")
        add_json(action, list[Told], help_text="print JSON once, at the end")
    parser.set_defaults(action="show", deployment=None, gateway=None, json=False)


def run(args: argparse.Namespace) -> int:
    """Do what the action says; the exit status says whether all of it was done."""
    return run_until_signal(ask(args))


async def ask(args: argparse.Namespace) -> int:
    """`run`, on a running loop."""
    prompts = [] if args.action == "show" else list(requests_of(args.file))
    deployment = load_deployment(deployment_file(args))
    headers = operator_headers(deployment.gateway)
    url = (args.gateway or deployment.gateway.admin_url).rstrip("/")
    trust = Trust(deployment).of(f"{url}/")
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as http:
        if args.action == "show":
            return await _show(http, url, trust, as_json=args.json)
        return await _tell(_Way(http, url, trust, args.tenant), args, prompts)


async def _show(
    http: aiohttp.ClientSession, url: str, trust: ssl.SSLContext | bool, *, as_json: bool
) -> int:
    found, error, _ = await ask_gateway(http, "GET", f"{url}/cache", Shown, trust=trust)
    shown = Shown(agents={}, error=error) if found is None else found
    if as_json:
        print(msgspec.json.encode(shown).decode())
    elif error is not None:
        print(error)
    else:
        engines, agents = shown.blocks["engines"], shown.blocks["agents"]
        print(f"blocks known: {engines} in engines, {agents} at agents")
        for agent in sorted(shown.agents.keys() | shown.sizes.keys()):
            print(_agent_line(agent, shown.agents.get(agent, 0), shown.sizes.get(agent)))
    return 0 if error is None else 1


def _agent_line(agent: str, parts: int, sizes: Shown.Sizes | None) -> str:
    if sizes is None:
        return f"{agent}: {format_count(parts, 'part')} of transfers; it does not answer now"
    line = (
        f"{agent}: {format_count(parts, 'part')} of transfers, {format_bytes(sizes.used_bytes)} of "
        f"{format_bytes(sizes.size_bytes)}, pinned {format_bytes(sizes.pinned_bytes)} of at most "
        f"{format_bytes(sizes.most_pinned_bytes)}"
    )
    if not sizes.disk.get("size_bytes"):
        return line
    used, size = (format_bytes(sizes.disk[key]) for key in ("used_bytes", "size_bytes"))
    return f"{line}; on disk {used} of {size}"


async def _tell(way: _Way, args: argparse.Namespace, prompts: list[bytes]) -> int:
    told = []
    for body in prompts:
        one = await _one(way, args.action, body, pins=getattr(args, "pin", False))
        told.append(one)
        if not args.json:
            print(_line(args.action, one), flush=True)
    if args.json:
        print(msgspec.json.encode(told).decode())
    return 1 if any(one.error is not None for one in told) else 0


async def _one(way: _Way, action: str, body: bytes, *, pins: bool) -> Told:
    prompt = beginning(body)
    report, error, _ = await way.post(action, body)
    if report is not None:
        error = _not_pinned(report) if action == "pin" else None
    if error is not None or not pins:
        return Told(prompt=prompt, report=report, error=error)
    tries = int(_KNOWN_WITHIN_S / _AGAIN_S)
    for _ in range(tries):
        pinned, error, _ = await way.post("pin", body)
        if pinned is not None:
            error = _not_pinned(pinned)
            return Told(prompt=prompt, report=report, pinned=pinned, error=error)
        await asyncio.sleep(_AGAIN_S)
    return Told(prompt=prompt, report=report, error=f"not pinned: {error}")


def _not_pinned(report: dict[str, Any]) -> str | None:
    """Why it stays nowhere; None where it does somewhere."""
    errors = {name: at["error"] for name, at in report["agents"].items() if at["error"] is not None}
    if len(errors) < len(report["agents"]):
        return None
    return "; ".join(f"{name}: {why}" for name, why in errors.items())


def _line(action: str, told: Told) -> str:
    if told.error is not None:
        return f"{told.prompt}: {told.error}"
    report = told.report or {}
    head = f"{told.prompt}: {report['prompt_tokens']} tokens"
    if action == "warm":
        done = f"{head}, computed by {report['engine']} in {report['took_s']:.1f} s"
        had = f"{done} ({report['cached_tokens']} were cached)"
        return had if told.pinned is None else f"{had}; {_pins(told.pinned)}"
    if action == "query":
        held = [f"{name} {at['cached_tokens']}" for name, at in sorted(report["engines"].items())]
        kept = [f"{name} {tokens}" for name, tokens in sorted(report["agents"].items())]
        return f"{head}; cached in engines: {', '.join(held) or 'none'}; " + (
            f"at agents: {', '.join(kept) or 'none'}"
        )
    return f"{head}; {_pins(report, undone=action == 'unpin')}"


def _pins(report: dict[str, Any], *, undone: bool = False) -> str:
    word = "unpinned" if undone else "pinned"
    return ", ".join(
        f"{word} {at['tokens']} at {name}" if at["error"] is None else f"{name}: {at['error']}"
        for name, at in sorted(report["agents"].items())
    )
