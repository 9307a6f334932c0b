"""The lines of a world: which hand-off crosses which, and what lines report to the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from prfaas.scheduler.commands import StartPrefill
from prfaas.scheduler.events import LinkStateChanged, TransferProgressed
from prfaas.sim.clock import PRIORITY_ALARM, PRIORITY_FAULT, Clock
from prfaas.sim.line import Flow, Line
from prfaas.sim.world import LineModel, World

LineNews = LinkStateChanged | TransferProgressed


class Network:
    """``cluster_of``: engine -> cluster. ``tell`` takes what lines report, ``on_arrived`` the
    (request id, attempt) of a hand-off whose last byte is there."""

    def __init__(
        self,
        clock: Clock,
        world: World,
        cluster_of: Mapping[str, str],
        tell: Callable[[LineNews], None],
        on_arrived: Callable[[tuple[str, int]], None],
    ) -> None:
        self._clock = clock
        self._world = world
        self._cluster_of = cluster_of
        self._tell = tell
        self.lines: dict[tuple[str, str], Line] = {}
        for model in world.lines:
            self.lines[model.source, model.target] = Line(
                clock,
                rate_bytes_per_s=model.rate_bytes_per_s,
                rtt_s=model.rtt_s,
                loss=model.loss,
                connections=model.connections,
                on_arrived=on_arrived,
            )
            for at, rate in model.changes:
                clock.at(at, self._change, (model, rate), PRIORITY_FAULT)
            if world.link_report_s is not None:
                clock.at(0.0, self._report_periodically, model, PRIORITY_ALARM)

    def line_of(self, start: StartPrefill) -> Line | None:
        """The line that this hand-off crosses; None inside a cluster."""
        source, target = self._cluster_of[start.engine], self._cluster_of[start.decode_engine]
        return None if source == target else self.lines[source, target]

    def open(self, start: StartPrefill, held: int, seconds: float) -> None:
        """Its prefill has begun and takes ``seconds``; ``held`` tokens were cached there."""
        line = self.line_of(start)
        if line is None:
            return
        kv_bytes, state = self._world.costs.kv_bytes, self._world.state_bytes
        total = kv_bytes(start.from_token, start.to_token)
        cached = 0.0
        if held > start.from_token:
            cached = kv_bytes(start.from_token, min(held, start.to_token)) - state
        key = (start.request_id, start.attempt)
        line.open(Flow(key, cached, total - state - cached, state, seconds))

    def produced(self, start: StartPrefill) -> None:
        """Its prefill has ended."""
        line = self.line_of(start)
        if line is not None:
            line.produced((start.request_id, start.attempt))

    def cancel(self, start: StartPrefill) -> None:
        """Nobody waits for its hand-off any more."""
        line = self.line_of(start)
        if line is not None:
            line.cancel((start.request_id, start.attempt))

    def _change(self, change: tuple[LineModel, float]) -> None:
        model, rate = change
        self.lines[model.source, model.target].set_rate(rate)
        self._report(model)

    def _report_periodically(self, model: LineModel) -> None:
        self._report(model)
        for request_id, attempt in self.lines[model.source, model.target].moving():
            self._tell(TransferProgressed(request_id, attempt))
        period = self._world.link_report_s
        assert period is not None
        self._clock.at(self._clock.now + period, self._report_periodically, model, PRIORITY_ALARM)

    def _report(self, model: LineModel) -> None:
        line = self.lines[model.source, model.target]
        waiting_s = line.backlog_bytes / line.rate if line.rate else inf
        self._tell(
            LinkStateChanged(
                model.source,
                model.target,
                up=line.rate > 0,
                rate_bytes_per_s=line.rate,
                utilisation=line.utilisation,
                congestion=min(1.0, waiting_s),
                rtt_s=model.rtt_s,
            )
        )
