"""What the demo asks: short and long prompts, one after another and at once, one again, and one
that goes on where an earlier one ended.

A greedy answer may fall either way where two words nearly tie, in any batch of any engine. The
prompts here were searched for, so that along every answer the best word leads the second by at
least 0.75 in log-probability; rounding in another batch was seen to move that lead by up to 0.31.
"""

from __future__ import annotations

import msgspec

from prfaas.tiny_models.text import harbour_log


class Prompt(msgspec.Struct, frozen=True):
    """``after``: the prompt, and its answer, that go before ``text``."""

    name: str
    text: str
    after: str | None = None


def _log(seed: int, entries: int, question: str) -> str:
    log = harbour_log(seed, entries=entries)
    return f"The harbour's log of one day:\n\n{log}\n\n{question}"


_DAY = _log(1006, 150, "Who went ashore, and when?")
_NEXT_MORNING = (
    f"\n\nThe next morning's log:\n\n{harbour_log(2004, entries=45)}\n\nWhat has changed since?"
)

STEPS = (
    (Prompt("story", "Tell me a story about the ferry Kestrel, please."),),
    (Prompt("owner", "Who is the owner of the dredger Linnet?"),),
    (Prompt("other owner", "Who is the owner of the dredger Kestrel?"),),
    (Prompt("an hour", _log(5003, 18, "What was the weather like?")),),
    (Prompt("a morning", _log(6001, 45, "Which ship came first?")),),
    (Prompt("a day", _DAY),),
    (Prompt("the same day", _DAY),),
    (Prompt("and the next", _NEXT_MORNING, after="a day"),),
    (Prompt("a long day", _log(1007, 470, "What is the whole day's tale in one sentence?")),),
    (
        Prompt("at once 1", _log(3028, 90, "Which cargo was the heaviest?")),
        Prompt("at once 2", "Tell me a story about the trawler Marigold, please."),
        Prompt("at once 3", _log(4028, 60, "What should the night watch know?")),
        Prompt("at once 4", "Who is the owner of the barge Cormorant?"),
    ),
)
"""Prompts of a step are sent at once, steps one after another."""
