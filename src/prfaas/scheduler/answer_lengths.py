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


class AnswerLengths:
    """The lengths of a deployment's answers, in tokens."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=_LAST)
        self._usual: int | None = None
        self._fresh = 0

    def ended(self, tokens: int) -> None:
        """An answer is complete."""
        self._seen.append(tokens)
        self._fresh += 1
        if self._fresh >= _SOME:  # Sorting is not done for each.
            self._fresh = 0
            self._usual = sorted(self._seen)[int(_OF_TEN * (len(self._seen) - 1))]

    def expected(self, most: int) -> int:
        """Of one that may have ``most``."""
        return most if self._usual is None else min(most, max(1, self._usual))
