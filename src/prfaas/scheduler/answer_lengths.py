"""How long answers are: what of a KV cache one has to be given room for.

Most clients ask for all that the model could say, or for far more than they get. Booking that would
leave most of an engine's memory unused. So an answer counts as long as nine of ten were lately, or
as long as the client allows where that is less. One that becomes longer finds room where another
was shorter, or vLLM preempts it.
"""

from __future__ import annotations

from collections import deque

_LAST = 256
_SOME = 16
"""Before so many were seen an answer counts as what the client allows."""
_OF_TEN = 0.9


class _Lengths:
    def __init__(self) -> None:
        self.seen: deque[int] = deque(maxlen=_LAST)
        self.usual: int | None = None
        self.fresh = 0


class AnswerLengths:
    """The lengths of a deployment's answers, in tokens: each tenant's by its own, which may ask
    for quite other ones than the others, on purpose as well."""

    def __init__(self) -> None:
        self._of: dict[str, _Lengths] = {}

    def ended(self, tokens: int, tenant: str = "", *, sequences: int = 1) -> None:
        """So many answers to one prompt are complete, of so many tokens together."""
        own = self._of.setdefault(tenant, _Lengths())
        own.seen.append(tokens // sequences)
        own.fresh += 1
        if own.fresh >= _SOME:  # Sorting is not done for each.
            own.fresh = 0
            own.usual = sorted(own.seen)[int(_OF_TEN * (len(own.seen) - 1))]

    def expected(self, most: int, tenant: str = "") -> int:
        """Of one that may have ``most``."""
        own = self._of.get(tenant)
        return most if own is None or own.usual is None else min(most, max(1, own.usual))
