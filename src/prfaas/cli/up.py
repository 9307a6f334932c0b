"""``prfaas up``: a deployment's processes on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from prfaas.cli.outputs import prepare_output
from prfaas.cli.reports import teach
from prfaas.core.addresses import parse_address, stays_here
from prfaas.core.deployment import Deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.ray.progress import RayProgress
from prfaas.launch.start import following, load, started
from prfaas.process.reloading import Reloading, Stamps, stamps
from prfaas.process.requirements import check_requirements
from prfaas.process.signals import run_until_signal

EXAMPLES = """
examples:
  prfaas up                                 two clusters with a small model, on this machine
  prfaas up --model Qwen/Qwen3-0.6B         the same with another
  prfaas up deployment.yaml --events events.jsonl
  prfaas up --listen 127.0.0.1:9000         where port 8000 is taken
  prfaas up deployment.yaml --ray           on the Ray cluster that this machine is a node of

It runs until Ctrl-C or 'prfaas down'. Exit status: 128 + the signal that ended it (130 after
Ctrl-C), 2 where the file is wrong, or a process could not be started or did not stay. With --ray it
returns when all of it serves, and 'prfaas down' ends it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "deployment",
        nargs="?",
        type=Path,
        metavar="DEPLOYMENT.yaml",
        help="deployment file; without one: two clusters on this machine, joined by a paced line",
    )
    parser.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="serve this model: a directory, a name on the Hugging Face Hub, or tiny:gdn, "
        "tiny:sliding_window, tiny:dense, tiny:mla (made here)",
    )
    parser.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="have the gateway append its journal: every event and command",
    )
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where the gateway listens, instead of the file's"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="place it on a Ray cluster, whose nodes say by a label which cluster of the file they "
        "belong to (docs/ray.md); without ADDRESS the one that this machine is a node of",
    )


def run(args: argparse.Namespace) -> int:
    """Run the deployment; 128 + the signal that ended it."""
    check_requirements()
    prepare_output("--events", args.events)
    since = stamps([args.deployment] if args.deployment else ())
    deployment = load(args.deployment, model=args.model, listen=args.listen)
    if args.ray is not None:
        return _up_on_ray(deployment, args)
    # SIGHUP: a terminal that is closed says so, and so does who wants the file read again.
    told = asyncio.Event()
    return run_until_signal(_up(deployment, Console(), args, told, since), on_hangup=told.set)


def _up_on_ray(deployment: Deployment, args: argparse.Namespace) -> int:
    if args.events is not None:
        raise ConfigError("--events: on Ray a journal would lie on whichever node the gateway is")
    if args.ray.endswith((".yaml", ".yml")):
        raise ConfigError(f"--ray {args.ray}: that is the deployment file; write it before --ray")
    from prfaas.launch.ray import run as on_ray  # Only where it is asked for: Ray is an extra.

    console = Console()
    shown = RayProgress(console)
    ray_run, found, unused = on_ray.up(
        deployment,
        args.ray,
        changed=shown.changed,
        waits_for=lambda told: console.print(f"It waits: {told}", markup=False, soft_wrap=True),
    )
    for name in unused:
        console.print(f"{name} is not in use: see the gateway's log in Ray's dashboard")
    _say_how_to_ask(console, str(found.model.served_name), found.gateway.url)
    if stays_here(parse_address(found.gateway.address).host):
        console.print(
            "That is the loopback of the gateway's node; to be asked from elsewhere it needs "
            "'gateway: {listen: \"0.0.0.0:8000\", tls: {cert: ..., key: ...}}'",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"It stays when this ends. 'prfaas down {ray_run.space}' ends it.",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _say_how_to_ask(console: Console, model: str, url: str, stops: str = "") -> None:
    console.print(
        f"\nServing [bold]{model}[/] at [bold]{url}/v1[/].{stops}\n"
        f"  curl {url}/v1/completions -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 16}}\'',
        highlight=False,
        soft_wrap=True,
    )


async def _up(
    deployment: Deployment,
    console: Console,
    args: argparse.Namespace,
    told: asyncio.Event,
    since: Stamps,
) -> int:
    async with started(deployment, console, journal_file=args.events) as supervisor:
        model = str(supervisor.deployment.model.served_name)
        _say_how_to_ask(console, model, supervisor.url, " Ctrl-C stops it.")
        if args.deployment is None:
            await supervisor.watch()
        follows = following(supervisor, console)

        def take() -> None:
            follows.take(load(args.deployment, model=args.model, listen=args.listen))

        # Engines take minutes to start, in which it may have been written.
        watched = Reloading(args.deployment, take, asked=told, since=since)
        reloading = asyncio.create_task(watched.run())
        try:
            await supervisor.watch()
        finally:
            reloading.cancel()
            await follows.close()
    return 0
