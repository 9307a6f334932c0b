"""What of an engine is one's own where several schedulers use it. Mutable."""

from __future__ import annotations

from math import inf


class Share:
    """What of an engine may be taken where other schedulers use it too, and what they have there:
    ``others_s`` of prefill work, as it was told at ``told_at``."""

    __slots__ = ("begun", "contested_at", "others_kv", "others_s", "prefills", "slots", "told_at")

    def __init__(self) -> None:
        self.slots: float = inf
        self.prefills: float = inf
        self.others_s = 0.0
        self.others_kv = 0
        self.told_at = self.contested_at = -inf
        """``contested_at``: when prefills of others were last there."""
        self.begun = 0
        """Prefills of one's own, ever."""

    def behind_others(self, until: float) -> float:
        """When work is done that alone would be done at ``until``."""
        return max(until, self.told_at) + self.others_s if self.others_s else until
