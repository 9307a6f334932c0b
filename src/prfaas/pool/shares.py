"""How the places of an engine are divided among the gateways that use it.

Theory of operation. Each gateway may take so many places as it was *granted*; the grants of all,
and what was taken before a grant was lowered, never exceed the places there are. Who was granted
none may take one all the same, so that no gateway ever stands still: an engine has at most one
request per gateway beyond its places. A grant is lowered at once and counts as lowered only when
the gateway has said that it knows. What nobody asks for is divided equally ahead of need; what
somebody asks for goes there first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prfaas.core.gateway_sessions import Use


def fair_parts(total: int, wanted: Sequence[int]) -> list[int]:
    """Divide ``total`` by max-min fairness: nobody gets more than he wants while another gets less
    than he wants and less than he. What is left over is divided equally."""
    parts = [0] * len(wanted)
    left = total
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for done, index in enumerate(order):
        parts[index] = min(wanted[index], left // (len(order) - done))
        left -= parts[index]
    for place, index in enumerate(order):
        more = left // (len(order) - place)
        parts[index] += more
        left -= more
    return parts


class Share:
    """One gateway's share of the places of one engine."""

    __slots__ = ("_granted", "_thinks", "use")

    def __init__(self) -> None:
        self.use = Use(total=0, held=0, wanted=0, may=0)
        self._granted = 0
        self._thinks = 0

    @property
    def committed(self) -> int:
        """So many it may have taken by now, beside the one that everybody may."""
        return max(self._granted, self._thinks, self.use.held)

    @property
    def may(self) -> int:
        """So many it may take."""
        return max(1, self._granted)

    def heard(self, use: Use) -> None:
        """Its gateway has said what it has, and what it thinks that it may."""
        self.use = use
        self._thinks = use.may if use.may > 1 else 0

    def grant(self, of_all: Mapping[str, Share], own: str, *, at_least: int) -> None:
        """Settle what it may, by what all want and what others may have taken.

        Args:
            of_all: every gateway's share, this one's among them under ``own``.
            at_least: so many gateways there are, heard of or not.
        """
        total = self.use.total
        names = sorted(of_all)
        wanted = [max(of_all[name].use.wanted, of_all[name].use.held) for name in names]
        unheard = max(0, at_least - len(names))
        part = fair_parts(total, wanted + [total] * unheard)[names.index(own)]
        left = total - sum(share.committed for name, share in of_all.items() if name != own)
        # One that does not know yet what it may takes nothing from those who do.
        self._granted = max(0, min(part, max(left, self._granted)))
