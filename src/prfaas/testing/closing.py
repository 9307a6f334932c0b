"""How a server of asyncio's ends without an open socket behind it."""

from __future__ import annotations

import asyncio

_TURNS = 5
"""Of the loop, until whoever was let in is served."""


async def close(server: asyncio.Server) -> None:
    """Let nobody in any more; who is in is served on.

    asyncio makes a connection's transport a turn after it has accepted the socket, and fails if the
    server was closed between: nobody closes that socket then.
    """
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()
