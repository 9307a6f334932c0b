"""What two processes of different releases must have in common to speak to each other.

A version counts up when one side could misread the other. What is only added does not count: who
does not know a field passes over it. The KV link's version is in its frames
(`link.protocol.frames`), the engine socket's in its first message; both ends of that are one
machine's.
"""

from __future__ import annotations

AGENT_API_HEADER = "Prfaas-Agent-Api"
"""In every HTTP request to an agent and every answer: the version of its API that is spoken."""
AGENT_API = 1
_REMEDY = "install releases of prfaas on both that have one in common"


def difference(told: str | None) -> str | None:
    """Why a gateway of this release cannot use an agent whose header says ``told`` (None: it has
    none, as the first release's); None if it can."""
    if told is None or told == str(AGENT_API):
        return None
    return f"its API has version {told[:20]!r}, this gateway speaks {AGENT_API}: {_REMEDY}"


def refusal(told: str | None) -> str | None:
    """Why an agent of this release does nothing for who says ``told`` (None: nothing, as gateways
    of the first release and people do); None if it does."""
    if told is None or told == str(AGENT_API):
        return None
    return f"this agent's API has version {AGENT_API}, you speak {told[:20]!r}: {_REMEDY}"
