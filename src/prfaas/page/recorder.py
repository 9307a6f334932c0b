"""Reads the journal as it is written: requests, news, and the samples beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice
from typing import TypeVar

import msgspec

from prfaas.page.records import Deployed, History, News, Sample, Tick
from prfaas.page.rings import Ring, Samples, as_list
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry, JournalOpened, LinesLost, RequestEnded
from prfaas.scheduler.timelines import Timeline, TimelineFold

K = TypeVar("K", bound=Hashable)

_REQUESTS, _REQUESTS_BYTES = 20_000, 16 << 20
_NEWS, _NEWS_BYTES = 2_000, 2 << 20
_TOPOLOGIES = 64
"""Older ones are forgotten; the samples of their time are then shown without engines."""
_LIVE_SHOWN = 200
_A_TICK = 500
"""Requests, and as many news, that one tick tells of at most: a page that misses some in a storm
reads them in the history."""

_ALWAYS_NEWS = (
    e.EngineDown,
    e.EngineSuspected,
    e.EngineCordoned,
    e.EngineUncordoned,
    e.MachinesCut,
    e.MachinesJoined,
    e.PrefillFailed,
    e.TransferFailed,
    e.DecodeFailed,
    e.TopologyChanged,
    c.ChangeRole,
    c.ReportDrained,
    c.FailRequest,
    LinesLost,
)
_TOO_MANY, _UNAVAILABLE = 429, 503
# What requests do all the time is passed by its type alone.
_NOTED = frozenset({e.MemoryReported, e.EngineDown, e.EngineSuspected, e.TopologyChanged})
_MAY_BE_NEWS = frozenset({RequestEnded, e.LinkStateChanged, e.EngineUp, *_ALWAYS_NEWS})


class Recorder:
    """`take` fits the journal's listener; `sampled` is to be called once a second.

    Args:
        opened: how the journal began; its ``unix_time`` is the wall clock at ``at``.
        sample: makes the sample of a moment, from what is recorded and what its owner knows.
    """

    def __init__(
        self, at: float, opened: JournalOpened, sample: Callable[[float, Recorder], Sample]
    ) -> None:
        self._fold = TimelineFold()
        self._fold.open(at, opened)
        self._sample = sample
        self._offset = 0.0 if opened.unix_time is None else opened.unix_time - at
        self._deployed = deque([Deployed(0, opened.topology)], maxlen=_TOPOLOGIES)
        self._lines_up: dict[tuple[str, str], bool] = {}
        self._engines_up: dict[str, bool] = {}
        self.suspected: set[str] = set()
        """Engines that may be failing."""
        self.memory: dict[str, e.MemoryReported] = {}
        """What the agent of each machine last said of its memory."""
        self._machines: dict[str, set[str]] | None = None
        self._samples = Samples()
        self._requests = Ring(_REQUESTS, _REQUESTS_BYTES, resident=True)
        self._news = Ring(_NEWS, _NEWS_BYTES)
        self._ended_since: deque[bytes] = deque(maxlen=_REQUESTS)
        self._news_since: deque[bytes] = deque(maxlen=_NEWS)
        self._new_requests: deque[Timeline] = deque(maxlen=_A_TICK)
        self._new_news: deque[News] = deque(maxlen=_A_TICK)
        self._encoder = msgspec.json.Encoder()

    @property
    def deployed(self) -> Deployed:
        """What there is now."""
        return self._deployed[-1]

    def machines_of(self, cluster: str) -> frozenset[str]:
        """The machines on which its engines are."""
        if self._machines is None:
            self._machines = {}
            for engine in self.deployed.topology.engines:
                self._machines.setdefault(engine.cluster, set()).add(engine.machine)
        return frozenset(self._machines.get(cluster, ()))

    def take(self, at: float, *entries: Entry) -> None:
        """Entries of one moment. Never raises for any order of them."""
        for entry in entries:
            kind = type(entry)
            if kind in _NOTED:
                self._note(entry)
            ended = self._fold.take(at, entry)
            if ended is not None:
                self._ended_since.append(self._encoder.encode(ended))
                self._new_requests.append(ended)
            if kind in _MAY_BE_NEWS and self._is_news(entry):
                news = News(at + self._offset, entry)
                self._news_since.append(self._encoder.encode(news))
                self._new_news.append(news)

    def sampled(self, at: float) -> Tick:
        """A second has gone by: what is new in it."""
        sample = self._sample(at + self._offset, self)
        # All at once: what a history holds is what the ticks up to its last sample told.
        self._samples.add(self._encoder.encode(sample))
        for ring, since in ((self._requests, self._ended_since), (self._news, self._news_since)):
            for row in since:
                ring.add(row)
            since.clear()
        tick = Tick(
            sample=sample,
            live=list(islice(self._fold.live(), _LIVE_SHOWN)),
            ended=list(self._new_requests),
            news=list(self._new_news),
        )
        self._new_requests.clear()
        self._new_news.clear()
        return tick

    def history(self, *, model: str | None, policy: str) -> History:
        """All that is kept, up to the last sample."""
        return History(
            driver="gateway",
            model=model,
            policy=policy,
            deployed=list(self._deployed),
            samples=msgspec.Raw(as_list(self._samples.rows())),
            ended=msgspec.Raw(as_list(self._requests.rows())),
            news=msgspec.Raw(as_list(self._news.rows())),
        )

    def _is_news(self, entry: Entry) -> bool:
        if isinstance(entry, RequestEnded):  # The scheduler was not asked: nothing else tells.
            return entry.rendered_s is None and entry.status in (_TOO_MANY, _UNAVAILABLE)
        if isinstance(entry, e.LinkStateChanged):
            return _turned(self._lines_up, (entry.source, entry.target), entry.up)
        if isinstance(entry, e.EngineUp):
            self.suspected.discard(entry.engine)
            return _turned(self._engines_up, entry.engine, True)
        return isinstance(entry, _ALWAYS_NEWS)

    def _note(self, entry: Entry) -> None:
        """Keep what a scheduler's view does not tell."""
        if isinstance(entry, e.MemoryReported):
            self.memory[entry.machine] = entry
        elif isinstance(entry, e.EngineDown | e.EngineSuspected):
            self._engines_up[entry.engine] = False
            suspected = isinstance(entry, e.EngineSuspected)
            (self.suspected.add if suspected else self.suspected.discard)(entry.engine)
        elif isinstance(entry, e.TopologyChanged):
            self._deployed.append(Deployed(self.deployed.number + 1, entry.topology))
            self._machines = None


def _turned(known: dict[K, bool], key: K, now: bool) -> bool:
    """Whether it is another than before; that a thing begins as it should be is no news."""
    before = known.get(key, True)
    known[key] = now
    return before != now
