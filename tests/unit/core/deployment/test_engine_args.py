"""Engines' own arguments are read as vLLM's parser reads them."""

from __future__ import annotations

import argparse
import importlib
import json
from typing import Any

import pytest

from prfaas.core.deployment.engine_args import is_named, option

EVENTS, HOST = "--kv-events-config", "--host"
PART = f"{EVENTS}.endpoint"
CASES: list[tuple[list[str], Any, str | None]] = [
    ([], None, None),
    ([HOST, "0.0.0.0"], None, "0.0.0.0"),
    (["--host=0.0.0.0"], None, "0.0.0.0"),
    (["--ho", "0.0.0.0", "--host", "::1"], None, "::1"),
    (["--host", "::1", "--hos=0.0.0.0"], None, "0.0.0.0"),
    (["--host="], None, ""),
    ([EVENTS, '{"a": 1}'], {"a": 1}, None),
    (["--kv_events_config", '{"a": 1}'], {"a": 1}, None),
    (["--kv-events-conf", '{"a": 1}'], {"a": 1}, None),
    (["--kv_ev=" + '{"a": 1.5}'], {"a": 1.5}, None),
    ([PART, "tcp://*:5557"], {"endpoint": "tcp://*:5557"}, None),
    (["--kv_events_config.replay_endpoint=a=b"], {"replay_endpoint": "a=b"}, None),
    ([PART, "x", EVENTS, '{"a": 1}'], {"endpoint": "x"}, None),
    ([PART, "x", f"{EVENTS}.a", "true", PART, "--y"], {"endpoint": "--y", "a": True}, None),
    ([PART, "x", "--kv-events-conf.a", "True"], {"a": "True"}, None),
    ([f"{EVENTS}.a.b", "1", f"{EVENTS}.a.c", '{"d": 2}'], {"a": {"b": 1, "c": {"d": 2}}}, None),
    ([f"{EVENTS}.a+", "1,b", f"{EVENTS}.a+=c"], {"a": ["1", "b", "c"]}, None),
    ([f"{EVENTS}.a", "[1]", f"{EVENTS}.a", "[2]"], {"a": [1, 2]}, None),
    ([f"{EVENTS}.a", "1", f"{EVENTS}.a.b", "2"], {"a": {"b": 2}}, None),
    (["--seed", "--ho", "1.2.3.4"], None, "1.2.3.4"),
    (["--hx", "0.0.0.0", "--served-model-name", "host"], None, None),
]


@pytest.mark.parametrize(("args", "events", "host"), CASES)
def test_parts_and_beginnings_of_names_are_understood(
    args: list[str], events: Any, host: str | None
) -> None:
    said = option(args, EVENTS)
    assert (said and json.loads(said)) == events
    assert option(args, HOST, "-h") == host


@pytest.mark.parametrize(("args", "events", "host"), CASES)
def test_vllm_understands_the_same(args: list[str], events: Any, host: str | None) -> None:
    parsers = pytest.importorskip("vllm.utils.argparse_utils")
    parser: argparse.ArgumentParser = parsers.FlexibleArgumentParser()
    parser.add_argument(EVENTS, type=json.loads)
    parser.add_argument(HOST)
    parser.add_argument("--seed", nargs="?")
    parser.add_argument("--served-model-name")
    parser.add_argument("--hx")
    found = parser.parse_args(args)
    assert (found.kv_events_config, found.host) == (events, host)


def test_flags_are_there_or_not() -> None:
    names = frozenset({"--enable-dbo", "--ubatch-size"})
    assert is_named(["--enable_dbo"], names)
    assert is_named(["--ubatch-siz=2"], names)
    assert not is_named(["--no-enable-dbo", "-", "--", "x"], names)


def test_no_option_of_vllms_begins_as_one_that_is_asked_for_here() -> None:
    pytest.importorskip("vllm")
    arguments = importlib.import_module("vllm.entrypoints.launchers.cli_args")
    parsers = importlib.import_module("vllm.utils.argparse_utils")
    known = arguments.make_arg_parser(parsers.FlexibleArgumentParser())._option_string_actions
    asked = (
        EVENTS, HOST, "--gpu-memory-utilization", "--tensor-parallel-size", "--enable-dbo",
        "--pipeline-parallel-size", "--data-parallel-size", "--data-parallel-rank",
        "--data-parallel-external-lb", "--ubatch-size",
    )  # fmt: skip
    for name in asked:
        assert name in known
        assert [other for other in known if name.startswith(other) and len(other) > 2] == [name]
