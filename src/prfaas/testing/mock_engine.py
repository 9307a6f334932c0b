"""A vLLM server without a model: the endpoints the gateway uses, in vLLM's own shapes.

A token is a byte of the text. The answer to a prompt depends on its token ids alone, so an answer
is right exactly if it equals `expected_words` of the prompt, whichever way it took.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from typing import Any

from aiohttp import web

from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_answers import hang_up, streamed_answer, whole_answer
from prfaas.testing.mock_http import MockServer
from prfaas.testing.mock_named_events import named_answer

KV_BYTES_PER_TOKEN = 10
MAX_MODEL_LEN = 1_000_000
ANSWER_WORDS = 5


def expected_words(token_ids: list[int]) -> list[str]:
    """The answer, word by word."""
    digest = hashlib.sha256(array("I", token_ids).tobytes()).hexdigest()
    return [f" {digest[8 * i : 8 * i + 8]}" for i in range(ANSWER_WORDS)]


class MockEngine(MockServer):
    """One engine, with the agent beside it and (for exports) all agents by name.

    ``prefill_gate``, ``first_token_gate`` and ``middle_gate`` hold a request at that point while
    they are cleared; without ``exports_complete`` transfers stay on the line after prefill;
    ``refuse_exports`` is the reason prefill gives for having exported nothing. A ``script`` is
    followed instead of the words of a streamed answer: bytes are written, events waited for.
    ``adapters`` are served beside the model. With ``tells_cached`` answers say how much of their
    prompt was cached, as vLLM says it of itself and of a prefill elsewhere: all of it where it was
    asked before under the same ``cache_salt``, and what is handed over.

    ``under_way`` counts the prefills and answers of now, ``most_under_way`` those there ever were.

    Ways to fail: ``health_status`` is what a health check gets; while ``render_gate`` is cleared
    nothing is rendered, ``render_status`` is answered instead; an answer takes ``takes_s`` to its
    first token, a prefill ``prefill_takes_s``; ``full_for_s`` is the Retry-After of a 429 to every
    request; a prompt that contains ``dies_of`` kills the engine, which ``says_so``, as vLLM does,
    or hangs up; ``garbage`` is answered instead of JSON; ``raw`` are bytes that are sent in place
    of any HTTP answer, before it hangs up. One that ``lies`` answers another prompt's words.
    """

    def __init__(self, name: str, agent: MockAgent, agents: dict[str, MockAgent]) -> None:
        super().__init__()
        self.name = name
        self.agent = agent
        self.agents = agents
        self.model = "mock-model"
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.keeps_requests = True
        self.cancelled: list[str] = []
        self.recomputed = 0
        self.under_way = self.most_under_way = 0
        self.renders = True
        self.embeds = False
        self.exports_complete = True
        self.refuse_exports: str | None = None
        self.fail_with_status: int | None = None
        self.script: list[bytes | asyncio.Event] = []
        self.adapters: list[str] = []
        self.tells_cached = False
        self._asked: set[tuple[str | None, tuple[int, ...]]] = set()
        self.health_status, self.says_so = 200, False
        self.render_status: int | None = None
        self.renders_total = 0
        self.takes_s = self.prefill_takes_s = 0.0
        self.full_for_s: int | None = None
        self.dies_of: str | None = None
        self.garbage: bytes | None = None
        self.raw: bytes | None = None
        self.lies = False
        self._death: asyncio.Task[None] | None = None
        self.render_gate = asyncio.Event()
        self.render_gate.set()
        self.prefill_gate, self.first_token_gate, self.middle_gate = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )
        for gate in (self.prefill_gate, self.first_token_gate, self.middle_gate):
            gate.set()

    def routes(self) -> list[web.RouteDef]:
        """vLLM's endpoints that the gateway uses."""
        found = [
            web.get("/health", self._health),
            web.get("/v1/models", self._models),
            web.post("/tokenize", self._tokenize),
            web.post("/v1/messages/count_tokens", self._tokenize),
            web.post("/v1/completions", self._complete),
            web.post("/v1/chat/completions", self._complete),
            web.post("/v1/messages", self._complete),
            web.post("/v1/responses", self._complete),
        ]
        if self.embeds:
            found.append(web.post("/v1/embeddings", self._embed))
        if self.renders:
            for path in ("completions", "chat/completions", "messages", "responses"):
                found.append(web.post(f"/v1/{path}/render", self._render))
        return found

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Bodies of the requests to ``path``, in order."""
        return [body for at, body, _ in self.requests if at == path]

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.health_status)

    async def _models(self, _request: web.Request) -> web.Response:
        card = {"id": self.model, "object": "model", "parent": None}
        cards = [{**card, "max_model_len": MAX_MODEL_LEN}]
        cards += [{"id": name, "object": "model", "parent": self.model} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.path, body, dict(request.headers)))
        tokens = list(body.get("prompt", "").encode())
        return web.json_response({"count": len(tokens), "tokens": tokens})

    async def _render(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.renders_total += 1
        await self.render_gate.wait()
        if self.render_status is not None:
            return _error(self.render_status, "the template failed")
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        prompts = [_rendered(body, ids) for ids in _prompts(body)]
        one = "messages" in body or "input" in body
        return web.json_response(prompts[0] if one else prompts)

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.path, body, dict(request.headers)))
        await self.first_token_gate.wait()
        if self.fail_with_status is not None:
            return _error(self.fail_with_status, "EngineCore died")
        vector = {"object": "embedding", "index": 0, "embedding": [float(len(body["input"]))]}
        answer = {"object": "list", "model": self.model, "data": [vector]}
        return web.json_response({**answer, "usage": {"prompt_tokens": 1, "total_tokens": 1}})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.keeps_requests:
            self.requests.append((request.path, body, dict(request.headers)))
        if self.dies_of is not None and any(_contains(i, self.dies_of) for i in _prompts(body)):
            if self.says_so:
                self.health_status = 503
                return _error(500, "EngineCore encountered an issue.")
            self._death = asyncio.ensure_future(self.stop())
            await asyncio.Event().wait()
        if self.full_for_s is not None:
            return _full(self.full_for_s)
        if self.raw is not None:
            return hang_up(request, self.raw)
        if self.garbage is not None:
            return web.Response(body=self.garbage, content_type="application/json")
        if self.fail_with_status is not None:
            return _error(self.fail_with_status, "EngineCore died")
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            params = body.get("kv_transfer_params") or {}
            if params.get("prfaas") == "export":
                return await self._prefill(body, params)
            return await self._answer(request, body, params)
        except asyncio.CancelledError:
            self.cancelled.append(request.headers["X-Request-Id"])
            raise
        finally:
            self.under_way -= 1

    async def _prefill(self, body: dict[str, Any], params: dict[str, Any]) -> web.Response:
        exported = {"prfaas": "exported", "transfer_id": params["transfer_id"], "ok": True}
        if self.tells_cached:
            exported["remote_prefill_cached_tokens"] = self._cached(body, body["prompt"])
        if self.refuse_exports is not None:
            exported |= {"ok": False, "reason": self.refuse_exports}
            return web.json_response({"kv_transfer_params": exported})
        total = (params["to_token"] - params["from_token"]) * KV_BYTES_PER_TOKEN
        destination = self.agents[params["destination"]]
        transfer_id = params["transfer_id"]
        half = total // 2
        await destination.receive(transfer_id, total=total, stored=half, state="receiving")
        await self.prefill_gate.wait()
        await asyncio.sleep(self.prefill_takes_s)
        self.agent.sent(transfer_id, total=total, at_export_end=half)
        if self.exports_complete:
            await destination.receive(transfer_id, total=total, stored=total, state="complete")
        return web.json_response({"choices": [], "kv_transfer_params": exported})

    async def _answer(
        self, request: web.Request, body: dict[str, Any], params: dict[str, Any]
    ) -> web.StreamResponse:
        ids = params.get("prompt_token_ids") or _prompts(body)[0]
        if params.get("prfaas") == "import":
            found = self.agent.transfers.get(params["transfer_id"], {})
            self.recomputed += found.get("state") != "complete"
            await self.agent.read(params["transfer_id"])
        await self.first_token_gate.wait()
        await asyncio.sleep(self.takes_s)
        words = expected_words([*ids, 0] if self.lies else ids)
        if request.path in ("/v1/messages", "/v1/responses"):
            await self.middle_gate.wait()
            return await named_answer(request, body, words, prompt_tokens=len(ids))
        if not body.get("stream"):
            await self.middle_gate.wait()
            answer = whole_answer(
                request.path, self.model, words,
                choices=body.get("n", 1), usage=self._usage(body, ids),
            )  # fmt: skip
            return web.json_response({**answer, "prompt_token_ids": ids})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if self.script:
            await _follow(self.script, response)
            return response
        events = streamed_answer(request.path, self.model, words, self._usage(body, ids))
        for number, event in enumerate(events):
            await response.write(event)
            if number == 1:
                await self.middle_gate.wait()
        return response

    def _usage(self, body: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        if not self.tells_cached:
            return {}
        details = {"cached_tokens": self._cached(body, ids)}
        return {"usage": {"completion_tokens": 4, "prompt_tokens_details": details}}

    def _cached(self, body: dict[str, Any], ids: list[int]) -> int:
        asked = (body.get("cache_salt"), tuple(ids))
        cached = len(ids) if asked in self._asked else 0
        self._asked.add(asked)
        params = body.get("kv_transfer_params") or {}
        if params.get("prfaas") == "import":
            cached = max(cached, params["to_token"])
        if params.get("do_remote_prefill"):
            cached = params["remote_prefill_cached_tokens"]
        return cached

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        model = body.get("model")
        if model not in (None, self.model, *self.adapters):
            return _error(404, f"The model `{model}` does not exist.")
        if any(len(ids) >= MAX_MODEL_LEN for ids in _prompts(body)):
            return _error(400, "This model's maximum context length is exceeded")
        return None


def _prompts(body: dict[str, Any]) -> list[list[int]]:
    """The token ids of each prompt of a body, as the mock tokenises."""
    if "messages" in body:
        text = "".join(f"<{m['role']}>{m['content']}" for m in body["messages"])
        return [list(text.encode())]
    if isinstance(body.get("input"), str):
        return [list(body["input"].encode())]
    prompt = body.get("prompt") or ""
    if isinstance(prompt, str):
        return [list(prompt.encode())]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    return [list(p.encode()) if isinstance(p, str) else p for p in prompt]


def _rendered(body: dict[str, Any], token_ids: list[int]) -> dict[str, Any]:
    wants_all = body.get("prompt_logprobs") is not None
    sampling: dict[str, Any] = {"skip_reading_prefix_cache": wants_all}
    if body.get("max_tokens", 16) != 16:  # As vLLM, which leaves its defaults out.
        sampling["max_tokens"] = body["max_tokens"]
    return {
        "request_id": "cmpl-1",
        "token_ids": token_ids,
        "features": None,
        "sampling_params": sampling,
        "stream": bool(body.get("stream")),
    }


async def _follow(script: list[bytes | asyncio.Event], response: web.StreamResponse) -> None:
    for step in script:
        if isinstance(step, bytes):
            await response.write(step)
        else:
            await step.wait()


def _contains(token_ids: list[int], text: str) -> bool:
    return text.encode() in bytes(token_ids)


def _full(retry_after_s: int) -> web.Response:
    refused = _error(429, "too many requests waiting")
    refused.headers["Retry-After"] = str(retry_after_s)
    return refused


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "NotFoundError", "param": None, "code": status}
    return web.json_response({"error": error}, status=status)
