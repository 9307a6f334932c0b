"""The operator's self-test of a line: what the KV link gets out of it with 1 to N connections."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test_stream import LinkTestStream, goodput

_FIRST_BYTES_S = 15.0
_WINDOW_S = 1.0
_NEAR_BEST = 0.95
"""Of the stages whose goodput is this near to the best, the one with the fewest connections is
recommended."""


class Stage(msgspec.Struct, frozen=True):
    """What a number of connections reached (bytes per second, seconds)."""

    connections: int
    tls: bool
    goodput_bytes_per_s: float
    best_window_bytes_per_s: float
    """Over the best second: the nearest to the line's limit."""
    rtt_s: float
    min_rtt_s: float
    retransmit_share: float
    """Segments sent again: the loss the senders had to make up for."""


class Report(msgspec.Struct, frozen=True):
    """The whole test. ``line_limit_bytes_per_s`` is the best second of all stages: what
    ``iperf3`` with many streams would show, less headers."""

    peer: str
    address: str
    stages: tuple[Stage, ...]
    rtt_s: float
    loss: float
    line_limit_bytes_per_s: float
    recommended_connections: int


class SilentSink:
    """Takes no transfer of its own; link tests are the link's."""

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """Refuse."""
        return Refusal("this end only takes link tests")

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None: ...

    def completed(self, key: TransferKey) -> None: ...

    def failed(self, key: TransferKey, reason: str) -> None: ...

    def withdrawn(self, key: TransferKey, reason: str) -> None: ...


def run_stages(
    config: TcpLinkConfig,
    peer: str,
    address: str,
    counts: Sequence[int],
    *,
    tls: bool,
    seconds: float,
) -> Iterator[Stage]:
    """One stage after the other, each on fresh connections, measured for ``seconds`` (above zero).
    Raises LinkError."""
    for count in counts:
        target = PeerConfig(address=address, connections=count)
        link = TcpLink(msgspec.structs.replace(config, peers={peer: target}), SilentSink())
        try:
            yield _measured(link, peer, seconds, count, tls=tls)
        finally:
            link.close()


def report(peer: str, address: str, stages: Sequence[Stage]) -> Report:
    """Sum a test up; plaintext stages count for the line's limit only."""
    of_choice = [s for s in stages if s.tls] or list(stages)
    best = max(s.goodput_bytes_per_s for s in of_choice)
    enough = [s for s in of_choice if s.goodput_bytes_per_s >= _NEAR_BEST * best]
    return Report(
        peer=peer,
        address=address,
        stages=tuple(stages),
        rtt_s=min(s.min_rtt_s for s in stages),
        loss=min(s.retransmit_share for s in stages),
        line_limit_bytes_per_s=max(s.best_window_bytes_per_s for s in stages),
        recommended_connections=min(s.connections for s in enough),
    )


def _measured(link: TcpLink, peer: str, seconds: float, count: int, *, tls: bool) -> Stage:
    def trouble() -> str | None:
        (known,) = link.counters().peers.values()
        turned_away = "PeerError" in known.dial_errors
        late = time.monotonic() > until
        return known.last_error if turned_away or late else None

    until = time.monotonic() + _FIRST_BYTES_S
    with LinkTestStream(link, peer, seconds) as stream:
        stream.wait_for_first_bytes(_FIRST_BYTES_S + 1.0, trouble)
        marks = list(stream.marks())
    state = link.states()[0]
    connections = next(iter(link.counters().peers.values())).connections
    step = max(1, round(min(_WINDOW_S, seconds / 2) / 0.1))
    pairs = zip(marks, marks[step:], strict=False)
    windows = [(b - a) / (t1 - t0) for (t0, a), (t1, b) in pairs]
    sent = sum(c.sent_bytes for c in connections)
    return Stage(
        connections=count,
        tls=tls,
        goodput_bytes_per_s=goodput(marks),
        best_window_bytes_per_s=max(windows, default=0.0),
        rtt_s=state.rtt_s,
        min_rtt_s=state.min_rtt_s,
        retransmit_share=state.retransmits * 1448 / sent if sent else 0.0,
    )
