"""An engine's stream of server-sent events, cut where an event ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from prfaas.core.errors import EngineError
from prfaas.gateway.http_answer import Answer
from prfaas.gateway.upstream_errors import CONNECTION_ERRORS, engine_error
from prfaas.gateway.usage import before_counts

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
"""An event ends with an empty line, and a line in either way."""
_EVENT_END = re.compile(rb"\n\n|\r\n\r\n")
_LONGEST_EVENT = 1 << 20
"""Bytes. What is longer (the logprobs of a whole prompt) is passed on in pieces as it comes."""
_SILENCE_S = 60.0
"""How long an engine may say nothing in the middle of an answer. A step takes well below a second;
but a sequence that was preempted waits until others end."""


class EventStream:
    """Whole events as they come.

    Args:
        engine: its name, for errors.
        on_heard: called whenever the engine has said something.
    """

    def __init__(self, engine: str, answer: Answer, *, on_heard: Callable[[], None]) -> None:
        self._engine = engine
        self._answer = answer
        self._on_heard = on_heard
        self._held = b""
        """An event of which the end has not come yet."""
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._silent = False
        self.torn = False
        """Whether the stream ended in the middle of an event: what `next` returned last."""
        self.whole = True
        """Whether what `next` returned last ends where an event ends."""

    async def first(self) -> bytes:
        """As `next`, without the comments that vLLM may send while nothing else is to be said."""
        begins = self.whole
        while events := await self.next():
            if found := _without_comments(events) if begins else events:
                return found
            begins = self.whole
        return b""

    def watch(self) -> None:
        """From now on silence is an error; `close` ends the watch."""
        self._watch = self._loop.call_later(_SILENCE_S, self._look)

    def close(self) -> None:
        """No more events are wanted."""
        if self._watch is not None:
            self._watch.cancel()

    async def next(self) -> bytes:
        """The whole events that have come, one at least; empty at the end. Raises EngineError where
        the stream broke off, or fell silent while it was watched."""
        while True:
            come = await self._read()
            if not self._held and come.endswith(_EVENT_ENDS):
                self.whole = True
                return come  # As nearly always.
            events = self._cut(come)
            if events or not come:
                return events

    async def _read(self) -> bytes:
        self._waiting_since = self._loop.time()
        try:
            come = await self._answer.read_any()
        except CONNECTION_ERRORS as error:
            if self._silent:
                raise EngineError(
                    f"{self._engine} said nothing for {_SILENCE_S:g} s in its answer"
                ) from error
            failure = engine_error(self._engine, error)
            raise type(failure)(f"{self._engine} broke off: {failure}") from error
        finally:
            self._waiting_since = None
        self._on_heard()
        return come

    def _look(self) -> None:
        """One timer for the whole stream: it costs an event nothing but its time."""
        since = self._waiting_since
        left_s = _SILENCE_S if since is None else since + _SILENCE_S - self._loop.time()
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._look)
        else:
            self._silent = True
            self._answer.close()  # Whoever reads is told so.

    def _cut(self, come: bytes) -> bytes:
        """What can go out now that these bytes have come; empty: it is the end."""
        seen, here = len(self._held), self._held + come
        end = max(_end_of_last(here, mark, seen) for mark in _EVENT_ENDS)
        self.whole = end > 0
        if end == 0 and not come:
            end = len(here)
            self.torn = end > 0
        elif end == 0 and len(here) > _LONGEST_EVENT:
            end = before_counts(here)
        self._held = here[end:]
        return here[:end]


def _end_of_last(here: bytes, mark: bytes, seen: int) -> int:
    """Where the last event ends; none ends before ``seen``. 0: none ends at all."""
    last = here.rfind(mark, max(0, seen - len(mark) + 1))
    return 0 if last < 0 else last + len(mark)


def _without_comments(events: bytes) -> bytes:
    """From the first event on that is none."""
    at = 0
    while events.startswith(b":", at):
        end = _EVENT_END.search(events, at)
        if end is None:
            return b""
        at = end.end()
    return events[at:]
