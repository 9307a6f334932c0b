"""What is asked of an agent at once: whether it is there, and what it has cached."""

from __future__ import annotations

import threading

from prfaas.core.prefixes import PromptPrefix
from prfaas.engine_socket.errors import AgentUnavailable, RegistrationRefused
from prfaas.engine_socket.lent import Load
from prfaas.engine_socket.messages import CloseLoad, DescribeTransfer, EngineMessage, OpenLoad
from prfaas.engine_socket.session import Session


class AgentConnection:
    """The session and its lock, for `client.AgentClient`, which keeps it open."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._refusal: str | None = None
        self._problem = "not connected yet"

    def wait_connected(self, timeout_s: float) -> None:
        """Return once registered.

        Raises RegistrationRefused if the agent declines this engine (at once), AgentUnavailable
        if there is no agent within ``timeout_s``.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._session or self._refusal, timeout_s)
            if self._session is None:
                if self._refusal is not None:
                    raise RegistrationRefused(self._refusal)
                raise AgentUnavailable(f"no agent at {self._path}: {self._problem}")

    # cached prefixes

    def describe(self, transfer_id: str, prefix: PromptPrefix) -> None:
        """Say what a transfer is of (see `DescribeTransfer`); a no-op without an agent, which has
        nothing to keep then."""
        with self._changed:
            if self._session is not None:
                self._send(self._session, DescribeTransfer(transfer_id, prefix))

    def open_load(
        self,
        *,
        local_tokens: int,
        to_token: int,
        block_tokens: int,
        names: tuple[bytes, ...],
        layout_fingerprint: str | None = None,
    ) -> Load:
        """Ask for a cached prefix (see `OpenLoad`); ``.future`` resolves at once, as the agent
        either has it or not; what lies on its disk takes as long as the disk. To be closed with
        `close_load`. Raises AgentUnavailable."""
        with self._changed:
            session = self._live()
            number, future = session.loads.open()
            message = OpenLoad(
                number, local_tokens, to_token, block_tokens, names, layout_fingerprint
            )
            self._send(session, message)
        return Load(session, number, future)

    def close_load(self, load: Load) -> None:
        """The bytes are no longer read. Idempotent; an unresolved future is cancelled."""
        with self._changed:
            session = load.session
            if session.loads.close(load.number) and session.lost is None:
                self._send(session, CloseLoad(load.number))
            session.close_if_unused()
        load.future.cancel()

    # with the lock held

    def _live(self) -> Session:
        if self._session is None:
            raise AgentUnavailable(f"no agent at {self._path}: {self._problem}")
        return self._session

    def _send(self, session: Session, message: EngineMessage) -> None:
        if session.send(message):
            self._wake()

    def _wake(self) -> None:
        """A rest waits to be sent."""
        raise NotImplementedError
