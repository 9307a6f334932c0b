"""Watches an agent's certificates and its cache key, which are exchanged while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

from prfaas.agent.peers import Peers
from prfaas.core.errors import ConfigError
from prfaas.tls.cache_key import LiveCacheKey
from prfaas.tls.expiry import expiring
from prfaas.tls.live import LiveTls, stamp_of, stamp_of_file

log = logging.getLogger(__name__)

_LOOK_S, _WARN_S = 1.0, 86400.0
"""How often files are looked at; how often the log warns of one that soon expires."""


async def watch_certificates(tls: LiveTls, peers: Peers) -> None:
    """Read them again when they have changed and look the same for a moment: they may be in the
    middle of being written. End connections with whom is not trusted any more, so within three
    seconds of a change. Warn of those that expire soon, and of lists that lack."""
    seen, warned_at = stamp_of(tls.files), -inf
    while True:
        if time.monotonic() - warned_at >= _WARN_S:
            warned_at = time.monotonic()
            for line in expiring(tls.expiries.values(), now=time.time()):
                log.warning("%s", line)
            if tls.lack is not None:
                log.warning("%s", tls.lack)
        await asyncio.sleep(_LOOK_S)
        now = stamp_of(tls.files)
        if now == seen and tls.changed():
            _renew(tls)
            warned_at = -inf
        seen = now
        try:
            ended = [*tls.end_untrusted(now=time.time()), *peers.end_untrusted(now=time.time())]
        except Exception:
            log.exception("a fault of ours with connections' certificates; the agent goes on")
        else:
            for line in ended:
                log.warning("%s", line)


def _renew(tls: LiveTls) -> None:
    try:
        tls.read(tls.files)
    except (ConfigError, OSError) as error:
        log.error("the new certificates are refused, all stays as it was: %s", error)
        tls.refuse_until_changed()
    except Exception:
        log.exception("a fault of ours with the new certificates; the agent goes on")
        tls.refuse_until_changed()
    else:
        log.info("new certificates are used from now on")


async def watch_cache_key(live: LiveCacheKey, exchanged: Callable[[], None]) -> None:
    """The same for the cache key; ``exchanged``: see `look_at`."""
    seen = live.path, stamp_of_file(live.path)
    while True:
        await asyncio.sleep(_LOOK_S)
        now = live.path, stamp_of_file(live.path)
        if now == seen and live.changed():
            look_at(live, live.path, exchanged)
        seen = now


def look_at(live: LiveCacheKey, path: Path, exchanged: Callable[[], None]) -> None:
    """Take the cache key that is in this file. ``exchanged``: called when it is another one. Where
    it is none the old one holds, until the file has changed."""
    try:
        if live.look_at(path):
            exchanged()
    except ConfigError as error:
        log.error("the new cache key is refused, the old one holds: %s", error)
    except Exception:
        log.exception("a fault of ours with the new cache key; the agent goes on")
