"""One engine: a first-come-first-served prefill queue and a continuously batched decode.

Theory of operation. Prefill is chunked, one prompt after the other: alone, a prompt of L uncached
tokens takes the profile's T_prefill(L). Decode advances every sequence of the batch one token per
step, T_decode(b) seconds for b sequences. An engine that does both divides its time: b sequences
use b/B of it (B: the batch bound), prefill gets the rest, and never less than ``prefill_floor`` of
it while prompts wait (decode then slows down). That linear division is what a fluid optimum with
divisible nodes assumes; chunked prefill beside a memory-bound decode does no worse in practice.

Between events everything is linear in time, so there is one event per prompt and per first or last
token, none per chunk or step: ``_tokens`` counts the tokens every running sequence has gained since
the engine began, and a sequence ends when that counter reaches its target.

Admission to the batch is bounded by KV memory (prompt and output tokens of all running sequences);
who does not fit waits. The scheduler bounds the number of sequences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from prfaas.sim.clock import PRIORITY_WORK, Clock

_TOKENS_ROUNDING, _SECONDS_ROUNDING = 1e-6, 1e-8


class Task:
    """Work for an engine: the prefill of an attempt, its decode, or (direct) one after the other.

    ``prefill_s`` None: nothing to prefill. It is set when the prefill starts.
    """

    __slots__ = (
        "attempt", "cancelled", "job", "kv_tokens", "load_s", "output", "prefill", "prefill_s",
    )  # fmt: skip

    def __init__(
        self,
        job: object,
        attempt: int,
        *,
        prefill: bool,
        output: int,
        kv_tokens: int,
        load_s: float = 0.0,
    ):
        self.job = job
        self.attempt = attempt
        self.prefill = prefill
        self.prefill_s = 0.0
        self.output = output
        """Tokens to decode here; 0: prefill only."""
        self.kv_tokens = kv_tokens
        self.load_s = load_s
        """Before it can be decoded, its KV cache is loaded for so long."""
        self.cancelled = False


class EngineListener(Protocol):
    """Whoever runs the engine."""

    def prefill_seconds(self, engine: Engine, task: Task) -> float:
        """A prefill starts now: how long it takes at full speed."""

    def prefill_done(self, engine: Engine, task: Task) -> None:
        """A prefill has ended."""

    def first_token(self, engine: Engine, task: Task) -> None:
        """The first token of an answer is out."""

    def decode_done(self, engine: Engine, task: Task) -> None:
        """The last one is."""


class Engine:
    """``step_seconds(b)``: T_decode; None where the engine never decodes."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        listener: EngineListener,
        *,
        max_batch: int,
        step_seconds: Callable[[int], float] | None,
        kv_tokens: float = inf,
        prefill_floor: float = 0.1,
    ) -> None:
        self.name = name
        self._clock = clock
        self._listener = listener
        self._max_batch = max_batch
        self._step_of = [inf] + [
            0.0 if step_seconds is None else step_seconds(b) for b in range(1, max_batch + 1)
        ]
        self._kv_bound = kv_tokens
        self._floor = prefill_floor
        self.prefill_busy_s = self.decode_slot_s = 0.0
        self._since = 0.0
        self._tokens = 0.0
        self._clear()
        self._version = 0

    def _clear(self) -> None:
        self._prefills: deque[Task] = deque()
        self._head: Task | None = None
        self._head_left_s = 0.0
        self._targets: list[tuple[float, int, Task, bool]] = []
        self._sequence = 0
        self._batch: dict[Task, None] = {}
        self._admission: deque[Task] = deque()
        self._loading: dict[Task, None] = {}
        self._kv_used = 0
        self._share = self._token_rate = 0.0
        self._due_at = inf

    @property
    def batch(self) -> int:
        """Sequences that decode now."""
        return len(self._batch)

    def submit(self, task: Task) -> None:
        """Prefill first if the task says so, then (``output`` > 0) decode."""
        self._advance()
        if task.prefill:
            self._prefills.append(task)
            self._start_prefill()
        elif task.load_s:
            self._loading[task] = None
            self._clock.at(self._clock.now + task.load_s, self._loaded, task, PRIORITY_WORK)
        else:
            self._admission.append(task)
            self._admit()
        self._plan()

    def _loaded(self, task: Task) -> None:
        if task not in self._loading:
            return  # Cancelled, or the engine died under it.
        del self._loading[task]
        self._advance()
        self._admission.append(task)
        self._admit()
        self._plan()

    def cancel(self, task: Task) -> None:
        """Stop it wherever it stands; nothing is reported."""
        self._advance()
        task.cancelled = True
        self._loading.pop(task, None)
        if task is self._head:
            self._head = None
            self._start_prefill()
        elif task in self._batch:
            self._leave(task)
            self._admit()
        self._plan()

    def fail(self) -> None:
        """The engine dies: everything on it is gone."""
        self._advance()
        self._version += 1
        self._clear()

    def settle(self) -> None:
        """Bring the busy counters up to now."""
        self._advance()
        self._plan()

    def _advance(self) -> None:
        now = self._clock.now
        elapsed = now - self._since
        if elapsed > 0:
            if self._head is not None:
                self._head_left_s -= self._share * elapsed
                self.prefill_busy_s += self._share * elapsed
            if self._batch:
                self._tokens += self._token_rate * elapsed
                self.decode_slot_s += len(self._batch) * elapsed
            self._since = now

    def _plan(self) -> None:
        """Divide the engine's time anew, and find when something is next due."""
        batch = len(self._batch)
        due = inf
        rate = 1.0 / self._step_of[batch]
        if self._head is not None:
            share = 1.0
            if batch:
                used = batch / self._max_batch
                share = max(1.0 - used, self._floor)
                rate *= min(1.0, (1.0 - share) / used)
            self._share = share
            due = self._clock.now + self._head_left_s / share
        self._token_rate = rate
        if batch:
            while self._targets[0][2].cancelled:
                heappop(self._targets)
            due = min(due, self._clock.now + (self._targets[0][0] - self._tokens) / rate)
        if not -_SECONDS_ROUNDING < due - self._due_at < _SECONDS_ROUNDING:
            self._version += 1
            self._due_at = due
            if due < inf:
                self._clock.at(due, self._wake, self._version, PRIORITY_WORK)

    def _wake(self, version: int) -> None:
        if version != self._version:
            return
        self._due_at = inf
        self._advance()
        head = self._head
        if head is not None and self._head_left_s <= _SECONDS_ROUNDING:
            self._head = None
            if head.output:
                self._admission.append(head)
            self._listener.prefill_done(self, head)
            self._start_prefill()
            self._admit()
        self._deliver()
        self._plan()

    def _deliver(self) -> None:
        """First and last tokens that are due."""
        reached = self._tokens + _TOKENS_ROUNDING
        targets = self._targets
        while targets and targets[0][0] <= reached:
            _, _, task, first = heappop(targets)
            if task.cancelled:
                continue
            if first:
                self._first_token(task)
            else:
                self._leave(task)
                self._listener.decode_done(self, task)
        self._admit()

    def _start_prefill(self) -> None:
        while self._head is None and self._prefills:
            task = self._prefills.popleft()
            if not task.cancelled:
                self._head = task
                self._head_left_s = task.prefill_s = self._listener.prefill_seconds(self, task)

    def _admit(self) -> None:
        """Into the batch, in order, while KV memory lasts."""
        waiting = self._admission
        while waiting and (
            waiting[0].cancelled
            or not self._batch
            or self._kv_used + waiting[0].kv_tokens <= self._kv_bound
        ):
            task = waiting.popleft()
            if task.cancelled:
                continue
            self._batch[task] = None
            self._kv_used += task.kv_tokens
            if task.prefill:
                self._first_token(task)  # The prefill's own product.
            else:
                self._target(task, 1, first=True)

    def _first_token(self, task: Task) -> None:
        self._listener.first_token(self, task)
        if task.cancelled:
            return
        if task.output > 1:
            self._target(task, task.output - 1, first=False)
        else:
            self._leave(task)
            self._listener.decode_done(self, task)

    def _target(self, task: Task, tokens: int, *, first: bool) -> None:
        self._sequence += 1
        heappush(self._targets, (self._tokens + tokens, self._sequence, task, first))

    def _leave(self, task: Task) -> None:
        del self._batch[task]
        self._kv_used -= task.kv_tokens
