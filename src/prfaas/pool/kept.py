"""What a kept part of a transfer is: enough to find it, wherever its bytes lie."""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.core.handoff import TRANSFER_ID
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey

Tier = Literal["memory", "disk"]

_MOST_BYTES = 1 << 44
_MOST_NAME = 128
"""What a file on disk, or another agent, may say of a prefix: more is a mistake, or a lie."""


class KeptPrefix(msgspec.Struct, frozen=True):
    """One rank's part of a transfer that is over. ``layout``: fingerprint of the rank whose pages
    they are; ``prefix``: its whole blocks; ``to_token``: where the transfer ended."""

    key: TransferKey
    layout: str
    prefix: Prefix
    to_token: int
    total_bytes: int
    stands_at: int
    """The token from which an engine can go on by the states and windows in it; 0: none."""
    needs_state: bool
    """Whether an engine goes on from there alone, and from no other block's end."""

    @property
    def from_token(self) -> int:
        """Its first."""
        return self.prefix.from_token

    def resumes_at(self, token: int) -> bool:
        """Whether an engine can go on from this block's end, by what is in here of states and
        windows."""
        return not self.needs_state or token == self.stands_at

    def fault(self) -> str | None:
        """What is wrong with it, or None: it may come from a file."""
        prefix = self.prefix
        if not TRANSFER_ID.match(self.key.transfer_id) or not 0 < len(self.layout) <= _MOST_NAME:
            return "it names no transfer or no layout"
        if not 0 < self.total_bytes <= _MOST_BYTES:
            return f"{self.total_bytes} bytes are no transfer's"
        fault = prefix.fault()
        if fault is not None:
            return fault
        if not 0 <= self.to_token - prefix.end_token < prefix.block_tokens:
            return "it does not end where its blocks do"
        if self.stands_at not in (0, prefix.end_token):
            return "its states are of no block's end"
        return None
