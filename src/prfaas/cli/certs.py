"""``prfaas certs``: the private CA of a deployment, certificates of its agents and gateways."""

from __future__ import annotations

import argparse
from pathlib import Path

from prfaas.core.deployment import load_deployment
from prfaas.core.deployment.agents import CACHE_KEY
from prfaas.core.errors import CallerError
from prfaas.tls import authority
from prfaas.tls.files import CA_KEY


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make a new CA")
    issue = actions.add_parser("issue", help="make the certificates of agents and gateways")
    issue.add_argument("agents", nargs="*", metavar="AGENT", help="name in the deployment file")
    issue.add_argument(
        "--deployment",
        type=Path,
        metavar="FILE",
        help="for every agent and gateway of this deployment file",
    )
    revoke = actions.add_parser("revoke", help="put certificates on the CA's revocation list")
    revoke.add_argument("agents", nargs="+", metavar="AGENT", help="whose certificates")
    revoke.add_argument(
        "--dir",
        type=Path,
        default=Path("certs"),
        metavar="DIRECTORY",
        help="where the files lie (default: %(default)s)",
    )
    for action, days in ((init, 3650), (issue, 365)):
        action.add_argument(
            "--days",
            type=int,
            default=days,
            metavar="N",
            help="days from now that it is valid (default: %(default)s)",
        )
        action.add_argument(
            "--dir",
            type=Path,
            default=Path("certs"),
            metavar="DIRECTORY",
            help="where the files lie (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Make what is asked for and say where it lies; 0."""
    if args.action == "revoke":
        for agent in args.agents:
            path = authority.revoke(args.dir, agent)
        print(f"{path}: give it to every agent as 'tls: {{crl: ...}}'; it is read when it changes")
        return 0
    if args.days < 1:
        raise CallerError(f"--days {args.days}: write 1 or more")
    if args.action == "init":
        path = authority.create_authority(args.dir, days=args.days)
        print(f"{path}: the CA's certificate; every agent needs it")
        print(f"{args.dir / CA_KEY}: the CA's key; keep it off the agents' machines")
        print(f"{args.dir / CACHE_KEY}: what cache events are keyed with; every agent and gateway")
        print("needs it, beside ca.pem")
        return 0
    agents = list(args.agents)
    if args.deployment is not None:
        deployment = load_deployment(args.deployment)
        known = [agent.name for agent in deployment.agents]
        known += [gateway.name for gateway in deployment.gateways]
        strangers = sorted(set(agents) - set(known))
        if strangers:
            raise CallerError(
                f"no agent or gateway {strangers[0]!r} in {args.deployment}; "
                f"known: {', '.join(sorted(known))}"
            )
        agents = agents or known
    if not agents:
        raise CallerError("name the agents, or give --deployment FILE for all of its own")
    for agent in agents:
        files = authority.issue(args.dir, agent, days=args.days)
        print(f"{files.cert}, {files.key}: for {agent}, with {files.ca}")
    print(f"{authority.make_cache_key(args.dir)}: for all of them, beside ca.pem")
    return 0
