"""``prfaas completion SHELL``: a script that completes verbs and options with the Tab key."""

from __future__ import annotations

import argparse

import shtab

from prfaas.cli.reports import teach

EXAMPLES = """
examples:
  prfaas completion bash > ~/.local/share/bash-completion/completions/prfaas
  prfaas completion zsh > ~/.zfunc/_prfaas      with ~/.zfunc in fpath
  eval "$(prfaas completion bash)"              for this shell only

Exit status: 0.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "shell", choices=("bash", "zsh", "tcsh"), help="the shell whose script is printed"
    )


def run(args: argparse.Namespace) -> int:
    """Print the script; 0."""
    from prfaas.cli.main import build_parser

    print(shtab.complete(build_parser("*"), shell=args.shell))
    return 0
