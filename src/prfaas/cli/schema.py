"""``prfaas schema``: the JSON Schema of the deployment file."""

from __future__ import annotations

import argparse

import msgspec

from prfaas.description.json_schema import description_schema


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.epilog = "example: prfaas schema > deployment.schema.json"


def run(_args: argparse.Namespace) -> int:
    """Print it; returns the exit status."""
    print(msgspec.json.format(msgspec.json.encode(description_schema()), indent=2).decode())
    return 0
