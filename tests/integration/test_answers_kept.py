"""Real engines: answers and warmed prompts outlive their engine in its agent's cache.

A conversation's second turn is answered by the engine that answered the first, from its own cache;
then the engine is killed, and the same turn is answered again, from the agent's. Both must be
token-identical: both go on from the same block's end, which lies in the answer. A prompt that was
warmed and pinned is found as well, and so is what two others had in common: a third that begins
like them goes on where they parted (of a model with windows it does not: engines whose answers are
kept forget none, so vLLM sees no prompt part).

Runs for the kinds of cache in ANSWER_MODELS, none by default; `make test-pulls` has every kind.
With MLA, on a CPU without AMX, vLLM has no prefix cache to keep answers from: not run there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from string import Template

import pytest
from tests.integration.test_pool import ask, cached, choice, loaded_tokens, named, restart, until

from prfaas.gateway.feeds import cache_key
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.testing.calling import call
from prfaas.testing.comparing import assert_same_or_near_tie
from prfaas.testing.measuring import prompt
from prfaas.testing.running import RunningDeployment, engine_args_here

pytestmark = [pytest.mark.engine, pytest.mark.alone]

DEPLOYMENT = Path(__file__).with_name("answers.yaml")
PROMPT, ANSWER = 1000, 300


@pytest.mark.parametrize("kind", os.environ.get("ANSWER_MODELS", "").split())
def test_the_next_turn_finds_prompt_and_answer_after_a_restart(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.yaml"
    args = json.dumps(list(engine_args_here(kind)))
    file.write_text(Template(DEPLOYMENT.read_text()).substitute(args=args))
    with RunningDeployment(file, tmp_path / "up", model=f"tiny:{kind}") as running:
        model = running.deployment.model.served_name
        block = running.deployment.model.block_tokens
        boundary = (PROMPT + ANSWER - 1) // block * block
        assert boundary > PROMPT, "it lies in the answer"
        assert model is not None
        if not has_prefix_cache(running):
            pytest.skip(f"vLLM turns its prefix cache off with {kind} on this CPU")

        first = prompt(f"first {kind}", PROMPT)
        said = ask(running.url, model, first, max_tokens=ANSWER, ignore_eos=True)
        history = [*first, *choice(said)["token_ids"]]
        until(lambda: ends(running, history) == [boundary], "the answer was not kept")

        system = prompt(f"system {kind}", PROMPT)
        assert call(f"{running.url}/cache/warm", {"prompt": system}).status == 200
        warmed = (PROMPT - 1) // block * block
        until(lambda: ends(running, system) == [warmed], "the warmed prompt was not kept")
        until(lambda: pinned(running.url, system) == warmed, "it could not be pinned")

        common = prompt(f"common {kind}", PROMPT)
        parting = PROMPT // block * block
        for name in ("one", "two"):
            ask(running.url, model, [*common, *prompt(f"{name} {kind}", 2 * block)])
        if kind == "gdn":  # full attention goes on anywhere; of windows vLLM sees none part
            until(lambda: ends(running, common) == [parting], "no state was kept where they part")

        second = [*history, *prompt(f"second {kind}", 100)]
        own = choice(ask(running.url, model, second))
        restart(running, "west-decode")
        again = ask(running.url, model, second)
        assert loaded_tokens(again) == boundary, again.headers
        assert_same_or_near_tie(choice(again), own)
        if kind != "mla":
            assert choice(again)["token_ids"] == own["token_ids"]
        third = [*common, *prompt(f"three {kind}", 2 * block)]
        parted = ask(running.url, model, third)
        assert loaded_tokens(parted) == parting or kind == "sliding_window", parted.headers
        computed = ask(running.url, model, third, cache_salt="computed")
        assert not loaded_tokens(computed)
        assert_same_or_near_tie(choice(parted), choice(computed))
        behind = ask(running.url, model, [*system, *prompt(f"question {kind}", 100)])
        assert loaded_tokens(behind) == warmed, behind.headers


def has_prefix_cache(running: RunningDeployment) -> bool:
    """Whether the engine has one, as it says itself."""
    metrics = call(f"{running.engine('west-decode').url}/metrics").body.decode()
    return 'enable_prefix_caching="True"' in metrics


def ends(running: RunningDeployment, tokens: list[int]) -> list[int]:
    """Where parts that are wholly of these tokens end."""
    entries, key = cached(running.admin("west")), cache_key(running.deployment)
    assert key is not None
    if not entries:
        return []
    _, found = named(str(running.deployment.model.path), tokens, entries, KeyedPrefixes(key))
    return [entry.prefix.end_token for entry in found]


def pinned(url: str, ids: list[int]) -> int:
    """Tokens that stay at the agent, once the gateway knows that it has them."""
    answer = call(f"{url}/cache/pin", {"prompt": ids})
    return answer.json()["agents"]["west-agent"]["tokens"] if answer.status == 200 else 0
