"""``prfaas profile URL|FILE``: how fast running engines are, as profile files."""

from __future__ import annotations

import argparse
import asyncio
import platform
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from prfaas.cli.console import report_console
from prfaas.cli.durations import more_than_none
from prfaas.cli.outputs import prepare_output
from prfaas.cli.reports import teach
from prfaas.core.deployment import ClusterConfig, Deployment, EngineConfig, load_deployment
from prfaas.core.errors import CallerError, ConfigError
from prfaas.core.units import parse_tokens
from prfaas.models.profiles import parse_profile
from prfaas.plots.figure import check_picture
from prfaas.plots.profile import draw_profiles
from prfaas.profiling.profile import Measured, Wanted, measure
from prfaas.tls.agents import Trust

_EXAMPLES = """
examples:
  prfaas profile http://127.0.0.1:8001 -o h200.yaml --hardware "8 x H200" --gpus 8
  prfaas profile deployment.json -o profiles/ --time 5min --plot profiles.svg
  prfaas simulate deployment.yaml --profile west=profiles/west.yaml ...

Only idle engines are measured, one at a time: prompts up to their longest, decode batches up to
max_num_seqs, and, where agents run, how long a hand-off takes to load. Exit status: 0, or 2 where
an engine does not answer, is busy, or a file is wrong.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "target",
        metavar="URL|FILE",
        help="an engine, or a deployment file with the addresses of what runs (`prfaas up` writes "
        "one into its run directory); of each cluster one engine of a role is measured",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="where to write the profile; of a deployment: the directory for all",
    )
    parser.add_argument(
        "--time",
        default="2min",
        metavar="TIME",
        help="about how long each engine is measured (default: %(default)s)",
    )
    parser.add_argument("--longest", metavar="TOKENS", help="measure no longer prompts, e.g. 32K")
    parser.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="measure no larger batches (default: 32, or max_num_seqs of the file)",
    )
    parser.add_argument(
        "--hardware", metavar="WORDS", help="what the profile is to say that an instance runs on"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="how many GPUs an instance has (default: one for each rank)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the curves to .png, .svg or .pdf"
    )
    teach(parser, _EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Measure, write, say how to use it; returns the exit status."""
    prepare_output("--plot", args.plot)
    if args.plot is not None:
        check_picture(args.plot)
    for option, number in (("--max-batch", args.max_batch), ("--gpus", args.gpus)):
        if number is not None and number < 1:
            raise CallerError(f"{option} {number}: write 1 or more")
    budget_s = more_than_none("--time", args.time)
    longest = None if args.longest is None else parse_tokens(args.longest)
    if args.target.startswith(("http://", "https://")):
        prepare_output("-o", args.output)
        wanted = Wanted(args.target, budget_s, longest, args.max_batch or 32)
        found = {args.output.stem: asyncio.run(measure(wanted, _tell(args.output.stem)))}
        paths = {args.output.stem: args.output}
    else:
        found = _measure_deployment(load_deployment(Path(args.target)), budget_s, longest, args)
        args.output.mkdir(parents=True, exist_ok=True)
        paths = {name: args.output / f"{name}.yaml" for name in found}
    when = datetime.now(UTC).date().isoformat()
    hardware = args.hardware or f"as measured ({platform.node() or 'some machine'})"
    profiles = []
    for name, measured in found.items():
        file = measured.file(name=name, hardware=hardware, gpus=args.gpus, when=when)
        text = msgspec.yaml.encode(file)
        profiles.append(parse_profile(text, source=name))
        paths[name].write_bytes(text)
        report_console().print(f"{name}: {paths[name]}", highlight=False, soft_wrap=True)
    if args.plot is not None:
        draw_profiles(args.plot, profiles)
    return 0


def _measure_deployment(
    deployment: Deployment, budget_s: float, longest: int | None, args: argparse.Namespace
) -> dict[str, Measured]:
    """Cluster -> what was measured: prefill on the first engine that prefills, decode and loads on
    the first that decodes. Engines of a cluster are taken to be alike."""
    found, trust = {}, Trust(deployment)
    for cluster in deployment.clusters:
        prefills = [engine for engine in cluster.engines if engine.role == "prefill"]
        decodes = [engine for engine in cluster.engines if engine.role == "decode"]
        measured = []
        if decodes:
            sender = _sender(deployment, cluster, prefills)
            wanted = _wanted(deployment, decodes[0], budget_s, longest, args)
            wanted = msgspec.structs.replace(
                wanted,
                prefills=not prefills,
                sender_url=None if sender is None else sender.url,
                sender_key=None if sender is None else _key(sender),
                sender_through=None if sender is None else _through(sender, trust),
            )
            measured.append(asyncio.run(measure(wanted, _tell(decodes[0].name))))
        if prefills:
            wanted = _wanted(deployment, prefills[0], budget_s, longest, args)
            wanted = msgspec.structs.replace(wanted, max_batch=0)
            measured.append(asyncio.run(measure(wanted, _tell(prefills[0].name))))
        if measured:
            found[cluster.name] = _together(measured)
    if not found:
        raise CallerError("the file has no engine to measure")
    return found


def _wanted(
    deployment: Deployment,
    engine: EngineConfig,
    budget_s: float,
    longest: int | None,
    args: argparse.Namespace,
) -> Wanted:
    if engine.url is None:
        raise ConfigError(
            f"engine {engine.name!r} has no url: pass the file with addresses that `prfaas up` "
            "writes into its run directory (deployment.json)"
        )
    agent, trust = deployment.agent_of_engine(engine.name), Trust(deployment)
    shown = trust.of(f"{agent.admin_url}/")
    return Wanted(
        engine.url,
        budget_s,
        longest,
        min(args.max_batch or engine.max_num_seqs, engine.max_num_seqs),
        agent_url=agent.admin_url,
        agent_tls=shown if isinstance(shown, ssl.SSLContext) else None,
        key=_key(engine),
        through=_through(engine, trust),
        agent=agent.name,
        engine=engine.name,
    )


def _through(engine: EngineConfig, trust: Trust) -> ssl.SSLContext | None:
    shown = trust.carried.get(engine.name) or trust.of(f"{engine.url}/")
    return shown if isinstance(shown, ssl.SSLContext) else None


def _key(engine: EngineConfig) -> str | None:
    return engine.keys.read()[0] if engine.keys else None


def _sender(
    deployment: Deployment, cluster: ClusterConfig, prefills: list[EngineConfig]
) -> EngineConfig | None:
    """Who prefills what the loads of a cluster are measured with: its own, or another's."""
    linked = [k.source for k in deployment.links if k.target == cluster.name]
    others = [e for name in linked for e in deployment.cluster(name).engines if e.role == "prefill"]
    return next((engine for engine in (*prefills, *others) if engine.url is not None), None)


def _together(measured: list[Measured]) -> Measured:
    """One profile of what was measured on several engines."""
    first, *rest = measured
    for other in rest:
        first = Measured(
            facts=first.facts,
            prefill=first.prefill or other.prefill,
            decode=first.decode or other.decode,
            load=first.load or other.load,
            layout=first.layout or other.layout,
        )
    return first


def _tell(name: str) -> Callable[[str], None]:
    """Says each point on standard error."""
    console = Console(stderr=True)
    return lambda text: console.print(f"{name}: {text}", highlight=False)
