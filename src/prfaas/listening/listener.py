"""Where connections come from."""

from __future__ import annotations

import socket
from typing import Any, Protocol


class Listener(Protocol):
    """A listening socket, or what stands for one."""

    def fileno(self) -> int: ...

    def accept(self) -> tuple[socket.socket, Any]: ...

    def getsockname(self) -> Any: ...

    def close(self) -> None: ...
