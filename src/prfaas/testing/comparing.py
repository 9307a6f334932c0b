"""Greedy completions, and when two of them count as the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prfaas.testing.calling import call

NEAR_TIE = 0.5
"""Nats between a tiny model's best two tokens below which rounding may choose either: batches
mixed in another way moved its logprobs by up to 0.31."""

ANSWER_TOKENS = 16


def greedy(model: str | None, prompt: str | list[int], **more: Any) -> dict[str, Any]:
    """A request for `ANSWER_TOKENS` and all that `assert_same_or_near_tie` looks at."""
    return {
        "model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0,
        "logprobs": 2, "return_token_ids": True, "ignore_eos": True, **more,
    }  # fmt: skip


def complete(
    url: str, model: str | None, prompt: str | list[int], **more: Any
) -> tuple[dict[str, Any], str]:
    """The answer's first choice, and the route it took (empty from an engine)."""
    answer = call(f"{url}/v1/completions", greedy(model, prompt, **more))
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0], answer.headers.get("x-prfaas-route", "")


def complete_both(
    ours: str, stock: str, model: str | None, prompt: str | list[int]
) -> tuple[tuple[dict[str, Any], str], tuple[dict[str, Any], str]]:
    """`complete` of two servers at once, which compute beside each other."""
    with ThreadPoolExecutor(1) as one:
        asked = one.submit(complete, ours, model, prompt)
        wanted = complete(stock, model, prompt)
        return asked.result(), wanted


def assert_same_or_near_tie(
    ours: dict[str, Any], stock: dict[str, Any], *, near_tie: float = NEAR_TIE
) -> None:
    """Two completion choices (with ``return_token_ids`` and ``logprobs: 2``) are equal, or differ
    first where the stock engine's best two tokens nearly tie. What follows then is another text."""
    assert len(ours["token_ids"]) == len(stock["token_ids"])
    pairs = zip(ours["token_ids"], stock["token_ids"], strict=True)
    first = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
    if first is not None:
        best, second = sorted(stock["logprobs"]["top_logprobs"][first].values())[::-1][:2]
        assert best - second < near_tie, f"token {first} differs at a margin of {best - second}"


def assert_close(ours: dict[str, Any], stock: dict[str, Any], *, within: float) -> None:
    """Two completion choices have the same tokens, whose log-probabilities differ by at most
    ``within`` nats."""
    assert ours["token_ids"] == stock["token_ids"]
    pairs = zip(
        ours["logprobs"]["token_logprobs"], stock["logprobs"]["token_logprobs"], strict=True
    )
    furthest = max(abs(a - b) for a, b in pairs)
    assert furthest <= within, f"log-probabilities differ by {furthest}"
