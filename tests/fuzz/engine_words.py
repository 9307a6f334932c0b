"""Fuzz target of what engines and other agents say to an agent, and of what becomes of it: in its
pool, in frames that go on to others, in what gateways are told."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
from mutations import misshapen

from prfaas.agent.engine_messages import ToEngine, event_of, message_of
from prfaas.core.cache_news import CacheNews, Stored
from prfaas.core.errors import EngineError, PeerError
from prfaas.core.extents import Extent
from prfaas.core.handoff import RequestContext
from prfaas.core.prefixes import chain, root_digest, stretch
from prfaas.engine_socket.framing import decode_from_agent, decode_from_engine, encode
from prfaas.engine_socket.messages import (
    AbortExport,
    BeginExport,
    CloseImport,
    CloseLoad,
    DescribeTransfer,
    EngineMessage,
    ExportSlot,
    FinishExport,
    LeaseSlots,
    OpenImport,
    OpenLoad,
    RegisterEngine,
    ReturnSlots,
)
from prfaas.gateway.pools import Pools
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.index.keys import PromptKeys
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import HEADER_BYTES, Kind, Reason, control, decode, reason
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceCached,
    AnyEffect,
    CancelSend,
    CopySlot,
    GrantSlots,
    SendSlot,
    ServeLeases,
    StartSend,
)
from prfaas.pool.events import (
    AnyEvent,
    ConnectionClosed,
    EngineConnected,
    EngineDropped,
    ExtentReleased,
    LeasesCameDue,
    OfferReceived,
    OfferWithdrawn,
    RangeStored,
    SendCompleted,
    SendFailed,
    SlotCopied,
    TimePassed,
    TransferReceived,
)
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout

_SLOT, _SLOTS, _EXPORT, _BLOCK = 64, 24, 8, 16
_TOKENS = list(range(4 * _BLOCK))
_ROOT = root_digest("w", adapter=None, salt="s")
_NAMES = chain(_ROOT, _TOKENS, _BLOCK)
_KEY = b"seed"


_OF = {"t": (1, _BLOCK), "u": (_SLOT, 2 * _BLOCK), "v": (3 * _SLOT, 4 * _BLOCK)}
"""Transfers: their bytes and tokens."""
_CONTEXT = RequestContext("r", 1)
_Say = Callable[[list[int]], EngineMessage]
"""Of slots that were leased, some may be filled."""


class _Agent:
    """Two engines, one other agent, and a gateway that hears of what is cached."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.now = rng, 0.0
        self.prefixes = KeyedPrefixes(_KEY)
        self.pools = Pools(_KEY, max_blocks=1000, most_holders=4)
        self.pool = Pool(
            "here",
            slot_bytes=_SLOT,
            slot_count=_SLOTS,
            export_slots=_EXPORT,
            engines=frozenset({"e", "d"}),
            cache_slots=8,
        )
        self.after: list[Callable[[], object]] = []
        self.open: set[int] = set()
        self.slots: dict[int, list[int]] = {}
        self.sends: dict[TransferKey, list[int]] = {}
        """With a slot for each extent that the link has not released."""
        self.offered_bytes = 0
        self.sizes: dict[TransferKey, int] = {}

    def handle(self, event: AnyEvent) -> None:
        for effect in self.pool.handle(event, now=self.now):
            self._carry_out(effect)
        self.pool.check_integrity()

    def said(self, connection: int, message: EngineMessage) -> None:
        """By an engine; at times otherwise."""
        raw = encode(message)[4:]
        if self.rng.random() < 0.05:
            raw = misshapen(self.rng, raw, msgspec.msgpack)
        if connection not in self.open:
            return
        try:
            told = decode_from_engine(raw)
            if isinstance(told, RegisterEngine):
                raise EngineError("it has said so before")
            self.handle(event_of(connection, told, self.prefixes))
        except EngineError:
            self.open.discard(connection)
            self.handle(EngineDropped(connection))

    def registers(self, connection: int, engine: str) -> None:
        raw = encode(RegisterEngine(engine, mock_layout(), connection))[4:]
        if self.rng.random() < 0.1:
            raw = misshapen(self.rng, raw, msgspec.msgpack)
        with suppress(EngineError):
            told = decode_from_engine(raw)
            if isinstance(told, RegisterEngine):
                self.handle(EngineConnected(connection, told.engine, told.pid, told.layout))
                self.open.add(connection)

    def offered(self, key: TransferKey, size: int, tokens: int) -> None:
        """By another agent; what it may not say ends its connection."""
        offer = TransferOffer(
            key, mock_layout().fingerprint(), 0, tokens, size, 60.0, 0, MOCK_DIGEST, ("d",)
        )
        body = control(Kind.OFFER, offer)[HEADER_BYTES:]
        if self.rng.random() < 0.3:
            body = misshapen(self.rng, body, msgspec.msgpack)
        with suppress(PeerError):
            told = decode(body, TransferOffer)
            if 0 < told.key.epoch < 1000:
                return  # Ours: they are not told apart until they are cached.
            self.offered_bytes = told.total_bytes
            self.handle(OfferReceived("west", told))

    def withdrawn(self) -> None:
        why = reason(Kind.CANCEL, "no more", key=TransferKey("t", 0, 1))
        with suppress(PeerError):
            said = decode(misshapen(self.rng, why[HEADER_BYTES:], msgspec.msgpack), Reason)
            if said.key is not None:
                self.handle(OfferWithdrawn(said.key, said.reason))

    def end(self) -> None:
        """Everybody has let go: every slot is free, or cached."""
        for connection in (1, 2):
            self.handle(ConnectionClosed(connection))
        self.now += 1e6
        self.handle(TimePassed())
        for key in list(self.sends):
            self._over(key, SendFailed(key, "over"))
        self.handle(TimePassed())
        counts = self.pool.snapshot().slots
        assert counts.free + counts.cached == _SLOTS, counts

    def send_goes_on(self) -> None:
        for key in list(self.sends):
            sent = self.pool.transfer(key.transfer_id, ranks=1)[0].sent
            if self.rng.random() < 0.5 and sent is not None:
                self._over(key, SendCompleted(key))

    def _over(self, key: TransferKey, event: SendCompleted | SendFailed) -> None:
        for slot in self.sends.pop(key):
            self.handle(ExtentReleased(key, slot))
        self.handle(event)

    def _carry_out(self, effect: AnyEffect) -> None:
        later: Callable[[], object] | None = None
        match effect:
            case GrantSlots(connection, slots):
                self.slots.setdefault(connection, []).extend(slots)
            case StartSend(_, offer):
                assert decode(control(Kind.OFFER, offer)[HEADER_BYTES:], TransferOffer) == offer
                self.sends[offer.key] = []
            case SendSlot(key, slot, extents):
                self.sends[key] += [slot] * len(extents)
            case CancelSend(key, why):
                reason(Kind.CANCEL, why, key=key)
                later = partial(self._over, key, SendFailed(key, why))
            case CopySlot(key, slot, _):
                later = partial(self.handle, SlotCopied(key, slot))
            case ServeLeases():
                later = partial(self.handle, LeasesCameDue())
            case AcceptOffer(key, _):
                later = partial(self._arrives, key)
                self.sizes[key] = self.offered_bytes
            case AnnounceCached(key, layout, prefix, stands_at, tier):
                name = key.transfer_id, key.rank, key.epoch
                news = msgspec.json.encode(Stored(*name, layout, prefix, stands_at, tier))
                self.pools.take("here", msgspec.json.decode(news, type=CacheNews))  # type: ignore[arg-type]
        if isinstance(effect, ToEngine):
            decode_from_agent(encode(message_of(effect))[4:])
        if later is not None:
            self.after.append(later)

    def settle(self) -> None:
        """What the link and the driver do later."""
        while self.after:
            self.after.pop(0)()

    def _arrives(self, key: TransferKey) -> None:
        self.handle(RangeStored(key, 0, self.sizes.pop(key)))
        self.handle(TransferReceived(key))


