"""How fast this machine prefills: lengths of prompts and bounds on answers follow from it.

A test that hits a prompt on its way needs one that takes seconds, on any machine; a test that
waits for an answer can only say how long that may take by what the same prompt takes undisturbed.
"""

from __future__ import annotations

import random
import time

import msgspec

from prfaas.testing.comparing import complete

_WARM_UP_TOKENS = 512
_LONG_ENOUGH_S = 1.5
"""A prompt that takes this long says enough: what is not prefill is a small part of it."""
_MOST_TOKENS = 8192


class Speed(msgspec.Struct, frozen=True):
    """``tokens_per_s``: prompt tokens that a running deployment prefills in a second, one prompt
    at a time, everything included that happens on the way to the first token."""

    tokens_per_s: float

    def tokens_lasting(self, lasting_s: float, *, least: int, most: int) -> int:
        """How long a prompt takes about ``lasting_s``; within ``least`` and ``most`` tokens."""
        return min(most, max(least, int(lasting_s * self.tokens_per_s)))


def prompt(seed: str, tokens: int) -> list[int]:
    """Token ids of plain words; the same seed gives the same ones."""
    return random.Random(seed).choices(range(300, 4000), k=tokens)


def measure(url: str, model: str | None) -> Speed:
    """Ask ``url``, an OpenAI endpoint that does nothing else meanwhile, prompts of growing length
    until one takes long enough to go by. Seconds on any machine."""
    seconds_for(url, model, _WARM_UP_TOKENS)
    tokens = 2 * _WARM_UP_TOKENS
    while (took_s := seconds_for(url, model, tokens)) < _LONG_ENOUGH_S and tokens < _MOST_TOKENS:
        tokens *= 2
    return Speed(tokens / took_s)


def seconds_for(url: str, model: str | None, tokens: int, *, answer_tokens: int = 1) -> float:
    """What one new prompt of this length takes from being asked to being answered."""
    ids = prompt(f"measured {time.monotonic_ns()}", tokens)
    began = time.monotonic()
    complete(url, model, ids, max_tokens=answer_tokens)
    return time.monotonic() - began
