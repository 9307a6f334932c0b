"""How much an engine's KV memory holds, by blocks and layout."""

from __future__ import annotations

from aiohttp import web

from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.gateway.kv_memory import blocks_of, kv_memory
from prfaas.testing.mock_deployment import MockDeployment, until

PAGE = b"""# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="256",cache_dtype="auto",engine="0",num_gpu_blocks="101"} 1.0
vllm:num_requests_running{engine="0",model_name="m"} 0.0
"""
LAYER = LayerLayout(name="l", index=0, page_bytes=8, dtype="u8", shape=(8,))


def group(kind: str, block_tokens: int = 256, window: int | None = None) -> KvGroup:
    return KvGroup(kind=kind, block_tokens=block_tokens, layers=(LAYER,), window_tokens=window)  # type: ignore[arg-type]


def layout(*groups: KvGroup) -> KvLayout:
    return KvLayout(model="m", groups=groups)


def test_vllm_tells_its_blocks() -> None:
    assert blocks_of(PAGE) == 101
    assert blocks_of(PAGE + PAGE.replace(b'engine="0"', b'engine="1"')) == 202
    for nothing in (
        b"",
        b"<html>",
        PAGE.replace(b'"101"', b'"None"'),
    ):
        assert blocks_of(nothing) is None


def test_a_group_that_grows_takes_blocks_by_its_tokens() -> None:
    assert kv_memory(layout(group("full_attention")), 101) == (25_600, 128)
    both = layout(group("full_attention"), group("full_attention"))
    assert kv_memory(both, 101) == (12_800, 128)


def test_states_and_windows_are_a_constant_of_each_request() -> None:
    hybrid = layout(group("full_attention"), group("recurrent"), group("recurrent"))
    assert kv_memory(hybrid, 101) == (25_600, 128 + 4 * 256)
    sliding = layout(group("full_attention"), group("sliding_window", window=512))
    assert kv_memory(sliding, 101) == (25_600, 128 + 3 * 256)
    assert kv_memory(layout(group("recurrent")), 101) is None


async def test_a_gateway_asks_every_engine_that_comes_up() -> None:
    mock = MockDeployment()
    told = mock.engines["d1"]

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=PAGE)

    routes = told.routes
    told.routes = lambda: [*routes(), web.get("/metrics", metrics)]  # type: ignore[method-assign]
    async with mock.running():
        await mock.ready()
        view = mock.gateway._driver.scheduler.view
        await until(lambda: view.engines["d1"].kv_tokens == 400)
        assert view.engines["d2"].kv_tokens == float("inf")


def test_metrics_that_are_made_to_be_expensive_say_nothing() -> None:
    begun = b"vllm:cache_config_info{"
    assert blocks_of((begun + b"\n") * 100_000) is None
    assert blocks_of(begun + b"a" * 1_000_000) is None
    assert blocks_of(begun + b'num_gpu_blocks="' + b"9" * 5000 + b'"}') is None
