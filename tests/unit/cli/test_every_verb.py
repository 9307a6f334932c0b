"""Every verb, found by the parser: it teaches by example, says how it ends, and prints JSON that
fits its schema."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prfaas.cli.main import build_parser, main
from prfaas.cli.reports import kinds_of, leaves, report_schema
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import SilentSink
from prfaas.policies.api import Route
from prfaas.scheduler.commands import StartDecode
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.journal import encode
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.tls import authority

EVERY = dict(leaves(build_parser("*")))
ROOT = Path(__file__).resolve().parents[3]

SERVE = {("up",), ("demo",), ("gateway",), ("agent",), ("link", "listen"), ("members",)}
"""They run until they are ended, and say what happens meanwhile."""
WRITE_A_FORMAT = {
    ("completion",),
    ("schema",),
    ("convert",),
    ("profile",),
    ("render", "kubernetes"),
    ("render", "systemd"),
}
"""What they print or write has a format of its own: a script, a schema, YAML."""

DEPLOYMENT = """
model: {path: /models/m, served_name: m}
clusters:
  - name: west
    kind: pd
    agent: {name: a, admin: "127.0.0.1:3", socket: /run/a.sock, plaintext: true}
    engines:
      - {name: d1, role: decode, url: "http://127.0.0.1:2"}
gateway: {listen: "127.0.0.1:1"}
"""
PAPER = str(ROOT / "examples" / "paper.yaml")
SAMPLES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("down",): (),
    ("engine",): ("d1", "deployment.yaml", "--vllm", "gpu"),
    ("certs", "init"): ("--dir", "new"),
    ("certs", "issue"): ("a", "--dir", "certs"),
    ("certs", "revoke"): ("b", "--dir", "certs"),
    ("deployment", "diff"): ("deployment.yaml", "other.yaml"),
    ("drain",): ("d1", "deployment.yaml"),
    ("cache", "show"): ("deployment.yaml",),
    **{
        ("cache", action): ("prompts.jsonl", "deployment.yaml")
        for action in ("query", "warm", "pin", "unpin")
    },
    ("status",): ("deployment.yaml",),
    ("doctor",): ("deployment.yaml", "--measure", "0"),
    ("kv",): ("Kimi-Linear-48B-A3B", "--tokens", "32K"),
    ("plan",): (PAPER,),
    ("replay",): ("events.jsonl",),
    ("simulate",): (PAPER, "--policy", "threshold", "--requests", "50"),
    ("bench",): ("GATEWAY", "--prompt", "64", "--output", "3", "--requests", "2", "--rate", "99"),
    ("link", "test"): (
        *("FAR", "--peer", "far", "--name", "near", "--plaintext"),
        *("--connections", "1", "--seconds", "0.2"),
    ),
}
"""By verb, what is written behind it here; a new verb with --json must be added."""


def examples(parser: argparse.ArgumentParser) -> list[str]:
    """The command lines that its help shows, without what stands beside and behind them."""
    text = (parser.epilog or "").replace("\\\n", " ")
    lines = re.findall(r"^  (?:eval \"\$\()?(prfaas [^\n]*)$", text, re.MULTILINE)
    return [re.split(r" {3,}| [|>] |\)\"", line)[0].replace("...", "").strip() for line in lines]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_teaches_by_examples_that_are_right(words: tuple[str, ...]) -> None:
    parser = EVERY[words]
    shown = examples(parser)
    own = [line for line in shown if line.split()[1 : 1 + len(words)] == list(words)]
    assert own, "an example after 'examples:'"
    assert "\nexamples:\n" in (parser.epilog or "")
    everything = build_parser("*")
    for line in shown:
        everything.parse_args(shlex.split(line)[1:])  # Exits where it is wrong.


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_says_how_it_ends(words: tuple[str, ...]) -> None:
    said = " ".join((EVERY[words].epilog or "").split())
    assert re.search(r"Exit status: \d|It exits with \d|Exit status: \d+ \+", said)


def test_every_verb_prints_json_or_is_known_not_to() -> None:
    without = {words for words, parser in EVERY.items() if not kinds_of(parser)}
    assert without <= SERVE | WRITE_A_FORMAT
    for words, parser in EVERY.items():
        has = any("--json" in action.option_strings for action in parser._actions)
        assert has == (words not in without), words
    assert set(SAMPLES) == set(EVERY) - without


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with what the samples name."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("deployment.yaml").write_text(DEPLOYMENT)
    Path("other.yaml").write_text(DEPLOYMENT.replace("d1", "d2"))
    arrived = RequestArrived("r", 10, 1)
    decode = StartDecode("r", 1, "d1", None, 0, 0, Route.DIRECT, "short")
    Path("events.jsonl").write_bytes(encode(1.0, arrived) + encode(1.5, decode))
    Path("prompts.jsonl").write_text('"a text"\n{"messages": []}\n')
    authority.create_authority(Path("certs"), days=1)
    authority.issue(Path("certs"), "b", days=1)


def printed(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], names: dict[str, str]
) -> list[Any]:
    """What the verb's sample prints; it must not end as wrong input does."""
    arguments = [names.get(word, word) for word in SAMPLES[words]]
    assert main([*words, *arguments, "--json"]) in (0, 1)
    text = capsys.readouterr().out
    # replay prints a line per request, all others one value.
    return [json.loads(value) for value in (text.splitlines() if words == ("replay",) else [text])]


@pytest.mark.parametrize("words", sorted(set(SAMPLES) - {("bench",)}), ids=" ".join)
def test_json_is_what_its_schema_says(
    words: tuple[str, ...], place: None, capsys: pytest.CaptureFixture[str]
) -> None:
    far = TcpLink(TcpLinkConfig(name="far", security=Plaintext()), SilentSink())
    try:
        values = printed(words, capsys, {"FAR": far.address})
    finally:
        far.close()
    schema = schema_of(words, capsys)
    assert values
    for value in values:
        jsonschema.validate(value, schema)


async def test_so_is_that_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        # In another thread: the gateway runs in this one's loop.
        names = {"GATEWAY": str(client._base_url)}
        (value,) = await asyncio.to_thread(printed, ("bench",), capsys, names)
    jsonschema.validate(value, schema_of(("bench",), capsys))


def schema_of(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["schema", *words]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def test_a_schema_refuses_what_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in SAMPLES:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                {"nonsense": 1} if words != ("replay",) else [], schema_of(words, capsys)
            )
    assert main(["schema", "up"]) == 2
    assert (
        "'up' has no --json; these have: bench, cache pin, cache query" in capsys.readouterr().err
    )


def test_a_number_that_is_none_is_null() -> None:
    schema = report_schema(kinds_of(EVERY["plan",]))
    assert '"type": ["number", "null"]' in json.dumps(schema)
