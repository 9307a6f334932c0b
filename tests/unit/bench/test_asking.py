"""Prompts of a workload's lengths, which share what the workload's share."""

from __future__ import annotations

from prfaas.bench.asking import Prompts, fitted
from prfaas.workload.requests import Workload

WORKLOAD = Workload(
    arrivals=[0.0, 1.5, 2.0],
    prompts=[25, 30, 10],
    outputs=[3, 4, 5],
    blocks=[[7, 8], [7, 9, 4], []],
    block_tokens=10,
)


def test_prompts_share_the_blocks_that_the_trace_shares() -> None:
    prompts = Prompts(WORKLOAD, "completions", seed=1)
    first, second, third = (prompts[n] for n in range(3))
    assert [len(p.prompt) for p in (first, second, third)] == [25, 30, 10]
    assert first.prompt[:10] == second.prompt[:10]
    assert first.prompt[10:20] != second.prompt[10:20]
    assert (second.at, second.output_tokens) == (1.5, 4)


def test_a_seed_asks_the_same_again_and_another_one_does_not() -> None:
    one, again, other = (Prompts(WORKLOAD, "completions", seed)[0].prompt for seed in (1, 1, 2))
    assert one == again != other


def test_a_chat_is_asked_in_words() -> None:
    asked = Prompts(WORKLOAD, "chat", seed=1)[2]
    assert isinstance(asked.prompt, str)
    assert len(asked.prompt.split()) == 10
    body = asked.body("m", "chat")
    assert body["messages"] == [{"role": "user", "content": asked.prompt}]
    assert (body["max_tokens"], body["stream"], body["ignore_eos"]) == (5, True, True)


def test_what_a_model_cannot_take_is_cut_and_told() -> None:
    cut, share = fitted(WORKLOAD, 20)
    assert (list(cut.prompts), share) == ([17, 16, 10], 2 / 3)
    assert fitted(WORKLOAD, 100)[1] == 0.0
    tiny, _ = fitted(WORKLOAD, 2)
    assert (list(tiny.prompts), list(tiny.outputs)) == ([1, 1, 1], [1, 1, 1])
