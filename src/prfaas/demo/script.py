"""What the demo asks: short and long prompts, one after another and at once, one again, and one
that goes on where an earlier one ended. How long they are depends on how fast the machine is, and
on a very slow one some are left out: the whole is to be over within `WHOLE_S`.

A greedy answer may fall either way where two words nearly tie, in any batch of any engine. The
prompts here were searched for, with the model's weights of now: on a CPU the best word leads the
second by at least 0.43 in log-probability along every answer, and rounding in another batch was
seen to move leads by up to 0.31. Other weights ask for other prompts.
"""

from __future__ import annotations

import msgspec

from prfaas.tiny_models.text import harbour_log


class Prompt(msgspec.Struct, frozen=True):
    """``after``: the prompt, and its answer, that go before ``text``."""

    name: str
    text: str
    after: str | None = None


class Script(msgspec.Struct, frozen=True):
    """Prompts of a step are sent at once, steps one after another. ``long_tokens``: how many the
    longest prompt has that nothing is known of before."""

    long_tokens: int
    steps: tuple[tuple[Prompt, ...], ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All of them, in order."""
        return tuple(prompt for step in self.steps for prompt in step)

    @property
    def computed_tokens(self) -> float:
        """About how many tokens an engine that caches prefixes computes for it."""
        return sum(map(len, {prompt.text for prompt in self.prompts})) / _CHARACTERS_PER_TOKEN

    def lasts_s(self, speed: Speed) -> float:
        """About how long it takes to ask all of it twice: the deployment, and the plain engine."""
        prefill_s = self.computed_tokens / speed.prompt_tokens_per_s * _SLOWER
        answers_s = len(self.prompts) * ANSWER_TOKENS / speed.answer_tokens_per_s
        return 2 * (prefill_s + answers_s)


class Speed(msgspec.Struct, frozen=True):
    """How fast one engine is that has this machine for itself."""

    prompt_tokens_per_s: float
    answer_tokens_per_s: float


class _Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Which logs the prompts are about: a seed, and how many entries of about 34 tokens."""

    hour: tuple[int, int]
    morning: tuple[int, int]
    day: tuple[int, int]
    next_morning: tuple[int, int]
    long_day: tuple[int, int]
    at_once_1: tuple[int, int]
    at_once_3: tuple[int, int]


_LOGS = {
    15_883: _Logs(
        hour=(1100, 18),
        morning=(6058, 45),
        day=(1004, 150),
        next_morning=(2040, 45),
        long_day=(5020, 470),
        at_once_1=(3003, 90),
        at_once_3=(4267, 60),
    ),
    7_860: _Logs(
        hour=(1100, 18),
        morning=(6005, 36),
        day=(1023, 90),
        next_morning=(2004, 36),
        long_day=(5002, 235),
        at_once_1=(3040, 60),
        at_once_3=(4034, 45),
    ),
    3_896: _Logs(
        hour=(1029, 12),
        morning=(6009, 34),
        day=(1036, 45),
        next_morning=(2018, 36),
        long_day=(5000, 118),
        at_once_1=(3084, 45),
        at_once_3=(4000, 36),
    ),
    2_064: _Logs(
        hour=(1054, 10),
        morning=(6090, 33),
        day=(1021, 36),
        next_morning=(2017, 36),
        long_day=(5015, 60),
        at_once_1=(3091, 36),
        at_once_3=(4039, 34),
    ),
}
"""By the long prompt's length. Where prompts are shorter, those that are to be offloaded still have
more than the threshold's 1,024 tokens."""

LASTING_S = 10.0
"""The long prompt should take no longer than this: on a slow machine it is a shorter one."""
WHOLE_S = 120.0
"""So should everything after the processes are up."""
ANSWER_TOKENS = 16
_CHARACTERS_PER_TOKEN = 4.2
_SLOWER = 1.25
"""So many times as long as by the measured speed: long prompts, hand-offs, other processes."""


def _log(seed_and_entries: tuple[int, int], question: str) -> str:
    seed, entries = seed_and_entries
    log = harbour_log(seed, entries=entries)
    return f"The harbour's log of one day:\n\n{log}\n\n{question}"


def _steps(logs: _Logs) -> tuple[tuple[Prompt, ...], ...]:
    day = _log(logs.day, "Who went ashore, and when?")
    seed, entries = logs.next_morning
    next_morning = (
        f"\n\nThe next morning's log:\n\n{harbour_log(seed, entries=entries)}\n\n"
        "What has changed since?"
    )
    return (
        (Prompt("story", "Tell me a story about the cutter Marigold, please."),),
        (Prompt("owner", "Who is the owner of the pilot Avocet?"),),
        (Prompt("other owner", "Who is the owner of the collier Wigeon?"),),
        (Prompt("an hour", _log(logs.hour, "What was the weather like?")),),
        (Prompt("a morning", _log(logs.morning, "Which ship came first?")),),
        (Prompt("a day", day),),
        (Prompt("the same day", day),),
        (Prompt("and the next", next_morning, after="a day"),),
        (
            Prompt(
                "a long day", _log(logs.long_day, "What is the whole day's tale in one sentence?")
            ),
        ),
        (
            Prompt("at once 1", _log(logs.at_once_1, "Which cargo was the heaviest?")),
            Prompt("at once 2", "Tell me a story about the barge Gannet, please."),
            Prompt("at once 3", _log(logs.at_once_3, "What should the night watch know?")),
            Prompt("at once 4", "Where is the collier Cormorant bound?"),
        ),
    )


def _without_most(script: Script, names: frozenset[str], long_tokens: int) -> Script:
    steps = (tuple(p for p in step if p.name in names) for step in script.steps)
    return Script(long_tokens, tuple(step for step in steps if step))


_WHOLE = tuple(Script(tokens, _steps(logs)) for tokens, logs in _LOGS.items())
_FEW = frozenset({"story", "an hour", "a day", "the same day", "and the next"})
_FEWEST = frozenset({"story", "a day", "the same day"})
SCRIPTS = (
    *_WHOLE,
    _without_most(_WHOLE[-1], _FEW, long_tokens=1_250),
    _without_most(_WHOLE[-1], _FEWEST, long_tokens=1_250),
)
"""From the longest to the shortest; the last two leave prompts out."""

MEASURING = (_log((9001, 10), "How long is this?"), _log((9002, 33), "And how long is this?"))
"""Asked first, to see how fast the machine is: one to warm up, one of about 1,130 tokens."""


def fitting(speed: Speed, *, left_s: float = WHOLE_S) -> Script:
    """The longest script that is over within ``left_s`` and whose long prompt lasts at most
    `LASTING_S`. That matters less than to ask all prompts, and that less than the time."""
    in_time = [script for script in SCRIPTS if script.lasts_s(speed) <= left_s]
    everything = [script for script in in_time if script in _WHOLE]
    quick = (s for s in everything if s.long_tokens / speed.prompt_tokens_per_s <= LASTING_S)
    return next(quick, (everything[-1:] or in_time or [SCRIPTS[-1]])[0])
