"""The demo's scripts cover what they are meant to show, and end in time on any machine."""

import pytest

from prfaas.demo.script import LASTING_S, SCRIPTS, WHOLE_S, Script, Speed, fitting


@pytest.mark.parametrize("script", SCRIPTS[:4], ids=lambda script: str(script.long_tokens))
def test_the_demo_asks_what_it_promises(script: Script) -> None:
    prompts = [prompt for step in script.steps for prompt in step]
    names = [prompt.name for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    assert len(prompts) >= 12
    assert len(set(names)) == len(names)
    assert any(len(step) > 1 for step in script.steps)  # some at once
    assert len(set(texts)) == len(texts) - 1  # one repeated
    assert [prompt.after for prompt in prompts if prompt.after] == ["a day"]  # one second turn


@pytest.mark.parametrize("script", SCRIPTS[4:], ids=lambda script: str(len(script.prompts)))
def test_what_is_left_out_leaves_the_point(script: Script) -> None:
    names = [prompt.name for prompt in script.prompts]
    # One that is answered at once, one that is offloaded, and the same from the cache.
    assert {"story", "a day", "the same day"} <= set(names)
    assert all(
        p.after is None or names.index(p.after) < names.index(p.name) for p in script.prompts
    )
    whole = {prompt.text for prompt in SCRIPTS[3].prompts}
    assert all(prompt.text in whole for prompt in script.prompts)


def test_scripts_are_ever_shorter() -> None:
    tokens = [script.computed_tokens for script in SCRIPTS]
    assert tokens == sorted(tokens, reverse=True)
    # By the tokens of the longest text, which are known.
    assert tokens[0] == pytest.approx(30_014, rel=0.03)


@pytest.mark.parametrize("tokens_per_s", [40.0, 60.0, 150.0, 350.0, 500.0, 1000.0, 50_000.0])
def test_the_longest_script_that_is_over_in_time_is_asked(tokens_per_s: float) -> None:
    speed = Speed(tokens_per_s, 20.0)
    chosen = fitting(speed)
    assert chosen.lasts_s(speed) <= WHOLE_S
    longer = SCRIPTS[: SCRIPTS.index(chosen)]
    assert all(
        script.lasts_s(speed) > WHOLE_S or script.long_tokens / tokens_per_s > LASTING_S
        for script in longer
    )


@pytest.mark.parametrize(
    ("tokens_per_s", "left_s", "prompts"), [(210, 120, 13), (100, 120, 5), (100, 60, 3), (1, 1, 3)]
)
def test_prompts_are_left_out_only_for_want_of_time(
    tokens_per_s: float, left_s: float, prompts: int
) -> None:
    assert len(fitting(Speed(tokens_per_s, 50.0), left_s=left_s).prompts) == prompts


def test_a_fast_machine_gets_the_whole_day() -> None:
    assert fitting(Speed(6_000.0, 200.0)).long_tokens == 15_883
