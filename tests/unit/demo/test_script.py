"""The demo's script covers what it is meant to show."""

from prfaas.demo.script import STEPS


def test_the_demo_asks_what_it_promises() -> None:
    prompts = [prompt for step in STEPS for prompt in step]
    names = [prompt.name for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    assert len(prompts) >= 12
    assert len(set(names)) == len(names)
    assert any(len(step) > 1 for step in STEPS)  # some at once
    assert len(set(texts)) == len(texts) - 1  # one repeated
    assert [prompt.after for prompt in prompts if prompt.after] == ["a day"]  # one second turn
