"""One supervised process: started, watched, started again with growing pauses, ended."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

import aiohttp

from prfaas.core.errors import ProcessError
from prfaas.launch.commands import Command
from prfaas.launch.restart_pause import RestartPause
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.sessions import Session, end_session, session_of, tied_to_parent

_PROBE_PERIOD_S = 0.25
_UNREADY_GRACE_S = 2.0
"""A process that is not ready yet does nothing for anybody. A starting vLLM would sit on SIGTERM
until its own children have loaded the model."""
_STARTS_BEFORE_GIVING_UP = 2
"""A process that was never ready fails the whole start when it ends this often."""
_WRONG_INPUT = 2
"""Exit status of whoever refuses what it was told: it would again."""
_LOG_TAIL_LINES = 8
"""Of the log of a process that did not come up, shown with the error."""
_CAUSE = re.compile(r"\b[A-Z]\w*(Error|Exception): ")


class ChildState(StrEnum):
    """What a process does, in words for the table that `prfaas up` shows."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    PAUSING = "restarting"
    ENDED = "ended"


class Child:
    """Runs ``command`` until `stop`.

    Args:
        name: names the log file.
        probe: URL that answers 200 once the process is ready.
        changed: called when ``state`` or ``missing`` changes.
        grace_s: time to end by itself when asked to, once it has become ready.
        trust: what is trusted at ``probe``, as aiohttp takes it.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        probe: str,
        run: RunDirectory,
        changed: Callable[[Child], None],
        grace_s: float = 10.0,
        trust: ssl.SSLContext | bool = True,
    ) -> None:
        self._trust = trust
        self.name, self.command, self.probe = name, command, probe
        self.state = ChildState.WAITING
        self.missing = ""
        """What it needs to become ready, where that is known."""
        self.starts_first = ""
        """Why others wait until it is ready; shown while it starts."""
        self.starts = 0
        self.was_ready = asyncio.Event()
        self._run, self._changed, self._grace_s = run, changed, grace_s
        self._session: Session | None = None
        self._ready_at: float | None = None

    @property
    def log(self) -> Path:
        """Where its output goes, of all its starts."""
        return self._run.logs / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, None where none does."""
        return None if self._session is None else self._session.leader

    async def supervise(self, http: aiohttp.ClientSession) -> None:
        """Keep the process running, for ever. Raises ProcessError if it cannot be started."""
        pause = RestartPause()
        while True:
            process = await self._start()
            probing = asyncio.create_task(self._await_ready(http))
            try:
                status = await process.wait()
            finally:
                probing.cancel()
            await self._clear_away()
            tried = status == _WRONG_INPUT or self.starts >= _STARTS_BEFORE_GIVING_UP
            if tried and not self.was_ready.is_set():
                raise ProcessError(self._why_it_ended(status))
            pause_s = pause.after(self._ready_for_s())
            self._enter(ChildState.PAUSING)
            await asyncio.sleep(pause_s)

    def explain(self, missing: str) -> None:
        """Say what a process that starts still waits for; empty where that is not known."""
        if self.state is ChildState.STARTING and missing != self.missing:
            self.missing = missing
            self._changed(self)

    async def stop(self) -> None:
        """End the process and all its descendants. `supervise` must have been cancelled, and may be
        called again."""
        await self._clear_away()
        self.was_ready.clear()
        self._enter(ChildState.ENDED)

    async def _start(self) -> asyncio.subprocess.Process:
        self.starts += 1
        self._ready_at = None
        # vLLM leaves its sockets behind; there they go with the run.
        temporary = {"TMPDIR": str(self._run.private)}
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.command.environment_in({**os.environ, **temporary}),
                start_new_session=True,
                preexec_fn=tied_to_parent(),
            )
        finally:
            os.close(log)
        self._session = session_of(process.pid)
        if self._session is not None:
            self._run.started(self.name, self._session)
        self._enter(ChildState.STARTING)
        return process

    async def _await_ready(self, http: aiohttp.ClientSession) -> None:
        while not await _answers(http, self.probe, self._trust):  # noqa: ASYNC110
            await asyncio.sleep(_PROBE_PERIOD_S)
        self._ready_at = asyncio.get_running_loop().time()
        self.was_ready.set()
        self._enter(ChildState.READY)

    async def _clear_away(self) -> None:
        """End what is left of the session: the process itself, or those it left behind."""
        if self._session is not None:
            session, self._session = self._session, None
            grace_s = _UNREADY_GRACE_S if self._ready_at is None else self._grace_s
            await asyncio.to_thread(end_session, session, grace_s=grace_s)
            self._run.ended(self.name)

    def _ready_for_s(self) -> float:
        if self._ready_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._ready_at

    def _enter(self, state: ChildState) -> None:
        self.state = state
        self.missing = self.starts_first if state is ChildState.STARTING else ""
        self._changed(self)

    def _why_it_ended(self, status: int) -> str:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        # The last lines of a tree of processes tell that one ended, the first error tells why.
        cause = next((line for line in lines if _CAUSE.search(line)), None)
        shown = lines[-_LOG_TAIL_LINES:]
        if cause is not None and cause not in shown:
            shown = [cause, "...", *shown]
        tail = "\n".join(f"  | {line}" for line in shown)
        return f"{self.name} {how} before it was ready. From {self.log}:\n{tail}"


async def all_ready(children: Iterable[Child]) -> None:
    """Wait until each was ready once."""
    for child in children:
        await child.was_ready.wait()


async def _answers(http: aiohttp.ClientSession, url: str, trust: ssl.SSLContext | bool) -> bool:
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with http.get(url, timeout=timeout, ssl=trust) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
