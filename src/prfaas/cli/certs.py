"""``prfaas certs``: the private CA of a deployment, certificates of its agents and gateways."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.core.deployment import Deployment, load_deployment
from prfaas.core.deployment.agents import CACHE_KEY
from prfaas.core.errors import CallerError
from prfaas.tls import authority
from prfaas.tls.files import CA_KEY, files_in

INIT = """
examples:
  prfaas certs init
  prfaas certs init --dir /etc/prfaas/certs --days 3650

Exit status: 0, or 2 where a CA is there already or a file cannot be written.
"""
ISSUE = """
examples:
  prfaas certs issue east-agent west-agent
  prfaas certs issue --deployment deployment.yaml --days 90

Exit status: 0, or 2 where there is no CA, or the file has no such agent.
"""
REVOKE = """
examples:
  prfaas certs revoke east-agent
  prfaas certs revoke east-agent --replaced    # a new one is in use: what it has replaced
  prfaas certs revoke                          # the list anew, with nobody more on it

Exit status: 0, or 2 where there is no CA, or no such certificate.
"""


class CertificateFiles(msgspec.Struct, frozen=True):
    """What ``prfaas certs ... --json`` prints: the files that were written."""

    files: list[str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    init = actions.add_parser("init", help="make a new CA")
    revoke = actions.add_parser("revoke", help="put certificates on the CA's revocation list")
    issue = actions.add_parser("issue", help="make the certificates of agents and gateways")
    for action, examples in ((init, INIT), (issue, ISSUE), (revoke, REVOKE)):
        teach(action, examples)
        add_json(action, CertificateFiles)
    issue.add_argument(
        "names", nargs="*", metavar="NAME", help="an agent's or gateway's in the deployment file"
    )
    issue.add_argument(
        "--deployment",
        type=Path,
        metavar="FILE",
        help="for every agent and gateway of this deployment file",
    )
    revoke.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="whose certificates (default: nobody's: the list is made anew, for a year)",
    )
    revoke.add_argument(
        "--replaced",
        action="store_true",
        help="those alone that newer ones have replaced (default: the newest as well)",
    )
    for action, days in ((init, 3650), (issue, 365)):
        action.add_argument(
            "--days",
            type=int,
            default=days,
            metavar="N",
            help="days from now that it is valid (default: %(default)s)",
        )
    for action in (init, issue, revoke):
        action.add_argument(
            "--dir",
            type=Path,
            default=Path("certs"),
            metavar="DIRECTORY",
            help="where the files lie (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Make what is asked for and say where it lies; 0."""
    made = {"init": _init, "issue": _issue, "revoke": _revoke}[args.action](args)
    if args.json:
        report = CertificateFiles([str(file) for files, _ in made for file in files])
        print(msgspec.json.encode(report).decode())
    else:
        for files, words in made:
            print(f"{', '.join(map(str, files))}: {words}")
    return 0


_FOR_ALL = "every agent and gateway needs it, beside ca.pem"
_Made = list[tuple[list[Path], str]]
"""Files, and what they are for."""


def _init(args: argparse.Namespace) -> _Made:
    path = authority.create_authority(args.dir, days=_days(args))
    return [
        ([path], "the CA's certificate; every agent and gateway needs it"),
        ([args.dir / CA_KEY], "the CA's key; keep it off the deployment's machines"),
        ([args.dir / CACHE_KEY], f"what cache events are keyed with; {_FOR_ALL}"),
    ]


def _issue(args: argparse.Namespace) -> _Made:
    days, names = _days(args), list(args.names)
    known: dict[str, str | None] = {}
    if args.deployment is not None:
        known = _known(load_deployment(args.deployment))
        strangers = sorted(set(names) - set(known))
        if strangers:
            raise CallerError(
                f"no agent or gateway {strangers[0]!r} in {args.deployment}; "
                f"known: {', '.join(sorted(known))}"
            )
        names = names or list(known)
    if not names:
        raise CallerError("name agents or gateways, or give --deployment FILE for all of its own")
    made: _Made = []
    for name in names:
        files = authority.issue(args.dir, name, days=days, called=known.get(name))
        made.append(([files.cert, files.key], f"for {name}, with {files.ca}"))
    made.append(([authority.make_cache_key(args.dir)], _FOR_ALL))
    return made


def _known(deployment: Deployment) -> dict[str, str | None]:
    """By the names of agents and gateways, what those are called that connect with them."""
    shown = [(agent.name, agent.tls) for agent in deployment.agents]
    shown += [(g.certificate_name or g.name, g.agent_tls) for g in deployment.gateways]
    return {name: None if tls is None else files_in(tls).name_of(name) for name, tls in shown}


def _revoke(args: argparse.Namespace) -> _Made:
    if not args.names:
        path = authority.renew_list(args.dir)
    for name in args.names:
        path = authority.revoke(args.dir, name, replaced=args.replaced)
    words = (
        "give it to every agent as 'tls: {crl: ...}', to every gateway in its 'agent_tls'; it is "
        "read when it changes"
    )
    return [([path], words)]


def _days(args: argparse.Namespace) -> int:
    if args.days < 1:
        raise CallerError(f"--days {args.days}: write 1 or more")
    return int(args.days)
