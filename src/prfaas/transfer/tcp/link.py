"""`TcpLink`: the KV link endpoint of an agent over TCP (see `transfer.api.Link`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prfaas.transfer.api import LinkState, OutgoingTransfer, TransferOffer, TransferSink
from prfaas.transfer.tcp.config import PeerConfig, TcpLinkConfig, check


class TcpLink:
    """Listens, dials and moves transfers from the moment it is constructed until ``close``.

    Raises ConfigError for settings or certificates that cannot work, LinkError if the listening
    address cannot be bound.
    """

    def __init__(self, config: TcpLinkConfig, sink: TransferSink) -> None:
        check(config)
        self._config, self._sink = config, sink

    @property
    def address(self) -> str:
        """``host:port`` it listens on."""
        raise NotImplementedError

    def set_peer(self, name: str, peer: PeerConfig) -> None:
        """Add a peer, or change the address, rate or connections of a known one."""
        raise NotImplementedError

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> OutgoingTransfer:
        raise NotImplementedError

    def states(self) -> Sequence[LinkState]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
