"""What a gateway takes over of its deployment file, and of the files that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable

from prfaas.core.deployment import Deployment
from prfaas.core.errors import PrfaasError
from prfaas.gateway.gateway import Gateway

logger = logging.getLogger(__name__)


def take_over(gateway: Gateway, read: Callable[[], Deployment], *, source: str) -> None:
    """Serve what the file says. Raises PrfaasError or OSError where it is refused: then the gateway
    goes on by its deployment, and by the key files, certificates and lists of that as they are
    now. A key that was taken away, or a certificate that was revoked, is good no longer, whatever
    else is in a file."""
    try:
        gateway.become(read(), source=source)
    except (PrfaasError, OSError):
        gateway.access.take_files(gateway.deployment)
        gateway.access.show_to(gateway.engines, gateway.agents)
        logger.warning(
            "the keys, certificates and lists that %s names are read all the same", source
        )
        raise
