"""An engine without a model whose prefix cache is small, and whose agent's cache is real.

It has blocks as vLLM has them: what is used is the youngest, its end before its beginning, and the
oldest go. It loads from its agent what it is told lies there, hands over and keeps what a connector
would, and counts the prompt tokens that it had to compute.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from aiohttp import web

from prfaas.core.errors import PrfaasError
from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.core.prompt_digest import prompt_digest
from prfaas.engine_socket.messages import OpenImport
from prfaas.index.cache_events import BlocksStored
from prfaas.index.engine_index import EngineIndex
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MockEngine
from prfaas.testing.mock_engine_rank import WAIT_S, MockEngineRank

BLOCK_TOKENS, BLOCK_BYTES = 16, 16 * 1024
_ROOT = root_digest("w", adapter=None, salt=None)


def layout() -> KvLayout:
    """One layer of full attention."""
    layer = LayerLayout(
        name="l0", index=0, page_bytes=BLOCK_BYTES, dtype="bfloat16", shape=(BLOCK_BYTES,)
    )
    group = KvGroup(kind="full_attention", block_tokens=BLOCK_TOKENS, layers=(layer,))
    return KvLayout(model="mock-model", groups=(group,))


def answer_to(token_ids: list[int], count: int) -> list[int]:
    """The tokens that it has answered with."""
    seed = sum(token_ids) + len(token_ids)
    return [300 + (seed * (n + 7)) % 3000 for n in range(count)]


class CachingEngine(MockEngine):
    """``blocks``: how many it has. ``keeps``: whether its agent keeps its answers."""

    def __init__(self, name: str, *, blocks: int, keeps: bool) -> None:
        super().__init__(name, MockAgent(""), {})
        self.blocks, self.keeps = blocks, keeps
        self.index: EngineIndex | None = None
        """Told what it holds, as by its KV events."""
        self.computed_tokens = 0
        self.failures: list[str] = []
        self._held: OrderedDict[bytes, None] = OrderedDict()
        self._rank: MockEngineRank | None = None
        self._kept = 0

    async def connect(self, socket: str) -> None:
        """Register with the agent."""
        self._rank = await asyncio.to_thread(MockEngineRank, socket, self.name, layout())

    async def leave(self) -> None:
        """The agent knows it no more."""
        if self._rank is not None:
            await asyncio.to_thread(self._rank.client.close)

    async def _prefill(self, body: dict[str, Any], params: dict[str, Any]) -> web.Response:
        ids = body["prompt"]
        had = await self._has(ids, params.get("pool_tokens", 0))
        self.computed_tokens += len(ids) - had
        self._hold(ids)
        reason = await asyncio.to_thread(
            self._hand_over, ids, params["from_token"], params["to_token"],
            transfer_id=params["transfer_id"], destination=params["destination"],
            readers=tuple(params["readers"]),
        )  # fmt: skip
        exported = {
            "prfaas": "exported", "transfer_id": params["transfer_id"], "ok": reason is None,
            "do_remote_prefill": True, "remote_prefill_cached_tokens": had,
        }  # fmt: skip
        return web.json_response({"choices": [], "kv_transfer_params": exported})

    async def _answer(
        self, request: web.Request, body: dict[str, Any], params: dict[str, Any]
    ) -> web.StreamResponse:
        ids = body["prompt"]
        at_agent = params.get("pool_tokens", 0)
        had = await self._has(ids, at_agent)
        if params.get("prfaas") == "import" and had >= params["from_token"]:
            had = await asyncio.to_thread(self._read, ids, params)
            at_agent = max(at_agent, had)
        self.computed_tokens += len(ids) - had
        both = [*ids, *answer_to(ids, body["max_tokens"])][:-1]
        self._hold(both)
        first, end = at_agent // BLOCK_TOKENS, len(both) // BLOCK_TOKENS
        if self.keeps and first < end:
            self._kept += 1
            await asyncio.to_thread(
                self._hand_over, both, first * BLOCK_TOKENS, end * BLOCK_TOKENS,
                transfer_id=f"answer-{self.name}-{self._kept}", destination="", readers=(),
            )  # fmt: skip
        return await super()._answer(request, body, {"prompt_token_ids": ids})

    async def _has(self, ids: list[int], at_agent: int) -> int:
        """Tokens of a prompt that need not be computed."""
        names = _names(ids)[: (len(ids) - 1) // BLOCK_TOKENS]
        own = 0
        while own < len(names) and names[own] in self._held:
            own += 1
        there = min(at_agent // BLOCK_TOKENS, len(names))
        if there > own and await asyncio.to_thread(self._load, names, own, there):
            own = there
        return own * BLOCK_TOKENS

    def _load(self, names: tuple[bytes, ...], own: int, there: int) -> bool:
        assert self._rank is not None
        client = self._rank.client
        load = client.open_load(
            local_tokens=own * BLOCK_TOKENS,
            to_token=there * BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
            names=names[:there],
        )
        try:
            load.future.result(WAIT_S)
        except PrfaasError as error:
            self.failures.append(str(error))
            return False
        finally:
            client.close_load(load)
        return True

    def _read(self, ids: list[int], params: dict[str, Any]) -> int:
        assert self._rank is not None
        client, name = self._rank.client, params["transfer_id"]
        from_token, to_token = int(params["from_token"]), int(params["to_token"])
        size = (to_token - from_token) // BLOCK_TOKENS * BLOCK_BYTES
        digest = prompt_digest(ids, to_token=to_token)
        opened = client.open_import(OpenImport(name, from_token, to_token, size, digest))
        try:
            opened.future.result(WAIT_S)
            client.describe(name, _stretch(ids, from_token, to_token))
        except PrfaasError as error:
            self.failures.append(str(error))
            return from_token
        finally:
            client.close_import(opened)
        return to_token

    def _hand_over(
        self,
        ids: list[int],
        from_token: int,
        to_token: int,
        *,
        transfer_id: str,
        destination: str,
        readers: tuple[str, ...],
    ) -> str | None:
        rank, size = self._rank, (to_token - from_token) // BLOCK_TOKENS * BLOCK_BYTES
        assert rank is not None
        digest = prompt_digest(ids, to_token=to_token)
        rank.begin(
            transfer_id, destination, size, (from_token, to_token), digest=digest, readers=readers
        )
        rank.client.describe(transfer_id, _stretch(ids, from_token, to_token))
        done = 0
        while done < size:
            done = rank.hand_over(transfer_id, done, size)
        reason = rank.client.finish_export(transfer_id)
        if reason is not None:
            self.failures.append(reason)
        return reason

    def _hold(self, ids: list[int]) -> None:
        names = _names(ids)
        fresh = [name for name in names if name not in self._held]
        for name in reversed(names):
            self._held[name] = None
            self._held.move_to_end(name)
        gone = [self._held.popitem(last=False)[0] for _ in range(len(self._held) - self.blocks)]
        assert self.index is not None
        if fresh:
            known = len(names) - len(fresh)
            self.index.stored(
                BlocksStored(
                    group=0, kind="full_attention", block_tokens=BLOCK_TOKENS, hashes=fresh,
                    parent=names[known - 1] if known else None,
                    token_ids=ids[known * BLOCK_TOKENS : len(names) * BLOCK_TOKENS],
                )
            )  # fmt: skip
        self.index.removed(0, gone)


def _names(ids: list[int]) -> tuple[bytes, ...]:
    return chain(_ROOT, ids, BLOCK_TOKENS)


def _stretch(ids: list[int], from_token: int, to_token: int) -> PromptPrefix:
    found = stretch(
        _names(ids), _ROOT, ids, block_tokens=BLOCK_TOKENS,
        from_token=from_token, to_token=to_token, salt=None, adapter=None,
    )  # fmt: skip
    assert found is not None
    return found
