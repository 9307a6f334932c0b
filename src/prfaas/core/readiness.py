"""What a gateway's ``/ready`` answers, typed."""

from __future__ import annotations

import msgspec


class Readiness(msgspec.Struct, frozen=True):
    """``ready``: whether requests should be sent there; ``troubles``: else why not, in words;
    ``warnings``: what is amiss all the same. Without an answer nothing is known of the two."""

    ready: bool = False
    troubles: list[str] = []
    warnings: list[str] = []
