"""What an engine's KV memory holds, from the number of blocks that vLLM has and their layout."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from prfaas.core.errors import PrfaasError
from prfaas.core.layout import KvLayout
from prfaas.scheduler.events import KvMemoryKnown

logger = logging.getLogger(__name__)

_BLOCKS = re.compile(
    rb'^vllm:cache_config_info\{[^}\n]*\bnum_gpu_blocks="(\d{1,12})"', re.MULTILINE
)
_STATES = 2
"""Blocks of a recurrent group that a request holds: the state it goes on from, and the next."""


class KvMemory(NamedTuple):
    """``tokens`` of prompts and answers; every request takes ``tokens_each`` more."""

    tokens: int
    tokens_each: int


def blocks_of(metrics: bytes) -> int | None:
    """The blocks that a vLLM server's ``/metrics`` tell, over all its ranks; None where it tells
    none."""
    found = [int(number) for number in _BLOCKS.findall(metrics)]
    return sum(found) or None


def kv_memory(layout: KvLayout, blocks: int) -> KvMemory | None:
    """``blocks`` are one pool for all groups. None for layouts of which no group grows with the
    prompt: there memory is no bound of tokens."""
    per_token = each = 0.0
    for group in layout.groups:
        if group.kind == "full_attention":
            per_token += 1 / group.block_tokens
            each += 0.5  # The last block is half full.
        elif group.kind == "recurrent":
            each += _STATES
        else:
            assert group.window_tokens is not None
            each += group.window_tokens / group.block_tokens + 1
    if not per_token:
        return None
    return KvMemory(int((blocks - 1) / per_token), int(each / per_token))


async def learn_kv_memory(
    name: str,
    layout: KvLayout | None,
    ask: Callable[[], Awaitable[int | None]],
    tell: Callable[[KvMemoryKnown], None],
) -> None:
    """``ask`` an engine for its blocks and ``tell`` the scheduler. They say nothing without its
    layout: it is asked once it is registered."""
    if layout is None:
        return
    try:
        blocks = await ask()
    except PrfaasError as error:  # It is told again when it has come back.
        logger.info("%s does not say how large its KV memory is: %s", name, error)
        return
    found = None if blocks is None else kv_memory(layout, blocks)
    if found is not None:
        logger.info("engine %s holds %d tokens in its KV memory", name, found.tokens)
        tell(KvMemoryKnown(name, found.tokens, found.tokens_each))
