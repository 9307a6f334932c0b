"""Where an engine's own process listens to other machines.

Ranks meet over sockets of torch's (gloo, NCCL), at the address that the machine's name has unless
the environment says otherwise. These take whoever comes, and keep each connection.
"""

from __future__ import annotations

import ipaddress
import sys
from contextlib import suppress
from pathlib import Path

from prfaas.core.addresses import Address, stays_here

_LISTENS = "0A"
"""A socket's state in Linux's tables of them."""


def open_ports(process: Path = Path("/proc/self")) -> list[Address]:
    """Where other machines may connect to this process; nothing where the system does not say."""
    found = set()
    with suppress(OSError):
        own = _sockets_of(process)
        for table in ("tcp", "tcp6"):
            for line in (process / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and fields[9] in own:
                    found.add(_address(fields[1]))
    return sorted(address for address in found if not stays_here(address.host))


def open_ports_warning(ports: list[Address]) -> str | None:
    """What to tell the operator; None where nobody else can connect."""
    if not ports:
        return None
    where = ", ".join(map(str, ports))
    return (
        f"this engine listens at {where} for its own ranks, and whoever reaches that can end it; "
        "start it with GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo in its environment, and let a "
        "firewall keep others from what still listens"
    )


def _sockets_of(process: Path) -> set[str]:
    """Inodes of the sockets that it has open."""
    found = set()
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):  # Closed meanwhile.
            kind, _, inode = str(descriptor.readlink()).partition(":")
            if kind == "socket":
                found.add(inode.strip("[]"))
    return found


def _address(said: str) -> Address:
    """``"0100007F:1F90"``: words of four bytes, each as this machine has them in memory."""
    host, _, port = said.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return Address(str(ipaddress.ip_address(packed)), int(port, 16))
