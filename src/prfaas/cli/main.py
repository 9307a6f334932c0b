"""``prfaas VERB ...``: finds the verb's module, lets it describe its arguments, runs it.

A verb is a module here with ``configure(parser)`` and ``run(args) -> exit status``. Only the
chosen verb is imported, so ``prfaas plan`` never loads what ``prfaas up`` needs.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import signal
import sys
from collections.abc import Iterator

from prfaas import __version__
from prfaas.cli.parser import VerbParser, describe_actions, sentence
from prfaas.core.control_characters import escaped_lines
from prfaas.core.errors import PrfaasError

VERBS: dict[str, str] = {
    "up": "start a deployment on this machine: engines, agents, gateway",
    "down": "end what 'prfaas up' runs on this machine",
    "demo": "start a deployment, ask it a script of prompts, check every answer",
    "gateway": "run the OpenAI endpoint of a deployment",
    "agent": "run the agent of one machine of a deployment",
    "engine": "print or run the 'vllm serve' command of one engine of a deployment",
    "certs": "make a private CA, and certificates of agents and gateways; revoke them",
    "deployment": "compare deployment files",
    "render": "write Kubernetes manifests or systemd units of a deployment",
    "members": "keep a deployment file as the pods that there are",
    "drain": "take an engine, machine or cluster out of service, and back",
    "cache": "what is cached, for which prompts; have prompts computed ahead, and kept",
    "status": "watch a running deployment: clusters, engines, lines, decisions, troubles",
    "doctor": "look for what would go wrong on this machine, and say what to do",
    "kv": "show how large a model's KV cache is, by length",
    "plan": "find the threshold and the split for a model, traffic, line and prices",
    "replay": "tell what became of the requests of a journal: all, or one step by step",
    "simulate": "replay a workload or trace under routing policies",
    "convert": "write a scenario of an earlier version as a deployment file",
    "schema": "print the JSON Schema of the deployment file, or of a verb's --json",
    "bench": "send a workload to an OpenAI endpoint, and measure what its clients see",
    "profile": "measure how fast running engines are, for plan and simulate",
    "link": "test the KV link between two agents",
    "completion": "print a shell's tab completion of all this",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "run": ("demo", "up", "down", "gateway", "agent", "engine", "drain", "cache"),
    "lay out": ("deployment", "certs", "render", "members"),
    "watch": ("status", "replay", "doctor"),
    "plan": ("kv", "plan", "simulate", "convert", "schema"),
    "measure": ("bench", "profile", "link"),
    "shell": ("completion",),
}

_FIRST_STEPS = """first steps:
  prfaas demo                      two clusters on this machine, explained as they answer
  prfaas up deployment.yaml        serve http://127.0.0.1:8000/v1; Ctrl-C or 'prfaas down' ends it
  prfaas status                    in another terminal: what it does now
  prfaas kv Qwen3-Next-80B-A3B     would its KV cache fit my line? then: prfaas plan FILE
'prfaas VERB --help' teaches a verb, with examples and exit statuses (2: wrong input, 130: Ctrl-C),
'prfaas schema VERB' describes what it prints with --json.
"""


_READ_AGAIN = frozenset({"agent", "gateway", "members", "up"})
"""SIGHUP has these read their files again. Until they have begun to listen to it, it ends none."""


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The command line; only ``verb`` (None: no verb, ``"*"``: every verb) knows its arguments."""
    parser = VerbParser(
        prog="prfaas",
        usage="prfaas [-h] [--version] VERB ...",
        description="Prefill-as-a-Service: prefill where compute is cheap, decode where the users "
        "are,\nand ship the KV cache between them over plain Ethernet.\n\n" + _overview(),
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"prfaas {__version__}")
    # The overview lists them already; completion must find them.
    listed = None if verb == "*" else argparse.SUPPRESS
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", required=True, help=listed, prog="prfaas"
    )
    for name, summary in VERBS.items():
        sub = verbs.add_parser(name, help=summary, description=sentence(summary))
        if verb in (name, "*"):
            importlib.import_module(f"prfaas.cli.{name}").configure(sub)
            describe_actions(sub)
    return parser


def _overview() -> str:
    """The verbs in their groups, a line each."""
    lines = []
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {name:11} {VERBS[name]}" for name in names]
    return "\n".join(lines)


def _nearest(word: str) -> str:
    found = difflib.get_close_matches(word, VERBS, n=1)
    return f"did you mean 'prfaas {found[0]}'?" if found else "'prfaas --help' shows them all"


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status. ``argv``: without the program's name (None: the
    process's own)."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if not arguments:
        build_parser(None).print_help(sys.stderr)
        return 2
    if verb is not None and verb not in VERBS:
        print(f"prfaas: no verb {verb!r}; {_nearest(verb)}", file=sys.stderr)
        return 2
    with _no_hang_up(verb in _READ_AGAIN):
        return _run(build_parser(verb).parse_args(arguments))


@contextlib.contextmanager
def _no_hang_up(ignored: bool) -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    if ignored:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGHUP, before)


def _run(args: argparse.Namespace) -> int:
    module = importlib.import_module(f"prfaas.cli.{args.verb}")
    try:
        return int(module.run(args))
    except PrfaasError as error:
        print(f"prfaas {args.verb}: {escaped_lines(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) went away: silence the interpreter's own complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.strerror is None:  # Not the system's word: a bug of ours.
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"prfaas {args.verb}: {place}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
