"""``prfaas link test HOST:PORT``: what the KV link gets out of the line to another agent."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

import msgspec

from prfaas.cli.reports import add_json, teach
from prfaas.core.errors import CallerError
from prfaas.core.units import format_rate
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import Report, SilentSink, Stage, report, run_stages
from prfaas.process.logs import set_up_logs
from prfaas.tls.files import TlsFiles, files_of

EXAMPLES = """
examples:
  prfaas link test west-1.example:7400 --peer west-agent --name east-agent --certs certs
  prfaas link test 10.0.0.2:7400 --peer far --name near --plaintext --connections 4,16 --seconds 10

The far end is a running agent or 'prfaas link listen'. Exit status: 0, or 2 where it cannot be
reached, is another, or an option is wrong.
"""
LISTEN_EXAMPLES = """
examples:
  prfaas link listen --name far --plaintext
  prfaas link listen --name west-agent --certs certs --listen 0.0.0.0:7400

Exit status: 130 after Ctrl-C, 2 where the address is taken or the certificates are not usable.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    test = actions.add_parser(
        "test",
        help="measure RTT, loss and goodput to an agent, for 1 to N connections",
        description="Sends test data to the KV link of a running agent (or of 'prfaas link "
        "listen'), which verifies and forgets it; engines and arenas are not involved.",
    )
    test.add_argument("address", metavar="HOST:PORT", help="the agent's KV link")
    test.add_argument("--peer", required=True, metavar="AGENT", help="the agent's name")
    test.add_argument(
        "--connections",
        default="1,2,4,8",
        metavar="N,...",
        help="how many to try, a stage each (default: %(default)s)",
    )
    test.add_argument(
        "--seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds that each stage measures (default: %(default)s)",
    )
    test.add_argument(
        "--plaintext-at",
        metavar="HOST:PORT",
        help="also measure without TLS, against 'prfaas link listen --plaintext' there",
    )
    add_json(test, Report, help_text="print one JSON object at the end")
    teach(test, EXAMPLES)
    listen = actions.add_parser("listen", help="be the far end of a test, without an agent")
    listen.add_argument(
        "--listen",
        default="0.0.0.0:7400",
        metavar="HOST:PORT",
        help="where to listen (default: %(default)s)",
    )
    teach(listen, LISTEN_EXAMPLES)
    for action in (test, listen):
        action.add_argument(
            "--name", required=True, metavar="AGENT", help="our own name, as in our certificate"
        )
        action.add_argument(
            "--certs",
            type=Path,
            metavar="DIRECTORY",
            help="where ca.pem, NAME.pem and NAME-key.pem lie",
        )
        action.add_argument("--plaintext", action="store_true", help="speak without TLS")


def run(args: argparse.Namespace) -> int:
    """Test the line, or be the far end of a test until Ctrl-C."""
    config = TcpLinkConfig(name=args.name, security=_security(args))
    if args.action == "listen":
        return _listen(msgspec.structs.replace(config, listen=args.listen))
    counts = _counts(args.connections)
    if not 0.1 <= args.seconds <= 3600:
        raise CallerError(f"--seconds {args.seconds:g}: write 0.1 to 3600")
    secure = isinstance(config.security, TlsFiles)
    stages: list[Stage] = []
    runs = [(config, args.address, secure)]
    if args.plaintext_at is not None:
        plain = msgspec.structs.replace(config, security=Plaintext())
        runs.append((plain, args.plaintext_at, False))
    # What is wrong with the line ends the test with the same words.
    set_up_logs("error")
    progress = sys.stderr if args.json else sys.stdout
    total = len(runs) * len(counts)
    print(
        f"{args.peer} at {args.address}: {total} stages of {args.seconds:g} s each",
        file=progress,
        flush=True,
    )
    for settings, address, tls in runs:
        for stage in run_stages(
            settings, args.peer, address, counts, tls=tls, seconds=args.seconds
        ):
            stages.append(stage)
            print(f"{len(stages)}/{total} {_line(stage)}", file=progress, flush=True)
    summary = report(args.peer, args.address, stages)
    if args.json:
        print(msgspec.json.encode(summary).decode())
        return 0
    print(
        f"\nRTT {summary.rtt_s * 1e3:.1f} ms, loss {summary.loss:.1e}, "
        f"line limit about {format_rate(summary.line_limit_bytes_per_s)} (iperf3 would show about "
        f"as much); {_best(summary)} of it reached\n"
        f"recommended: connections: {summary.recommended_connections}"
    )
    return 0


def _listen(config: TcpLinkConfig) -> int:
    link = TcpLink(config, SilentSink())
    print(f"{config.name} listens on {link.address}; stop with Ctrl-C", flush=True)
    try:
        threading.Event().wait()
    finally:
        link.close()
    return 0


def _line(stage: Stage) -> str:
    kind = "TLS" if stage.tls else "plaintext"
    return (
        f"{stage.connections:3} connection{'s' if stage.connections > 1 else ' '} {kind:9} "
        f"{format_rate(stage.goodput_bytes_per_s):>14}  RTT {stage.rtt_s * 1e3:.1f} ms "
        f"(least {stage.min_rtt_s * 1e3:.1f} ms), sent again {stage.retransmit_share:.1e}"
    )


def _best(summary: Report) -> str:
    best = max(stage.goodput_bytes_per_s for stage in summary.stages)
    return f"{min(best / max(summary.line_limit_bytes_per_s, 1.0), 1.0):.0%}"


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= 64 for count in counts):
        raise CallerError(f"--connections {text!r}: numbers in 1..64, for example 1,2,4,8")
    return counts


def _security(args: argparse.Namespace) -> TlsFiles | Plaintext:
    if args.plaintext == (args.certs is not None):
        raise CallerError("say either --certs DIRECTORY (made by 'prfaas certs') or --plaintext")
    if args.plaintext:
        return Plaintext()
    return files_of(args.certs, args.name)
