"""Engines as the profiler sees them: what they say, and steps from when tokens came."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from prfaas.core.errors import EngineError
from prfaas.profiling.engine import EngineUnderTest, step_of, steps_for
from prfaas.profiling.profile import Wanted, measure
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MAX_MODEL_LEN, MockEngine

METRICS = """# HELP vllm:num_requests_running Number
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="512"} 1.0
"""


class Metered(MockEngine):
    """With the pages the profiler looks at."""

    def routes(self) -> list[web.RouteDef]:
        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=METRICS)

        async def version(_: web.Request) -> web.Response:
            return web.json_response({"version": "0.32.0"})

        return [*super().routes(), web.get("/metrics", metrics), web.get("/version", version)]


def test_a_step_is_counted_while_all_decode() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]
    late = [2.5, 3.0, 4.0, 5.0]
    # Between 2.5 and 4: of five tokens each 1.5 of the one, 8 thirds of the other.
    assert step_of([early, late], 5) == pytest.approx(1.5 / (1.5 + 8 / 3) * 2)
    assert step_of([[0.0, 8.0]], 9) == 1.0  # Eight tokens in one event.
    with pytest.raises(EngineError, match="never decoded at the same time"):
        step_of([[0.0, 1.0], [2.0, 3.0]], 2)
    with pytest.raises(EngineError, match="never decoded"):
        step_of([[0.0, 1.0], []], 2)


def test_slow_steps_are_few() -> None:
    assert (steps_for(10.0), steps_for(0.05), steps_for(1e-4)) == (12, 30, 128)


async def test_what_an_engine_says_of_itself() -> None:
    engine = Metered("e", MockAgent("a"), {})
    await engine.start()
    try:
        async with aiohttp.ClientSession() as session:
            under_test = EngineUnderTest(engine.url + "/", session)
            facts = await under_test.facts()
            assert (facts.model, facts.version) == ("mock-model", "0.32.0")
            assert (facts.blocks, facts.block_tokens, facts.running) == (512, 16, 2)
            assert facts.max_model_len == MAX_MODEL_LEN
            with pytest.raises(EngineError, match="2 requests running"):
                await measure(Wanted(engine.url, 1.0), lambda _: None)
            engine.fail_with_status = 500
            with pytest.raises(EngineError, match="EngineCore died"):
                await under_test.ask([5], 1)
    finally:
        await engine.stop()


async def test_what_is_no_engine_is_said() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(EngineError, match=r"127\.0\.0\.1:1"):
            await EngineUnderTest("http://127.0.0.1:1", session).facts()
