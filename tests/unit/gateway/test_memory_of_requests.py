"""What a request leaves behind: nothing."""

from __future__ import annotations

import gc

import pytest

from prfaas.gateway.exchange import Exchange
from prfaas.testing.mock_deployment import MockDeployment, until


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "prompt", ["short", "longer than one block", "so long that it is offloaded" * 3]
)
async def test_its_memory_is_free_without_the_garbage_collector(prompt: str, stream: bool) -> None:
    def left() -> bool:
        return any(isinstance(found, Exchange) for found in gc.get_objects())

    mock = MockDeployment(block_tokens=16)
    async with mock.running() as client:
        await mock.ready()
        gc.collect()
        gc.disable()
        try:
            body = {"prompt": prompt, "stream": stream}
            async with client.post("/v1/completions", json=body) as response:
                assert response.status == 200
                await response.read()
            await until(lambda: not left())
        finally:
            gc.enable()
