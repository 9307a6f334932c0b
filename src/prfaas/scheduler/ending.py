"""How a request ends other than well: cancelled, or failed with who is at fault."""

from __future__ import annotations

from prfaas.policies.api import Refusal
from prfaas.scheduler.commands import ErrorKind, FailRequest
from prfaas.scheduler.decoding import Decoding
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.reservations import Reservations
from prfaas.scheduler.state import Record


class Ending:
    """Each action cancels what still runs, gives everything back and tells the client."""

    def __init__(self, requests: Requests, reservations: Reservations, decoding: Decoding) -> None:
        self._requests = requests
        self._reservations = reservations
        self._decoding = decoding

    def cancel(self, record: Record, _why: str) -> None:
        """The client went away: nobody is told."""
        self._end(record, State.CANCELLED)

    def fail_deadline(self, record: Record, why: str) -> None:
        """Its deadline has passed before the first token."""
        self.fail(record, ErrorKind.DEADLINE, f"{why} while {record.state.name.lower()}")

    def fail_unavailable(self, record: Record, why: str) -> None:
        """No engine that could answer came back in time."""
        self.fail(record, ErrorKind.UNAVAILABLE, why)

    def fail_engine(self, record: Record, why: str) -> None:
        """Its decode engine was lost after the first token."""
        self.fail(record, ErrorKind.ENGINE, f"the answer broke off: {why}")

    def refuse(self, record: Record, refusal: Refusal) -> None:
        """The policy sees no route that is in time: nothing was begun."""
        self._end(record, State.FAILED)
        self._requests.out.append(
            FailRequest(
                record.request_id, ErrorKind.OVERLOADED, refusal.reason, refusal.retry_after_s
            )
        )

    def fail_full(self, record: Record, why: str) -> None:
        """Every engine that could answer has said that it is full."""
        known = [seconds for seconds in record.full.values() if seconds is not None]
        self.fail(record, ErrorKind.FULL, why, retry_after_s=min(known, default=None))

    def fail(
        self,
        record: Record,
        kind: ErrorKind,
        message: str,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        """End it as failed."""
        self._end(record, State.FAILED)
        self._requests.out.append(FailRequest(record.request_id, kind, message, retry_after_s))

    def _end(self, record: Record, state: State) -> None:
        self._decoding.keep_second(record)
        engine = record.decode
        self._reservations.abandon(record)
        self._requests.move(record, state)
        if engine is not None:
            self._decoding.fill_slots(engine)
