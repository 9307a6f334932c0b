"""The demo's scripts cover what they are meant to show."""

import pytest

from prfaas.demo.script import LASTING_S, SCRIPTS, Script, fitting


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.long_tokens))
def test_the_demo_asks_what_it_promises(script: Script) -> None:
    prompts = [prompt for step in script.steps for prompt in step]
    names = [prompt.name for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    assert len(prompts) >= 12
    assert len(set(names)) == len(names)
    assert any(len(step) > 1 for step in script.steps)  # some at once
    assert len(set(texts)) == len(texts) - 1  # one repeated
    assert [prompt.after for prompt in prompts if prompt.after] == ["a day"]  # one second turn


@pytest.mark.parametrize("tokens_per_s", [1.0, 150.0, 500.0, 1000.0, 1500.0, 50_000.0])
def test_the_longest_prompt_that_does_not_last_too_long_is_asked(tokens_per_s: float) -> None:
    chosen = fitting(tokens_per_s)
    assert chosen.long_tokens / tokens_per_s <= LASTING_S or chosen is SCRIPTS[-1]
    longer = [script for script in SCRIPTS if script.long_tokens > chosen.long_tokens]
    assert all(script.long_tokens / tokens_per_s > LASTING_S for script in longer)


def test_a_fast_machine_gets_the_whole_day() -> None:
    assert fitting(6_000.0).long_tokens == 16_042
