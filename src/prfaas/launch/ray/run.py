"""What `prfaas up --ray` and `prfaas down` do."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import served_name
from prfaas.launch.ray import cluster, ending
from prfaas.launch.ray.board import Standing
from prfaas.launch.ray.certificates import localized, with_certificates
from prfaas.launch.ray.runs import RayRun

START_S = 3600.0
"""Engines of large models load for many minutes; a node may be added meanwhile."""


def up(
    deployment: Deployment,
    address: str,
    *,
    changed: Callable[[dict[str, Standing]], None],
    waits_for: Callable[[str], None],
) -> tuple[RayRun, Deployment, list[str]]:
    """Start everything and wait until it serves. It stays when this process ends. ``waits_for`` is
    told which nodes are to be added, where there are too few.

    Returns it with all addresses, and engines that no gateway uses. Raises ConfigError, or
    ProcessError where it does not come up; what was started is ended again then.
    """
    started = time.strftime("%Y%m%d-%H%M%S")
    run = RayRun(space=f"{cluster.SPACE}{started}-{secrets.token_hex(2)}", address=address)
    run.folder.mkdir(parents=True, mode=0o700)
    try:
        ready, files = with_certificates(_named(deployment), run.folder)
        with cluster.connected(address):
            run.remember()
            try:
                for told in cluster.start(ready, run.space, files):
                    waits_for(told)
                unused = cluster.until_ready(run.space, within_s=START_S, changed=changed)
                found = refresh(run)
            except BaseException:
                ending.stop(run.space)
                raise
    except BaseException:
        run.forget()
        raise
    return run, found, unused


def refresh(run: RayRun) -> Deployment:
    """The deployment as it is now, in ``deployment.json`` of the run's folder as well. Raises
    ConfigError where it is no more, or its Ray cluster is not there."""
    with cluster.connected(run.address):
        text = cluster.deployment_now(run.space)
    if not text:
        raise ConfigError(f"{run.space} is still starting; ask again in a moment")
    file = run.deployment_file
    deployment = localized(parse_deployment(text, source=str(file)), run.folder)
    file.touch(mode=0o600)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(deployment)))
    return deployment


def down(run: RayRun) -> None:
    """End a deployment. Raises ConfigError where its Ray cluster does not answer; it is forgotten
    here all the same, since most likely all of it has ended. Whoever is interrupted may ask again.
    """
    try:
        with cluster.connected(run.address):
            ending.stop(run.space)
    except ConfigError:
        run.forget()
        raise
    run.forget()


def found_at(address: str) -> list[RayRun]:
    """Every deployment on a Ray cluster, whoever has started it. Raises ConfigError where there is
    no cluster."""
    with cluster.connected(address):
        return [RayRun(space=space, address=address) for space in ending.spaces()]


def _named(deployment: Deployment) -> Deployment:
    """With the model's name for all: its directory is each node's."""
    model = msgspec.structs.replace(deployment.model, served_name=served_name(deployment.model))
    return msgspec.structs.replace(deployment, model=model)
