"""``prfaas gateway --workers``: several processes, each started as one of them."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment, check_borders, check_workers, load_deployment
from prfaas.core.deployment.changes import asked_for_keys, check_asked
from prfaas.core.errors import PrfaasError
from prfaas.core.strict import naming
from prfaas.launch.gateway_workers import GatewayWorkers, kept_port
from prfaas.process.reloading import Reloading
from prfaas.process.signals import run_until_signal


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """``--workers``, and what a worker is told by who starts it."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that share the port, one a core at most (default: the file's gateway."
        "workers, 1); needs gateway.admin, where the first is asked and at the ports after it the "
        "others, and FILE-1, FILE-2 and so on are what --events and --learned then mean",
    )
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    parser.add_argument("--asked", action="append", default=[], help=argparse.SUPPRESS)


def read_deployment(file: Path) -> Deployment:
    """That of ``--also``. Raises ConfigError."""
    deployment = load_deployment(file)
    with naming(str(file)):
        check_borders(deployment)
    return deployment


def deployment_of(args: argparse.Namespace) -> Deployment:
    """The file, as the gateway or worker that ``args`` are of sees it. Raises ConfigError."""
    deployment = read_deployment(args.deployment)
    if args.name is not None:
        deployment = deployment.of_gateway(args.name)
    gateway = deployment.gateway
    if args.workers is not None:
        gateway = msgspec.structs.replace(gateway, workers=args.workers)
        with naming(f"--workers {args.workers}"):
            check_workers(gateway)
    if args.worker is not None:
        gateway = msgspec.structs.replace(
            gateway, admin=gateway.admin_of(args.worker), listen=args.at
        )
    deployment = msgspec.structs.replace(deployment, gateways=(gateway, *deployment.gateways[1:]))
    if args.worker is not None:
        with naming(str(args.deployment)):
            # It may take the place of another, which would have refused the file as it is now; and
            # where it listens the file has said before.
            check_asked(args.asked, gateway)
            check_borders(deployment)
    return deployment


def file_of(file: Path | None, whose: str | None) -> Path | None:
    """A worker's or another deployment's own: ``events-2.jsonl`` for ``events.jsonl``."""
    if file is None or whose is None:
        return file
    return file.with_name(f"{file.stem}-{whose}{file.suffix}")


class WorkerCommands:
    """Command lines of workers, by number. Each says who is asked for keys: a worker that takes the
    place of another knows nothing of the file as it was. To be told to `look` when that changes."""

    def __init__(self, args: argparse.Namespace, deployment: Deployment) -> None:
        self._args, self._asked = args, set(asked_for_keys(deployment.gateway))
        self.address = ""
        """Where they listen."""

    def look(self) -> None:
        """Whoever was asked once stays so."""
        with suppress(PrfaasError, OSError):  # Workers say what is wrong.
            self._asked |= asked_for_keys(deployment_of(self._args).gateway)

    def __call__(self, worker: int) -> list[str]:
        """For `GatewayWorkers`."""
        own = [sys.executable, "-m", "prfaas.cli.main", *sys.argv[1:], "--at", self.address]
        own += [word for who in sorted(self._asked) for word in ("--asked", who)]
        return [*own, "--worker", str(worker)]


def run_workers(args: argparse.Namespace, deployment: Deployment) -> int:
    """Run them; 0 once they are told to stop."""
    command = WorkerCommands(args, deployment)

    async def run() -> int:
        looking = Reloading(args.deployment, command.look, asked=asyncio.Event())
        async with kept_port(deployment.gateway.listen) as command.address:
            workers = GatewayWorkers(deployment.gateway.workers, command)
            given.append(workers)
            watching = asyncio.ensure_future(looking.run())
            try:
                return await workers.run()
            finally:
                watching.cancel()

    given: list[GatewayWorkers] = []

    def tell(number: signal.Signals) -> None:
        for workers in given:
            workers.tell(number)

    return run_until_signal(
        run(),
        stopped_status=0,
        on_hangup=lambda: tell(signal.SIGHUP),
        on_repeated=lambda: tell(signal.SIGTERM),
    )
