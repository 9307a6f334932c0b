"""A model's kernels are tuned once on a machine, by one engine alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.core.deployment import Deployment, MachineConfig, load_deployment
from prfaas.core.errors import EngineError
from prfaas.launch import tuning
from prfaas.launch.start import embedded_default

ALL = ("east-prefill", "west-prefill", "west-decode")


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(metadata, "version", lambda _: "0.32.0")
    whole = load_deployment(embedded_default())
    model = msgspec.structs.replace(whole.model, path="some/model", served_name="m")
    return msgspec.structs.replace(whole, model=model)


def to_tune(deployment: Deployment, local: Sequence[str]) -> list[str]:
    return [engine.name for engine in tuning.to_tune(deployment, local)]


async def tune(
    deployment: Deployment, *, status: int, **changed: object
) -> list[dict[str, object]]:
    """``status`` 0: the engine ends instead of an answer; ``changed`` is the engine's own."""
    asked: list[dict[str, object]] = []

    async def complete(request: web.Request) -> web.Response:
        asked.append(await request.json() | {"key": request.headers.get("Authorization")})
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({}, status=status or 500)

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        url = str(server.make_url("")).rstrip("/")
        engine = msgspec.structs.replace(deployment.engines[0], url=url, **changed)
        await tuning.run(http, deployment, engine)
    return asked


async def test_a_full_chunk_and_a_short_one_are_computed_once(deployment: Deployment) -> None:
    assert to_tune(deployment, ALL) == ["east-prefill"]
    (asked,) = await tune(deployment, status=200)
    prompt = asked["prompt"]
    assert isinstance(prompt, list)
    assert len(prompt) > deployment.model.max_num_batched_tokens
    assert asked["max_tokens"] == 2
    assert to_tune(deployment, ALL) == []


async def test_a_failure_is_told_and_nothing_counts_as_tuned(deployment: Deployment) -> None:
    with pytest.raises(EngineError, match="did not answer its first prompt"):
        await tune(deployment, status=500)
    assert to_tune(deployment, ALL) == ["east-prefill"]


async def test_an_engine_that_ends_is_told_as_one(deployment: Deployment) -> None:
    with pytest.raises(EngineError, match="east-prefill ended at its first prompt"):
        await tune(deployment, status=0)
    assert to_tune(deployment, ALL) == ["east-prefill"]


async def test_an_engine_with_a_key_is_shown_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "secret")
    (asked,) = await tune(deployment, status=200, api_key_env="ENGINE_KEY")
    assert asked["key"] == "Bearer secret"
    (asked,) = await tune(deployment, status=200)
    assert asked["key"] is None


async def test_gpus_of_another_kind_are_tuned_for_themselves(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home directory may be several machines'."""
    monkeypatch.setattr(tuning, "kinds", lambda: "NVIDIA H200")
    await tune(deployment, status=200)
    assert to_tune(deployment, ALL) == []
    monkeypatch.setattr(tuning, "kinds", lambda: "NVIDIA A100-SXM4-80GB")
    assert to_tune(deployment, ALL) == ["east-prefill"]


async def test_another_model_is_tuned_for_itself(deployment: Deployment) -> None:
    await tune(deployment, status=200)
    model = msgspec.structs.replace(deployment.model, path="another/model")
    assert to_tune(msgspec.structs.replace(deployment, model=model), ALL)


def test_an_engine_that_starts_with_others_only_does_not_start_alone(
    deployment: Deployment,
) -> None:
    """A data-parallel rank of a mixture of experts is not ready before all of them are there."""

    def of_two(machine: MachineConfig) -> MachineConfig:
        ranks = [
            msgspec.structs.replace(e, args=("-dp", "2", "-dpn", str(n)))
            if machine.engines[0].name == "east-prefill"
            else e
            for n, e in enumerate(machine.engines)
        ]
        return msgspec.structs.replace(machine, engines=tuple(ranks))

    assert to_tune(deployment.with_machines(of_two), ALL) == ["west-prefill"]
    assert to_tune(deployment.with_machines(of_two), ["east-prefill"]) == []


async def test_another_number_of_ranks_is_tuned_for_itself(deployment: Deployment) -> None:
    def two_ranks(machine: MachineConfig) -> MachineConfig:
        wide = [
            msgspec.structs.replace(e, args=("-tp", "2")) if e.role == "decode" else e
            for e in machine.engines
        ]
        return msgspec.structs.replace(machine, engines=tuple(wide))

    wide = deployment.with_machines(two_ranks)
    assert to_tune(wide, ALL) == ["east-prefill", "west-decode"]
    await tune(wide, status=200)
    assert to_tune(wide, ALL) == ["west-decode"]
    assert to_tune(wide, ["west-prefill"]) == []
