"""Which of a deployment's agents may be on this machine: what only they need is asked of them."""

from __future__ import annotations

import errno
import socket

from prfaas.core.addresses import parse_address
from prfaas.core.deployment import AgentConfig, Deployment


def agents_here(deployment: Deployment) -> tuple[AgentConfig, ...]:
    """Those that are not known to be on another machine; all where each seems to be on another, as
    behind address translation. A name that does not resolve, or no address yet, tells nothing."""
    agents = deployment.agents
    return tuple(agent for agent in agents if not _elsewhere(agent)) or agents


def _elsewhere(agent: AgentConfig) -> bool:
    host = parse_address(agent.link_address, what=agent.name).host
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return not any(_is_ours(family, place) for family, _, _, _, place in found)


def _is_ours(family: socket.AddressFamily, place: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((place[0], 0, *place[2:]))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
