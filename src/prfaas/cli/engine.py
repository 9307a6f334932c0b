"""``prfaas engine NAME``: the exact command that serves one engine of a deployment."""

from __future__ import annotations

import argparse
import os
import shlex

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.cli.which_deployment import add_deployment, deployment_file
from prfaas.core.deployment import Deployment, EngineConfig, check_borders, load_deployment
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.launch import addresses
from prfaas.launch.commands import KEY_VARIABLE, Command, engine_command, installed_vllm

EXAMPLES = """
examples:
  prfaas engine decode-0 deployment.yaml          print it, to paste into a unit or a manifest
  prfaas engine decode-0 deployment.yaml --run    become it: the engine, on this machine
  prfaas engine west-decode                       as the running 'prfaas up' started it
  prfaas engine prefill-0 deployment.yaml --vllm gpu --json

The engine needs its url, the model its path and the cluster's agent its socket in the file:
'prfaas up' chooses them only for what it starts itself. Exit status: 0, or 2 where the file or the
name is wrong; with --run that of vLLM.
"""


class EngineReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``prfaas engine --json`` prints. ``environment`` is added to the caller's own; an
    engine's key, which would be in ``VLLM_API_KEY``, is not in it."""

    engine: str
    role: str
    cluster: str
    machine: str
    url: str
    arguments: list[str]
    environment: dict[str, str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="the engine's name in the deployment")
    add_deployment(parser)
    parser.add_argument("--run", action="store_true", help="run it instead of printing it")
    parser.add_argument(
        "--vllm",
        choices=("cpu", "gpu"),
        help="make the command for this build (default: the one installed here)",
    )
    add_json(parser, EngineReport)


def run(args: argparse.Namespace) -> int:
    """Print the command, 0; or become it. Raises ConfigError for an engine that is not there."""
    file = deployment_file(args)
    deployment = load_deployment(file)
    with naming(str(file)):
        check_borders(deployment)
    engine = _engine(deployment, args.name, source=str(file))
    if (deployment.model.path or "").startswith(addresses.TINY):
        model = addresses.local_model(deployment.model)
        deployment = msgspec.structs.replace(deployment, model=model)
    command = engine_command(deployment, engine, vllm=args.vllm or installed_vllm())
    if args.run:
        environment = command.environment_in(os.environ)
        os.execvpe(command.arguments[0], command.arguments, environment)
    if args.json:
        print(msgspec.json.encode(_report(deployment, engine, command)).decode())
    else:
        print(_shell(command, engine))
    return 0


def _engine(deployment: Deployment, name: str, *, source: str) -> EngineConfig:
    """The engine with all that its command needs. Raises ConfigError that names what lacks."""
    engines = {e.name: e for e in deployment.engines}
    if name not in engines:
        raise ConfigError(f"{source}: no engine {name!r}; known: {', '.join(sorted(engines))}")
    agent = deployment.agent_of_engine(name)
    missing = [
        what
        for what, value in (
            (f"engine {name!r} has no 'url'", engines[name].url),
            ("'model' has no 'path'", deployment.model.path),
            (f"agent {agent.name!r} has no 'socket'", agent.socket),
        )
        if value is None
    ]
    if missing:
        raise ConfigError(f"{source}: {'; '.join(missing)}: write it in the file")
    return addresses.publishing(engines[name], agent)


def _report(deployment: Deployment, engine: EngineConfig, command: Command) -> EngineReport:
    cluster = deployment.cluster_of_engine(engine.name)
    assert engine.url is not None
    return EngineReport(
        engine=engine.name,
        role=engine.role,
        cluster=cluster.name,
        machine=deployment.machine_of_engine(engine.name).name,
        url=engine.url,
        arguments=list(command.arguments),
        environment={k: v for k, v in command.environment.items() if not _is_key(k, engine)},
    )


def _is_key(variable: str, engine: EngineConfig) -> bool:
    """What is printed may be pasted anywhere: it says where the key is, not the key."""
    return variable == KEY_VARIABLE and bool(engine.keys) and variable not in engine.env


def _where(engine: EngineConfig) -> str:
    """A shell's words for the first key."""
    if engine.api_key_file is not None:
        return f"\"$(sed -n '/^[^#]/{{p;q;}}' {shlex.quote(engine.api_key_file)})\""
    return f'"${{{engine.api_key_env}%% *}}"'


def _shell(command: Command, engine: EngineConfig) -> str:
    """A command line for a POSIX shell, an option to a line."""
    environment = [
        f"{key}={_where(engine) if _is_key(key, engine) else shlex.quote(value)}"
        for key, value in command.environment.items()
    ]
    lines = [" ".join(environment)] if environment else []
    for word in map(shlex.quote, command.arguments):
        if word.startswith("--") or not lines or len(lines) == len(environment[:1]):
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines)
