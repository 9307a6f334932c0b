"""Delivers an end's events in order, from whichever thread is at hand, outside of its lock."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Event = TypeVar("Event")


class EventPump(Generic[Event]):
    """``deliver`` is called for each event of the queue, one at a time, in the order they were
    appended under ``guard``. Events appended while delivering are delivered by the same thread,
    so a callback may call back into the link."""

    def __init__(
        self,
        guard: AbstractContextManager[object],
        events: deque[Event],
        deliver: Callable[[Event], None],
    ) -> None:
        self._guard, self._events, self._deliver = guard, events, deliver
        self._delivering = False

    def drain(self) -> None:
        """Deliver what is queued, unless another thread is doing so."""
        if not self._events:
            return
        with self._guard:
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._guard:
                if not self._events:
                    self._delivering = False
                    return
                event = self._events.popleft()
            try:
                self._deliver(event)
            except Exception:
                log.exception("a callback of the KV link's user raised; the link goes on")
