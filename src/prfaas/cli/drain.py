"""``prfaas drain NAME``: take engines out of service without hurting a request, and back again."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from typing import NamedTuple

import aiohttp
import msgspec

from prfaas.cli.gateway_requests import ask_gateway, operator_headers
from prfaas.cli.reports import add_json, teach
from prfaas.cli.which_deployment import add_deployment, deployment_file
from prfaas.core.deployment import Deployment, load_deployment
from prfaas.core.errors import CallerError, ConfigError
from prfaas.core.units import format_count, parse_duration
from prfaas.process.signals import run_until_signal
from prfaas.tls.agents import Trust

EXAMPLES = """
examples:
  prfaas drain west-d1                       of the running 'prfaas up'; returns once it is empty
  prfaas drain west-2 fleet.yaml             all engines of a machine, at every gateway of the file
  prfaas drain west --no-wait                a whole cluster; the first numbers are all it says
  prfaas drain                               what is out of service, and what is left on it
  prfaas drain west-d1 --undo                back into service

Gateways keep this in memory: one that is restarted gives the engine work again. To take it out for
good, remove it from the deployment file.

Exit status: 0 where nothing is left on the engines (or --undo, or --no-wait, was done), 1 where
something still is after --within, or a gateway could not be told, 2 where the name, the file or the
running deployment cannot be found.
"""

_PERIOD_S = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)


class EngineLeft(msgspec.Struct, frozen=True):
    """One engine as one gateway sees it (`prfaas.gateway.drains.Drain`)."""

    engine: str
    machine: str
    cluster: str
    reason: str
    since: float
    requests: int


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway answered; ``error`` where it did not do as it was told."""

    gateway: str
    drains: list[EngineLeft] = []
    undone: list[str] = []
    error: str | None = None

    @property
    def left(self) -> int:
        """Requests on all of the engines."""
        return sum(row.requests for row in self.drains)


class _Answer(msgspec.Struct, frozen=True):
    drains: list[EngineLeft] = []
    undone: list[str] = []


class _Order(NamedTuple):
    target: str | None
    undo: bool
    gateways: list[str]
    headers: dict[str, str]
    deployment: Deployment


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "name", nargs="?", metavar="ENGINE|MACHINE|CLUSTER", help="without one: list all that drain"
    )
    add_deployment(parser)
    parser.add_argument("--undo", action="store_true", help="put it back into service")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it is empty")
    parser.add_argument(
        "--within", default="10 min", metavar="TIME", help="wait so long (default: %(default)s)"
    )
    parser.add_argument(
        "--gateway",
        action="append",
        metavar="URL",
        help="tell this gateway, again for each (default: every gateway of the file)",
    )
    add_json(parser, list[Told], help_text="print JSON once, at the end")


def run(args: argparse.Namespace) -> int:
    """Drain; the exit status says whether it is done."""
    deployment = load_deployment(deployment_file(args))
    if args.undo and args.name is None:
        raise CallerError("--undo: say which engine, machine or cluster")
    order = _Order(
        args.name,
        args.undo,
        [url.rstrip("/") for url in args.gateway or _urls(deployment)],
        operator_headers(deployment.gateway),
        deployment,
    )
    waits = not (args.no_wait or args.undo or args.name is None)
    within_s = parse_duration(args.within) if waits else 0.0
    return run_until_signal(_drain(order, within_s, as_json=args.json))


def _urls(deployment: Deployment) -> list[str]:
    return [url for gateway in deployment.gateways for url in gateway.admin_urls]


async def _drain(order: _Order, within_s: float, *, as_json: bool) -> int:
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers=order.headers) as http:
        give_up_at = asyncio.get_running_loop().time() + within_s
        shown: list[str] = []
        trust = Trust(order.deployment)
        while True:
            told = await asyncio.gather(*(_tell(http, order, url, trust) for url in order.gateways))
            lines = list(_lines(order, told))
            if not as_json and lines != shown:
                print("\n".join(lines), flush=True)
            shown = lines
            left = sum(answer.left for answer in told)
            if not left or asyncio.get_running_loop().time() >= give_up_at:
                break
            await asyncio.sleep(_PERIOD_S)
            with suppress(ConfigError):  # Who is revoked meanwhile is not shown the key again.
                trust = Trust(order.deployment)
    if as_json:
        print(msgspec.json.encode(told).decode())
    failed = any(answer.error for answer in told)
    return 1 if failed or (left and within_s > 0) else 0


async def _tell(http: aiohttp.ClientSession, order: _Order, gateway: str, trust: Trust) -> Told:
    method, url, body = "GET", f"{gateway}/drain", None
    if order.target is not None:
        method = "POST"
        body = msgspec.json.encode({"target": order.target, "undo": order.undo})
    answer, error, status = await ask_gateway(
        http, method, url, _Answer, body=body, trust=trust.of(url)
    )
    if answer is not None:
        return Told(gateway=gateway, drains=answer.drains, undone=answer.undone)
    if status == 404 and order.target is not None and order.target in (error or ""):
        raise CallerError(error)
    return Told(gateway=gateway, error=error)


def _lines(order: _Order, told: list[Told]) -> list[str]:
    lines = []
    for answer in told:
        where = f" at {answer.gateway}" if len(told) > 1 else ""
        if answer.error is not None:
            lines.append(f"{answer.gateway} was not told: {answer.error}")
        for row in answer.drains:
            left = format_count(row.requests, "request")
            what = f"{left} left" if row.requests else "empty"
            lines.append(f"{row.engine}{where}: {what}")
        lines += [f"{name}{where}: in service again" for name in answer.undone]
        if answer.error is None and not answer.drains and not answer.undone:
            lines.append(f"it{where} was in service" if order.undo else f"nothing{where} drains")
    return lines
