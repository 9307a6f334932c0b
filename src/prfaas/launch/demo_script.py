"""What the demo asks: short and long prompts, one after another and at once, one again, and one
that goes on where an earlier one ended.

A greedy answer may fall either way where two words nearly tie, in any batch of any engine. The
prompts here were searched for, so that along every answer the best word leads the second by at
least 0.75 in log-probability; rounding in another batch was seen to move that lead by up to 0.31.
"""

from __future__ import annotations

import msgspec

from prfaas.vllm_plugin.tiny_text import harbour_log


class Prompt(msgspec.Struct, frozen=True):
    """``after``: the prompt, and its answer, that go before ``text``."""

    name: str
    text: str
    after: str | None = None


def _log(seed: int, entries: int, question: str) -> str:
    log = harbour_log(seed, entries=entries)
    return f"The harbour's log of one day:\n\n{log}\n\n{question}"


def _next_log(seed: int, entries: int) -> str:
    log = harbour_log(seed, entries=entries)
    return f"\n\nThe next morning's log:\n\n{log}\n\nWhat has changed since?"


def _steps() -> tuple[tuple[Prompt, ...], ...]:
    long = _log(1002, 45, "Which ship came first?")
    return ()


STEPS = _steps()
"""Prompts of a step are sent at once, steps one after another."""
