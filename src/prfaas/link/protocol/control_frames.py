"""What a sending end has to say to the receiver beside payload, for as long as it makes sense.

A receiver may be away for hours, or take everything and answer nothing: what is kept for it does
not grow with what was begun and given up meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from prfaas.link.protocol.frames import Kind
from prfaas.link.protocol.sending_records import ControlFrame

MOST_CANCELS = 4096
"""Of transfers that are over, to be said or not answered: a receiver remembers no more. Without a
word it ends what it has accepted at its deadline."""


class ControlFrames:
    """In the order in which they are to be sent. ``lives``: whether a transfer, by its handle, is
    not over: of others only CANCEL is ever sent."""

    def __init__(self, lives: Callable[[int], bool]) -> None:
        self._lives = lives
        self._frames: deque[ControlFrame] = deque()
        self._tidy_at = 2 * MOST_CANCELS
        self._unanswered: OrderedDict[int, tuple[ControlFrame, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._frames)

    @property
    def busy(self) -> bool:
        """Whether there is something to be said, or to be answered."""
        return bool(self._frames or self._unanswered)

    def __len__(self) -> int:
        return len(self._frames) + len(self._unanswered)

    def append(self, frame: ControlFrame) -> None:
        """It is to be sent after the others."""
        self._frames.append(frame)
        if len(self._frames) >= self._tidy_at:
            self._tidy()

    def next(self) -> ControlFrame:
        """The first, which is to be sent now."""
        return self._frames.popleft()

    def said(self, cancel: ControlFrame, carrier: int) -> None:
        """A CANCEL goes over a connection, and is to be answered."""
        self._unanswered[cancel.transfer.handle] = cancel, carrier
        if len(self._unanswered) > MOST_CANCELS:
            self._unanswered.popitem(last=False)

    def answered(self, handle: int) -> None:
        """The receiver has heard of a transfer's end."""
        self._unanswered.pop(handle, None)

    def lost(self, carrier: int) -> None:
        """A connection is gone: what it carried unanswered is said again."""
        for handle, (cancel, via) in list(self._unanswered.items()):
            if via == carrier:
                del self._unanswered[handle]
                self.append(cancel)

    def clear(self) -> None:
        """Nothing more is said."""
        self._frames.clear()
        self._unanswered.clear()

    def _tidy(self) -> None:
        cancels = sum(frame.kind is Kind.CANCEL for frame in self._frames)
        kept: deque[ControlFrame] = deque()
        for frame in self._frames:
            if frame.kind is not Kind.CANCEL:
                if self._lives(frame.transfer.handle):
                    kept.append(frame)
            elif cancels > MOST_CANCELS:
                cancels -= 1
            else:
                kept.append(frame)
        self._frames = kept
        self._tidy_at = 2 * len(kept) + MOST_CANCELS
