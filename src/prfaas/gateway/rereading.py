"""What a gateway takes over of its deployment file, and of the files that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prfaas.core.deployment import Deployment
from prfaas.core.errors import PrfaasError
from prfaas.gateway.feeds import cache_key
from prfaas.gateway.gateway import Gateway

logger = logging.getLogger(__name__)


class Rereading:
    """Has a gateway serve what its file says. ``source`` names the file."""

    def __init__(self, gateway: Gateway, read: Callable[[], Deployment], *, source: str) -> None:
        self._gateway, self._read, self._source = gateway, read, source
        self._refused: Deployment | None = None

    def take(self) -> None:
        """Serve what the file says. Raises PrfaasError or OSError where it is refused: then the
        gateway goes on by its deployment, and by the keys, certificates and lists of that as
        they are now. A key that was taken away, or a certificate that was revoked, is good no
        longer, whatever else is in a file."""
        gateway, self._refused = self._gateway, None
        try:
            self._refused = self._read().of_gateway(gateway.deployment.gateway.name)
            gateway.become(self._refused, source=self._source)
            self._refused = None
        except Exception:  # Also where it is a fault of ours.
            gateway.access.take_files(gateway.deployment)
            gateway.access.show_to(gateway.engines, gateway.agents)
            with suppress(PrfaasError, OSError):
                gateway.rekey(cache_key(gateway.deployment))
            logger.warning(
                "the keys, certificates and lists that %s names are read all the same", self._source
            )
            raise

    def named(self) -> list[Path]:
        """Key files, certificates, lists and the cache key, of what is served and of what was
        refused: it may have been for one that comes after the file that names it."""
        asked = (self._gateway.deployment, self._refused)
        return [Path(file) for each in asked if each is not None for file in each.secret_files]
