"""``prfaas kv MODEL``: layers by kind, bytes per token, S_kv by length, the line it would need."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from prfaas.cli.console import report_console
from prfaas.core.errors import ConfigError
from prfaas.core.units import format_bytes, format_rate, parse_tokens
from prfaas.models.geometry.layers import ModelGeometry
from prfaas.models.geometry.models import catalogue, load_model
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import InstanceProfile, built_in_profiles, load_profile
from prfaas.planner.equations import kv_throughput

_WIDE = 120
"""Columns from which the catalogue's repositories are shown too."""
DEFAULT_LENGTHS = ("1K", "8K", "32K", "128K")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        help="config.json, a directory with one, a cached model id, or a catalogue name",
    )
    parser.add_argument("--list", action="store_true", help="list the catalogue and stop")
    parser.add_argument(
        "--tokens", action="append", metavar="N", help="a length, e.g. 32K; may be repeated"
    )
    parser.add_argument("--kv-dtype", metavar="T", help="of keys and values, e.g. fp8")
    parser.add_argument("--state-dtype", metavar="T", help="of recurrent states, e.g. bf16")
    parser.add_argument(
        "--profile", metavar="P", help="prefill profile, built in or a .yaml file, for the line"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.list:
        _print_catalogue()
        return 0
    if args.model is None:
        raise ConfigError("name a model, or use --list to see the catalogue")
    model = load_model(args.model)
    size = model.kv_size(kv_dtype=args.kv_dtype, state_dtype=args.state_dtype)
    lengths = [parse_tokens(text) for text in args.tokens or DEFAULT_LENGTHS]
    profile = load_profile(args.profile) if args.profile else _profile_of(model.name)
    report = _report(model, size, lengths, profile, args)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report, report_console())
    return 0


def _profile_of(model: str) -> InstanceProfile | None:
    """The first built-in profile that was taken with this model."""
    known = (load_profile(name) for name in built_in_profiles())
    return next((profile for profile in known if profile.model == model), None)


def _report(
    model: ModelGeometry,
    size: KvSize,
    lengths: list[int],
    profile: InstanceProfile | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    layers = [
        {
            "kind": layer.kind,
            "layers": count,
            "elements_per_token": layer.per_token,
            "window_tokens": layer.window_tokens,
            "state_elements": layer.state,
            "convolution_elements": layer.convolution,
        }
        for layer, count in model.layers.items()
    ]
    prefill = profile.prefill_or_refuse if profile else None
    rows = []
    for tokens in lengths:
        row: dict[str, Any] = {"tokens": tokens, "bytes": size.bytes(tokens)}
        if prefill is not None:
            seconds = prefill.seconds(tokens)
            row |= {"prefill_s": seconds, "line_bytes_per_s": kv_throughput(row["bytes"], seconds)}
        rows.append(row)
    return {
        "model": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "note": model.note,
        "kv_dtype": args.kv_dtype or model.model_dtype,
        "state_dtype": args.state_dtype or model.state_dtype,
        "layers": layers,
        "bytes_per_token": size.bytes_per_token,
        "constant_bytes": size.constant_bytes,
        "windows": [
            {"tokens": w.tokens, "bytes_per_token": w.bytes_per_token} for w in size.windows
        ],
        "profile": profile.label if profile else None,
        "lengths": rows,
    }


def _print_report(report: dict[str, Any], console: Console) -> None:
    console.print(f"[bold]{report['model']}[/bold] ({report['model_type']})")
    console.print(f"source: {report['source']}", style="dim", highlight=False)
    if report["note"]:
        console.print(f"note: {report['note']}", style="yellow", highlight=False)
    layers = Table("layers", "kind", "elements per token", "state elements")
    for row in report["layers"]:
        state = row["state_elements"] + row["convolution_elements"]
        layers.add_row(
            str(row["layers"]), row["kind"], f"{row['elements_per_token']:g}", f"{state:,}"
        )
    console.print(layers)
    console.print(
        f"{report['bytes_per_token']:,.0f} bytes per token (block-level, {report['kv_dtype']}), "
        f"{format_bytes(report['constant_bytes'])} constant (request-level, "
        f"states {report['state_dtype']})",
        highlight=False,
    )
    for window in report["windows"]:
        console.print(
            f"{window['bytes_per_token']:,.0f} bytes per token in a window of {window['tokens']}",
            highlight=False,
        )
    _print_lengths(report, console)


def _print_lengths(report: dict[str, Any], console: Console) -> None:
    profile = report["profile"]
    line = "line one instance fills, Phi_kv" if profile else "line to send it in 1 s"
    table = Table("tokens", "S_kv", *(["T_prefill"] if profile else []), line)
    for row in report["lengths"]:
        seconds = [f"{row['prefill_s']:.2f} s"] if profile else []
        rate = row["line_bytes_per_s"] if profile else row["bytes"]
        table.add_row(f"{row['tokens']:,}", format_bytes(row["bytes"]), *seconds, format_rate(rate))
    console.print(table)
    if profile:
        console.print(f"profile: {profile}", highlight=False)


def _print_catalogue() -> None:
    console = report_console()
    wide = console.width >= _WIDE
    table = Table()
    table.add_column("name", no_wrap=True)
    for figure in ("bytes per token", "constant", "S_kv at 32K"):
        table.add_column(figure, justify="right", no_wrap=True)
    if wide:
        table.add_column("repository")
    for row in catalogue().values():
        size = load_model(row.name).kv_size()
        table.add_row(
            row.name,
            f"{size.bytes_per_token:,.0f}",
            format_bytes(size.constant_bytes),
            format_bytes(size.bytes(32 * 1024)),
            *([row.repository] if wide else []),
        )
    console.print(table)
