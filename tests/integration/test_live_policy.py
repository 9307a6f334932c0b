"""The default policy on real engines: many answers turn a prefill engine to decode, nothing is
lost, nothing is tried again, and every answer is right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.comparing import assert_same_or_near_tie, greedy
from prfaas.testing.measuring import prompt
from prfaas.testing.running import Answer, SecondGateway, call

pytestmark = pytest.mark.engine

AT_ONCE = 5
ANSWER_TOKENS = 120
"""Long enough to be under way together, and for a policy that looks once a second."""


def changes(url: str) -> str:
    lines = call(f"{url}/metrics").body.decode().splitlines()
    return "\n".join(x for x in lines if x.startswith("prfaas_gateway_role_changes_total"))


def test_answers_turn_a_prefill_engine_to_decode_and_nobody_notices(
    stacks: Any, tmp_path: Path
) -> None:
    stack = stacks.get("gdn")
    gateway = SecondGateway(
        stack.running, tmp_path / "auto", slots=2, policy="auto", threshold=None
    )
    with gateway:
        gateway.wait_until_ready()
        bodies = [
            greedy(stack.model, prompt(f"roles {n}", 300 + 900 * (n % 2)), max_tokens=ANSWER_TOKENS)
            for n in range(2 * AT_ONCE)
        ]
        answers: list[Answer] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in range(5):
                answers = list(
                    pool.map(lambda body: call(f"{gateway.url}/v1/completions", body), bodies)
                )
                if "decode" in changes(gateway.url):
                    break
        assert 'engine="west-prefill",role="decode"' in changes(gateway.url)
        for body, answer in zip(bodies, answers, strict=True):
            assert answer.status in (200, 429), answer.body
            if answer.status == 200:
                assert answer.headers["x-prfaas-attempts"] == "1"
                stock = call(f"{stack.plain.url}/v1/completions", body).json()["choices"][0]
                assert_same_or_near_tie(answer.json()["choices"][0], stock)
        served = [answer for answer in answers if answer.status == 200]
        assert len(served) >= AT_ONCE
        stacks.figures.append(
            f"policy auto: {len(served)} of {len(answers)} served by "
            f"{sorted({a.headers['x-prfaas-decode-engine'] for a in served})}, routes "
            f"{sorted({a.headers['x-prfaas-route'].partition(';')[0] for a in served})}"
        )
