"""Sessions of gateways: which of them live, and which share of each engine here each may fill.

Theory of operation. A gateway renews its session every second. One that is silent for
`LAPSES_AFTER_S` is taken for dead: its transfers are cancelled, what comes of them later is
refused, and its places are divided among the others. One that was only slow comes back under its id
and goes on with new transfers. Transfers of gateways that hold no session (of releases before, or
none at all) end by their own deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from prfaas.core.errors import CapacityError
from prfaas.core.gateway_sessions import (
    LAPSES_AFTER_S,
    MOST_SESSIONS,
    Decided,
    EngineShare,
    EngineUse,
    LiveGateway,
    Renewal,
    Standing,
    session_of,
)
from prfaas.pool.shares import Share

_MOST_GONE = 1024
"""Lapsed ones that are remembered, the last: nothing of theirs comes so late."""


class _Session:
    __slots__ = ("begun", "decided", "engines", "name", "renewed_at")

    def __init__(self) -> None:
        self.name = ""
        self.renewed_at = -inf
        self.engines: dict[str, EngineUse] = {}
        self.decided: Decided | None = None
        self.begun: dict[str, int] = {}
        """Engine -> prefills begun between the last two renewals."""

    def prefills(self, engine: str) -> int:
        """How many were there since the renewal before the last."""
        use = self.engines.get(engine)
        return 0 if use is None else max(use.prefill.held, self.begun[engine])


class Sessions:
    """Sessions by the ids of `core.gateway_sessions`. Times are those of `Pool.handle`."""

    def __init__(self) -> None:
        self._live: dict[str, _Session] = {}
        self._gone: dict[str, None] = {}
        self._decode: dict[str, dict[str, Share]] = {}
        """Engine -> session -> its share of the slots."""
        self._prefill: dict[str, dict[str, Share]] = {}
        self._settled_at = inf
        """Until then gateways that hold places may not have been heard."""

    def __len__(self) -> int:
        return len(self._live)

    def renew(self, session_id: str, renewal: Renewal, *, now: float) -> None:
        """Its gateway lives, and has so much outstanding here. Raises CapacityError where there are
        too many; then nothing has changed."""
        session = self._live.get(session_id)
        if session is None:
            if len(self._live) >= MOST_SESSIONS:
                raise CapacityError(f"{MOST_SESSIONS} gateways have a session here already")
            session = self._live[session_id] = _Session()
            self._gone.pop(session_id, None)
        if self._settled_at == inf:
            self._settled_at = now + LAPSES_AFTER_S
        session.name, session.renewed_at, session.decided = renewal.name, now, renewal.decided
        dropped = session.engines.keys() - renewal.engines.keys()
        session.begun = {
            name: max(0, use.begun - session.engines[name].begun) if name in session.engines else 0
            for name, use in renewal.engines.items()
        }
        session.engines = renewal.engines
        self._forget(session_id, dropped)
        at_least = renewal.known if now < self._settled_at else 1
        for engine, use in renewal.engines.items():
            for shares, places in ((self._decode, use.decode), (self._prefill, use.prefill)):
                of_all = shares.setdefault(engine, {})
                share = of_all.setdefault(session_id, Share())
                share.heard(places)
                share.grant(of_all, session_id, at_least=at_least)

    def end(self, session_id: str) -> bool:
        """It is over; False where there is none. What comes of it later is not wanted."""
        session = self._live.pop(session_id, None)
        if session is None:
            return False
        self._gone[session_id] = None
        while len(self._gone) > _MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._forget(session_id, session.engines)
        return True

    def lapsed(self, *, now: float) -> list[str]:
        """Those that were silent for too long; end them."""
        last = now - LAPSES_AFTER_S
        return [name for name, session in self._live.items() if session.renewed_at <= last]

    def is_gone(self, transfer_id: str) -> bool:
        """Whether the gateway that made the transfer is taken for dead."""
        return session_of(transfer_id) in self._gone

    def standing(self, session_id: str, *, now: float) -> Standing:
        """What a gateway is told; of one without a session, who lives."""
        session = self._live.get(session_id)
        engines = () if session is None else session.engines
        return Standing(
            gateways=[
                LiveGateway(id=i, name=s.name, silent_s=now - s.renewed_at, decided=s.decided)
                for i, s in sorted(self._live.items())
            ],
            engines={engine: self._share(session_id, engine) for engine in engines},
        )

    def _share(self, session_id: str, engine: str) -> EngineShare:
        others = [s for i, s in self._live.items() if i != session_id and engine in s.engines]
        uses = [other.engines[engine] for other in others]
        return EngineShare(
            decode=self._decode[engine][session_id].may,
            prefill=self._prefill[engine][session_id].may,
            others_decode=sum(use.decode.held for use in uses),
            others_prefills=sum(other.prefills(engine) for other in others),
            others_queued_s=sum(use.queued_s for use in uses),
            others_kv_tokens=sum(use.kv_tokens for use in uses),
        )

    def _forget(self, session_id: str, engines: Iterable[str]) -> None:
        for engine in engines:
            for shares in (self._decode, self._prefill):
                of_all = shares.get(engine, {})
                of_all.pop(session_id, None)
                if not of_all:
                    shares.pop(engine, None)
