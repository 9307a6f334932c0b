"""What every verb has in common: its help, and how it fails."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator

import pytest

from prfaas.cli import certs
from prfaas.cli.main import VERBS, build_parser, main
from prfaas.cli.reports import leaves


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All that can be written behind a verb, its own verbs' included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_explained(verb: str) -> None:
    for action in _actions(build_parser(verb)):
        assert action.help, action


def test_a_word_that_is_no_verb_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["statsu", "--once"]) == 2
    assert capsys.readouterr().err == "prfaas: no verb 'statsu'; did you mean 'prfaas status'?\n"
    assert main(["frobnicate"]) == 2
    assert "'prfaas --help' shows them all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kv", "--tokns", "3", "m"], "kv: error: no option --tokns; did you mean --tokens?"),
        (["cache", "warm", "f", "--tennant=x"], "warm: error: no option --tennant; did"),
        (["kv", "--zzz"], "prfaas kv: error: no option --zzz; 'prfaas kv --help' shows them all"),
        (["demo", "--model", "m"], "no option --model; 'prfaas demo --help' shows them all"),
        (["down", "a", "b"], "prfaas down: error: one argument too many: 'b'"),
        (["certs"], "certs: error: the following arguments are required: ACTION, one of init"),
    ],
)
def test_what_a_verb_does_not_know_it_refuses_itself(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith(f"usage: prfaas {words[0]}")


def test_without_a_verb_it_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "first steps:" in capsys.readouterr().err


def test_names_keep_their_capitals(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gateway", "--help"])
    assert "Run the OpenAI endpoint of a deployment." in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["cache", "certs", "deployment", "link", "render"])
def test_a_verb_with_actions_leads_to_their_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert "--help' teaches one of them, with examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "/var/lib/x"), "/var/lib/x: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    error: OSError,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(certs, "run", refuse)
    assert main(["certs", "init"]) == 2
    assert capsys.readouterr().err == f"prfaas certs: {told}\n"


def test_an_error_that_is_not_the_systems_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise TimeoutError

    monkeypatch.setattr(certs, "run", fail)
    with pytest.raises(TimeoutError):
        main(["certs", "init"])


def test_every_help_begins_with_what_the_verb_does() -> None:
    for words, parser in leaves(build_parser("*")):
        description = parser.description or ""
        assert description[:1].isupper(), words
        assert description.endswith("."), words


@pytest.mark.parametrize(
    "words", [["agent", "FILE", "--name", "a"], ["gateway", "FILE"], ["up", "FILE"]]
)
def test_a_hang_up_does_not_end_what_has_only_just_begun(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[object] = []

    def run(args: argparse.Namespace) -> int:
        during.append(signal.getsignal(signal.SIGHUP))
        return 0

    monkeypatch.setattr(f"prfaas.cli.{words[0]}.run", run)
    before = signal.getsignal(signal.SIGHUP)
    assert main(words) == 0
    assert during == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGHUP) is before
