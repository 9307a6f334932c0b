"""Drives the pool: the agent's one lock, and the order in which effects are carried out.

Theory of operation. Engine messages, HTTP and timers run on the event loop's thread; the KV link
calls back from its own threads. Whoever has an event gives it to the pool under the lock, which is
held for the pool's bookkeeping and nothing else. What is to be done goes into one queue under the
same lock, and the event loop alone empties it: effects are carried out one at a time, in the order
the pool gave them, without the lock. So the link is never called with it held (it may hold a lock
of its own while it calls us), and what an effect leads to queues behind it.

All that others see of the pool are views made under the lock, in which nothing changes any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

from prfaas.core.gateway_sessions import Renewal, Standing
from prfaas.pool.books import PoolSnapshot, SpilledTransfer
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceCached,
    Answer,
    AnyEffect,
    CopySlot,
    HandedOver,
    RefuseOffer,
    ReportFailure,
    ReportLapse,
    ServeLeases,
)
from prfaas.pool.events import (
    AnyEvent,
    GatewayRenewed,
    LeasesCameDue,
    OfferReceived,
    SlotCopied,
)
from prfaas.pool.pool import Pool
from prfaas.pool.records import TransferView

log = logging.getLogger(__name__)
_LINES_A_SECOND = 100

Kind = TypeVar("Kind", bound=AnyEffect)


class PoolDriver:
    """One per agent. Parts of the agent say with `carry_out` what they do for the pool.

    Args:
        post: ``post(f)`` runs ``f()`` on the event loop soon; may be called from any thread.
        copy: ``copy(source, target, length)`` copies inside the arena (offsets, bytes).
        monotonic, unix_time: the clocks, in seconds.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        post: Callable[[Callable[[], None]], object],
        copy: Callable[[int, int, int], None],
        monotonic: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._pool, self._post, self._copy = pool, post, copy
        self._monotonic, self._unix_time = monotonic, unix_time
        self._lock = threading.Lock()
        self._queue: deque[AnyEffect] = deque()
        self._carrying_out = False
        self._posted = False
        self._ways: dict[type, Callable[[Any], None]] = {}
        self.carry_out(CopySlot, self._copy_slot)
        self.carry_out(ServeLeases, lambda _: self.handle(LeasesCameDue()))
        self.carry_out(ReportFailure, _FailureLog(self._monotonic))
        self.carry_out(ReportLapse, _log_lapse)
        self.carry_out(HandedOver, lambda _: None)

    def carry_out(self, kind: type[Kind], way: Callable[[Kind], None]) -> None:
        """``way`` is called on the event loop for every effect of this kind."""
        self._ways[kind] = way

    def handle(self, event: AnyEvent) -> None:
        """On the event loop. What follows is done when this returns; if this was called while an
        effect is carried out, soon after. Raises EngineError for what an engine may not say."""
        with self._lock:
            self._queue += self._pool.handle(event, now=self._monotonic())
        if self._queue:
            self._carry_out_all()

    def report(self, event: AnyEvent) -> None:
        """From any thread, and up to 10,000 times a second; the event loop does what follows."""
        with self._lock:
            effects = self._pool.handle(event, now=self._monotonic())
            if effects:
                self._queue += effects
        if effects and not self._posted:
            self._post_once()

    def ask(self, event: OfferReceived) -> Answer:
        """From any thread: like `report`, and returns the pool's answer."""
        answers: list[Answer] = []
        with self._lock:
            for effect in self._pool.handle(event, now=self._monotonic()):
                if isinstance(effect, AcceptOffer | RefuseOffer):
                    answers.append(effect)
                else:
                    self._queue.append(effect)
        if self._queue and not self._posted:
            self._post_once()
        (answer,) = answers
        return answer

    def snapshot(self) -> PoolSnapshot:
        """From any thread: everything that is counted, at one moment."""
        with self._lock:
            return self._pool.snapshot()

    def transfer(self, transfer_id: str, *, ranks: int) -> tuple[TransferView, bool]:
        """From any thread: a transfer at one moment, and whether waiting can change nothing."""
        unix_at_zero = self._unix_time() - self._monotonic()
        with self._lock:
            return self._pool.transfer(transfer_id, ranks=ranks, unix_at_zero=unix_at_zero)

    def cached(self) -> list[AnnounceCached]:
        """From any thread: all that is cached at one moment, as it was announced."""
        with self._lock:
            return self._pool.cached()

    def on_disk(self) -> tuple[SpilledTransfer, ...]:
        """From any thread: every file, in memory too or not, the least recently used first. There
        may be many: not for what is asked often."""
        with self._lock:
            return self._pool.disk.views()

    def renew(self, session_id: str, renewal: Renewal) -> Standing:
        """On the event loop: a gateway lives; what it may have here. Raises CapacityError."""
        self.handle(GatewayRenewed(session_id, renewal))
        with self._lock:
            return self._pool.standing(session_id, now=self._monotonic())

    def standing(self) -> Standing:
        """From any thread: which gateways have a session here."""
        with self._lock:
            return self._pool.standing("", now=self._monotonic())

    def check_integrity(self) -> None:
        """From any thread. Raises InvariantError where the bookkeeping contradicts itself."""
        with self._lock:
            self._pool.check_integrity()

    def _post_once(self) -> None:
        self._posted = True
        self._post(self._carry_out_posted)

    def _carry_out_posted(self) -> None:
        self._posted = False  # before the queue is emptied: what comes later is posted again
        self._carry_out_all()

    def _carry_out_all(self) -> None:
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._queue:
                effect = self._queue.popleft()
                try:
                    self._ways[type(effect)](effect)
                except Exception:
                    log.exception("a fault of ours: %s could not be carried out", effect)
        finally:
            self._carrying_out = False

    def _copy_slot(self, effect: CopySlot) -> None:
        for copy in effect.copies:
            self._copy(*copy)
        self.handle(SlotCopied(effect.key, effect.slot))


def _log_lapse(effect: ReportLapse) -> None:
    log.warning("gateway session=%s is silent and taken for dead: %d of its transfers are dropped",
                effect.session_id, effect.transfers)  # fmt: skip


class _FailureLog:
    """A line for each, but no more than `_LINES_A_SECOND`: a peer may have as many offers refused
    as it sends. The others are counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, -inf
        self._said = self._left_out = 0

    def __call__(self, effect: ReportFailure) -> None:
        now = self._clock()
        if now - self._since >= 1.0:
            if self._left_out:
                log.warning("%d more transfers failed in a second", self._left_out)
            self._since, self._said, self._left_out = now, 0, 0
        if self._said < _LINES_A_SECOND:
            self._said += 1
            _log_failure(effect)
        else:
            self._left_out += 1


def _log_failure(effect: ReportFailure) -> None:
    level = logging.WARNING if effect.what == "offer" else logging.INFO
    context = effect.context
    request = "" if context is None else f" request={context.request_id} attempt={context.attempt}"
    extra = {"transfer_id": effect.transfer.split(" ", 1)[0]}
    if context is not None:
        extra |= {"request_id": context.request_id, "attempt": str(context.attempt)}
    log.log(level, "%s failed transfer=%s%s%s: %s",
            effect.what, effect.transfer, request, effect.party, effect.reason,
            extra=extra)  # fmt: skip
