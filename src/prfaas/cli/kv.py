"""``prfaas kv MODEL``: layers by kind, bytes per token, S_kv by length, the line it would need."""

from __future__ import annotations

import argparse
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from prfaas.cli.console import report_console
from prfaas.cli.reports import add_json, teach
from prfaas.core.errors import ConfigError
from prfaas.core.units import format_bytes, format_rate, parse_tokens
from prfaas.models.geometry.layers import ModelGeometry
from prfaas.models.geometry.models import catalogue, load_model
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import InstanceProfile, built_in_profiles, load_profile
from prfaas.planner.equations import kv_throughput

EXAMPLES = """
examples:
  prfaas kv Qwen3-Next-80B-A3B                      a model of the built-in catalogue
  prfaas kv ./my-model --tokens 32K --tokens 1M     a directory with a config.json
  prfaas kv org/name --kv-cache-dtype fp8           a model in the Hugging Face cache
  prfaas kv Kimi-Linear-48B-A3B --tokens 32K --json
  prfaas kv --list                                  the catalogue

Sizes are those that vLLM allocates with the same flags for a config.json. A model that is not
known, or keeps no KV cache, is refused by name: nothing is guessed. Exit status: 0, or 2 where
the model or an argument is not understood.
"""
DEFAULT_LENGTHS = ("1K", "8K", "32K", "128K")
_WIDE = 120
"""Columns from which the catalogue's repositories are shown too."""


class LayerRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal layers of a model, counted; bytes are of one of them."""

    kind: str
    layers: int
    elements_per_token: float
    bytes_per_token: float
    window_tokens: int | None
    state_elements: int
    convolution_elements: int


class WindowRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all layers with the same window keep of each token inside it."""

    tokens: int
    bytes_per_token: float


class LengthRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """S_kv of one length; with a profile, how long its prefill takes and what line it fills."""

    tokens: int
    bytes: float
    prefill_s: float | None = None
    line_bytes_per_s: float | None = None


class KvReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``prfaas kv --json`` prints."""

    model: str
    model_type: str
    source: str
    note: str | None
    dtype: str
    kv_dtype: str
    state_dtype: str
    layers: list[LayerRow]
    bytes_per_token: float
    constant_bytes: float
    windows: list[WindowRow]
    profile: str | None
    lengths: list[LengthRow]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    teach(parser, EXAMPLES)
    parser.add_argument(
        "model",
        nargs="?",
        help="config.json, a directory with one, a cached model id, or a catalogue name",
    )
    parser.add_argument("--list", action="store_true", help="list the catalogue and stop")
    parser.add_argument(
        "--tokens", action="append", metavar="N", help="show this length, e.g. 32K; may be repeated"
    )
    flags = parser.add_argument_group("as vLLM's flags of the same names")
    flags.add_argument("--dtype", metavar="T", help="of the model (auto: as its config says)")
    flags.add_argument(
        "--kv-cache-dtype", "--kv-dtype", dest="kv_dtype", metavar="T", help="of keys and values"
    )
    flags.add_argument("--mamba-cache-dtype", metavar="T", help="of convolution states")
    flags.add_argument(
        "--mamba-ssm-cache-dtype",
        "--state-dtype",
        dest="state_dtype",
        metavar="T",
        help="of recurrent states",
    )
    parser.add_argument(
        "--profile", metavar="P", help="prefill profile, built in or a .yaml file, for the line"
    )
    add_json(parser, KvReport)


def run(args: argparse.Namespace) -> int:
    """Show the sizes; 0. Raises ConfigError for a model that is not known."""
    if args.list:
        _print_catalogue()
        return 0
    if args.model is None:
        raise ConfigError("name a model, or use --list to see the catalogue")
    model = load_model(args.model, dtype=_given(args.dtype))
    lengths = [parse_tokens(text) for text in args.tokens or DEFAULT_LENGTHS]
    profile = load_profile(args.profile) if args.profile else _profile_of(model.name)
    report = _report(model, lengths, profile, args)
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    else:
        _print_report(report, report_console())
    return 0


def _given(dtype: str | None) -> str | None:
    return None if dtype == "auto" else dtype


def _profile_of(model: str) -> InstanceProfile | None:
    """The first built-in profile that was taken with this model."""
    known = (load_profile(name) for name in built_in_profiles())
    return next((profile for profile in known if profile.model == model), None)


def _report(
    model: ModelGeometry,
    lengths: list[int],
    profile: InstanceProfile | None,
    args: argparse.Namespace,
) -> KvReport:
    kv_dtype = _given(args.kv_dtype) or model.kv_dtype
    convolution = _given(args.mamba_cache_dtype) or model.model_dtype
    state_dtype = _given(args.state_dtype) or model.state_dtype or convolution
    size = model.kv_size(kv_dtype=kv_dtype, state_dtype=state_dtype, convolution_dtype=convolution)
    return KvReport(
        model=model.name,
        model_type=model.model_type,
        source=model.source,
        note=model.note,
        dtype=model.model_dtype,
        kv_dtype=kv_dtype,
        state_dtype=state_dtype,
        layers=_layer_rows(model, kv_dtype),
        bytes_per_token=size.bytes_per_token,
        constant_bytes=size.constant_bytes,
        windows=[WindowRow(w.tokens, w.bytes_per_token) for w in size.windows],
        profile=profile.label if profile else None,
        lengths=[_length_row(size, tokens, profile) for tokens in lengths],
    )


def _layer_rows(model: ModelGeometry, kv_dtype: str) -> list[LayerRow]:
    return [
        LayerRow(
            kind=layer.kind,
            layers=count,
            elements_per_token=layer.per_token,
            bytes_per_token=layer.bytes_per_token(kv_dtype),
            window_tokens=layer.window_tokens,
            state_elements=layer.state,
            convolution_elements=layer.convolution,
        )
        for layer, count in model.layers.items()
    ]


def _length_row(size: KvSize, tokens: int, profile: InstanceProfile | None) -> LengthRow:
    if profile is None:
        return LengthRow(tokens, size.bytes(tokens))
    seconds = profile.prefill_or_refuse.seconds(tokens)
    line = kv_throughput(size.bytes(tokens), seconds)
    return LengthRow(tokens, size.bytes(tokens), seconds, line)


def _print_report(report: KvReport, console: Console) -> None:
    console.print(f"[bold]{report.model}[/bold] ({report.model_type}, served in {report.dtype})")
    console.print(f"source: {report.source}", style="dim", highlight=False)
    if report.note:
        console.print(f"note: {report.note}", style="yellow", highlight=False)
    layers = Table("layers", "kind", "bytes per token", "state elements")
    for row in report.layers:
        state = row.state_elements + row.convolution_elements
        layers.add_row(str(row.layers), row.kind, f"{row.bytes_per_token:,g}", f"{state:,}")
    console.print(layers)
    console.print(
        f"{report.bytes_per_token:,.0f} bytes per token (block-level, {report.kv_dtype}), "
        f"{format_bytes(report.constant_bytes)} constant (request-level, "
        f"states {report.state_dtype})",
        highlight=False,
    )
    for window in report.windows:
        console.print(
            f"{window.bytes_per_token:,.0f} bytes per token in a window of {window.tokens}",
            highlight=False,
        )
    _print_lengths(report, console)


def _print_lengths(report: KvReport, console: Console) -> None:
    profile = report.profile
    line = "line one instance fills, Phi_kv" if profile else "line to send it in 1 s"
    table = Table("tokens", "S_kv", *(["T_prefill"] if profile else []), line)
    for row in report.lengths:
        seconds = [] if row.prefill_s is None else [f"{row.prefill_s:.2f} s"]
        rate = row.bytes if row.line_bytes_per_s is None else row.line_bytes_per_s
        table.add_row(f"{row.tokens:,}", format_bytes(row.bytes), *seconds, format_rate(rate))
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
