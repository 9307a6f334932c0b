"""What can go wrong between an engine and its agent, by whose fault it is."""

from __future__ import annotations

from prfaas.core.errors import EngineError, PrfaasError


class AgentUnavailable(PrfaasError):
    """The agent of this machine is not there (restarting, or never started); what was in flight
    has failed."""


class RegistrationRefused(EngineError):
    """The agent will not serve this engine; the message says why (such as the layout)."""


class ExportUnwanted(PrfaasError):
    """The agent wants no more of an export: cancelled, refused, late. The message says why."""


class TransferUnusable(PrfaasError):
    """The transfer failed or is not here, which is not the reader's fault: compute the tokens
    instead."""
