"""What an engine answers to who has no key."""

from __future__ import annotations

from typing import Any

import pytest

from prfaas.vllm_plugin.key_for_all import KeyForAll

KEY = "an-engine-key"
Scope = dict[str, Any]


class Served:
    """An application that notes whether it was asked, behind the middleware."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.said: list[Any] = []
        self._asking = KeyForAll(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["type"])

    async def ask(
        self, path: str, *, method: str = "POST", kind: str = "http", **headers: str
    ) -> bool:
        """Whether it came to the application."""
        before = len(self.asked)
        scope: Scope = {"type": kind, "path": path, "method": method}
        if path.startswith("/behind"):
            scope["root_path"] = "/behind"
        scope["headers"] = [(name.encode(), said.encode()) for name, said in headers.items()]
        await self._asking(scope, self._receive, self._send)
        return len(self.asked) > before

    async def _receive(self) -> Any:
        raise AssertionError("nothing is read of who has no key")

    async def _send(self, message: Any) -> None:
        self.said.append(message)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    return Served()


@pytest.mark.parametrize(
    "path",
    ["/invocations", "/generative_scoring", "/tokenize", "/v1/models", "/health/", "/behind/x"],
)
async def test_whatever_answers_asks_for_the_key(served: Served, path: str) -> None:
    """vLLM asks under some prefixes alone, and answers prompts at others."""
    assert not await served.ask(path)
    assert served.said[0]["status"] == 401
    assert not await served.ask(path, method="GET")
    assert await served.ask(path, authorization=f"Bearer {KEY}")


@pytest.mark.parametrize("path", ["/health", "/metrics", "/kv_event_sources", "/behind/health"])
async def test_what_says_nothing_of_prompts_is_open(served: Served, path: str) -> None:
    assert await served.ask(path, method="GET")
    assert not await served.ask(path), "nobody need write there"


@pytest.mark.parametrize("said", [KEY, "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", "Bearer "])
async def test_another_key_is_none(served: Served, said: str) -> None:
    assert not await served.ask("/v1/completions", authorization=said)


async def test_two_keys_are_none(served: Served) -> None:
    one = f"Bearer {KEY}"
    assert not await served.ask("/x", authorization=one, Authorization=one)


async def test_a_websocket_is_asked_too(served: Served) -> None:
    assert not await served.ask("/health", kind="websocket", method="GET")
    assert served.said == [{"type": "websocket.close", "code": 1008}]
    assert await served.ask("/v1/realtime", kind="websocket", authorization=f"Bearer {KEY}")


async def test_starting_and_stopping_is_nobodys(served: Served) -> None:
    assert await served.ask("", kind="lifespan")


def test_without_a_key_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        Served()
