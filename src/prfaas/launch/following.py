"""`prfaas up` goes on with its file: what joins is started, what has left ends once nothing is on
it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from prfaas.core.deployment import Deployment, check_borders
from prfaas.core.errors import ProcessError
from prfaas.launch.child import Child
from prfaas.launch.gateway_pages import knows, metrics_pages
from prfaas.launch.supervisor import Supervisor, local_engines

_LOOK_S = 0.5
_NOTICED_S = 5.0
"""Within which gateways have read the file."""


class Following:
    """Changes what a supervisor runs, once it has started.

    Args:
        join: makes of what the file says now a deployment with every address (`joining.joined`).
            Raises ConfigError.
        say: tells who sits before the terminal.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        join: Callable[[Deployment], Deployment],
        say: Callable[[str], None],
    ) -> None:
        self._supervisor, self._join, self._say = supervisor, join, say
        self._work: set[asyncio.Task[None]] = set()
        self._staying: dict[Child, asyncio.Task[None]] = {}

    def take(self, new: Deployment) -> None:
        """Go on with another file. Raises ConfigError, having changed nothing."""
        deployment = self._join(new)
        check_borders(deployment)
        came, gone = self._supervisor.take(deployment, local=local_engines(new))
        for what, children in (("starts", came), ("ends when nothing is on it", gone)):
            for child in children:
                self._say(f"{child.name} {what}")
        for child in came:
            self._staying[child] = self._run(self._stay(child))
        self._run(self._end(gone))

    async def close(self) -> None:
        """Whoever ends everything ends what is under way here, too."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _stay(self, child: Child) -> None:
        """A newcomer that does not come up ends nobody else."""
        try:
            await child.supervise(self._supervisor.http)
        except ProcessError as error:
            self._say(f"{error}\nall else goes on; mend it, and write the file again")
            self._staying.pop(child, None)
            await self._supervisor.end(child)

    async def _end_one(self, child: Child) -> None:
        if (task := self._staying.pop(child, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._supervisor.end(child)

    async def _end(self, children: list[Child]) -> None:
        """Gateways go first, agents last."""
        supervisor = self._supervisor
        engines = [child for child in children if child in supervisor.engines]
        agents = [child for child in children if child in supervisor.agents]
        others = [child for child in children if child not in (*engines, *agents)]
        await asyncio.gather(*(self._end_one(child) for child in others))
        await asyncio.gather(*(self._end_engine(child) for child in engines))
        await asyncio.gather(*(self._end_one(child) for child in agents))

    async def _end_engine(self, child: Child) -> None:
        """Gateways read the same file: they give it no more, and forget it when it has nothing.
        Where they do not tell, answers have as long as when a gateway ends."""
        lasts_s = max(g.drain_s for g in self._supervisor.deployment.gateways)
        give_up_at = time.monotonic() + _NOTICED_S + lasts_s
        while (known := await self._is_known(child.name)) is not False:
            if known is None and time.monotonic() > give_up_at:
                break
            await asyncio.sleep(_LOOK_S)
        await self._end_one(child)

    async def _is_known(self, engine: str) -> bool | None:
        """To a gateway; None where none says so, and one says nothing."""
        pages = list[str | None]()
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            ours = self._supervisor
            pages = await metrics_pages(ours.http, ours.deployment, ours.trust)
        if not pages or any(knows(page, engine) for page in pages if page is not None):
            return True
        return None if None in pages else False