def _exports(rng: random.Random, name: str) -> list[_Say]:
    """What makes sense, by who exports this transfer."""
    size, tokens = _OF[name]
    to, readers = rng.choice(("here", "", "west")), rng.choice((("d",), (), ("e", "d")))
    begin = BeginExport(name, to, 0, tokens, size, 60.0, MOCK_DIGEST, readers, 0, _CONTEXT)
    words: list[_Say] = [lambda _: LeaseSlots(3), lambda _: begin, lambda _: _described(name)]
    for flat in range(0, size, _SLOT):
        words.append(partial(_filled, name, flat, min(_SLOT, size - flat)))
    last = FinishExport(name) if rng.random() < 0.9 else AbortExport(name, "why")
    return [*words, lambda _: last, lambda slots: ReturnSlots((slots.pop(),) if slots else ())]


def _filled(name: str, flat: int, length: int, slots: list[int]) -> EngineMessage:
    slot = slots.pop() if slots else 0
    half = length // 2
    extents = [Extent(flat + half, slot * _SLOT + half, length - half)]
    if half:
        extents.append(Extent(flat, slot * _SLOT, half))
    return ExportSlot(name, slot, tuple(extents))


def _reads(rng: random.Random, name: str) -> list[_Say]:
    """By who reads it."""
    size, tokens = _OF[name]
    load = rng.randrange(3)
    words: tuple[EngineMessage, ...] = (
        OpenImport(name, 0, tokens, size, MOCK_DIGEST),
        _described(name),
        CloseImport(name),
        OpenLoad(load, 0, tokens, _BLOCK, _NAMES),
        CloseLoad(load),
    )
    return [lambda _, word=word: word for word in words]  # type: ignore[misc]


def _described(name: str) -> EngineMessage:
    found = stretch(
        _NAMES, _ROOT, _TOKENS, block_tokens=_BLOCK,
        from_token=0, to_token=_OF[name][1], salt="s", adapter=None,
    )  # fmt: skip
    assert found is not None
    return DescribeTransfer(name, found)


def _conversation(rng: random.Random) -> list[tuple[int, _Say]]:
    """Of two engines, in order but for a few of their words."""
    words = [
        (connection, word)
        for name in rng.choices(list(_OF), k=4)
        for connection, some in ((1, _exports(rng, name)), (2, _reads(rng, name)))
        for word in some
    ]
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
    return words


def engine_words(rng: random.Random) -> None:
    """What engines and a peer say, in any order. One may end itself: all else goes on."""
    agent = _Agent(rng)
    agent.registers(1, "e")
    agent.registers(2, "d")
    for number, (connection, word) in enumerate(_conversation(rng)):
        agent.said(connection, word(agent.slots.setdefault(connection, [])))
        if rng.random() < 0.1:
            name = rng.choice(list(_OF))
            agent.offered(TransferKey(name, 0, 1000 + number), *_OF[name])
        if rng.random() < 0.05:
            agent.withdrawn()
        agent.settle()
        if rng.random() < 0.5:
            agent.send_goes_on()
            agent.settle()
        agent.now += rng.choice((0.0, 0.0, 0.5, 20.0))
        if rng.random() < 0.2:
            agent.handle(TimePassed())
            agent.settle()
    agent.end()
    agent.pools.match(PromptKeys(_TOKENS, salt="s"))
    agent.pools.index.check_integrity()
    assert agent.pools.key_id == key_id(_KEY)
