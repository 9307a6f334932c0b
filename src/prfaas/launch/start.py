"""From a deployment file to running processes: what `prfaas up` and `prfaas demo` share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from prfaas.core.deployment import Deployment, check_borders, load_deployment
from prfaas.core.errors import ConfigError, EngineError
from prfaas.launch.addresses import TINY, resolve
from prfaas.launch.certificates import secured
from prfaas.launch.commands import installed_vllm, journal_of
from prfaas.launch.following import Following
from prfaas.launch.gpus import installed_gpus, placed
from prfaas.launch.guardian import guard
from prfaas.launch.joining import joined
from prfaas.launch.profiles import with_whole_paths
from prfaas.launch.progress import StartProgress
from prfaas.launch.run_directory import RunDirectory, reap
from prfaas.launch.supervisor import Supervisor, local_engines

_FILES = (".yaml", ".yml", ".json")


def embedded_default() -> Path:
    """The deployment that is started without a file."""
    return Path(__file__).with_name("default.yaml")


def load(path: Path | None, *, model: str | None, listen: str | None) -> Deployment:
    """The deployment of ``path`` (None: the embedded one), with what the command line overrides.

    Raises ConfigError.
    """
    if path is not None and _names_a_model(path):
        raise ConfigError(f"{path} is no deployment file; did you mean --model {path}?")
    path = path or embedded_default()
    deployment = with_whole_paths(load_deployment(path), beside=path.parent)
    if model is not None:
        served = msgspec.structs.replace(deployment.model, path=model, served_name=None)
        deployment = msgspec.structs.replace(deployment, model=served)
    if listen is not None:
        first, *others = deployment.gateways
        first = msgspec.structs.replace(first, listen=listen)
        deployment = msgspec.structs.replace(deployment, gateways=(first, *others))
    return deployment


def _names_a_model(path: Path) -> bool:
    """What --model takes, and no deployment file: `tiny:gdn`, `org/name`, a model's directory."""
    word = str(path)
    if path.exists() or path.suffix in _FILES:
        return path.is_dir()
    return word.startswith(TINY) or (word.count("/") == 1 and not word.startswith(("/", ".")))


def usable_gpus() -> list[str]:
    """By engines that are started here: vLLM's build for CPUs uses none, whatever there are."""
    try:
        return installed_gpus() if installed_vllm() == "gpu" else []
    except EngineError:
        return []  # Engines that have no address yet cannot be started either, and that is said.


def following(supervisor: Supervisor, console: Console) -> Following:
    """What has a started deployment go on with another file."""
    private = supervisor.run.private
    return Following(
        supervisor,
        lambda new: joined(
            new,
            supervisor.deployment,
            gpus=usable_gpus(),
            sockets=private,
            certs=private / "certs",
        ),
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    )


def journal_beside(logs: Path, deployment: Deployment) -> Path:
    """Where gateways write their journal beside the logs, which as these nobody else may read."""
    file = logs / "journal.jsonl"
    for gateway in deployment.gateways:
        named = journal_of(gateway, deployment, file)
        assert named is not None
        named.touch(mode=0o600)
    return file


@asynccontextmanager
async def started(
    deployment: Deployment,
    console: Console,
    *,
    journal_file: Path | None = None,
    keep_journal: bool = False,
    plain_engine: bool = False,
) -> AsyncIterator[Supervisor]:
    """Everything the deployment has on this machine, ready; ended again on leaving. With
    ``plain_engine`` a stock engine beside it, see `Supervisor`.

    ``journal_file``: where the gateway appends its journal; with ``keep_journal`` it is beside the
    logs where none is named.

    Raises ConfigError for addresses that cannot be had, ProcessError where a process does not come
    up.
    """
    for told in await reap():
        console.print(told, highlight=False, soft_wrap=True)
    run = RunDirectory()
    _guardian = guard(run.path)  # Held: dropping a running Popen warns.
    try:
        resolved = resolve(placed(deployment, usable_gpus()), sockets=run.private)
        resolved = secured(resolved, run.private / "certs")
        check_borders(resolved)
        console.print(f"Logs: {run.logs}", highlight=False, soft_wrap=True)
        if journal_file is None and keep_journal:
            journal_file = journal_beside(run.logs, resolved)
        with StartProgress(console) as progress:
            supervisor = Supervisor(
                resolved,
                local_engines=local_engines(deployment),
                run=run,
                changed=progress.changed,
                journal_file=journal_file,
                plain_engine=plain_engine,
            )
            async with supervisor:
                unused = await supervisor.start()
                progress.stop()
                for name in unused:
                    console.print(f"{name} is not in use: see {run.logs}/gateway.log")
                yield supervisor
                console.print("Stopping ...")
    finally:
        run.close()
