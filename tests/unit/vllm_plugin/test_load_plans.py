"""What of a request is loaded, and from where."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.lora.request import LoRARequest

from prfaas.core.handoff import ImportParams, LoadParams
from prfaas.vllm_plugin.load_plans import LoadPlans
from prfaas.vllm_plugin.prefix_names import PrefixNames

BLOCK = 16


def request(tokens: int, *, salt: str | None = None, **more: Any) -> Any:
    return SimpleNamespace(
        request_id="r",
        num_prompt_tokens=tokens,
        all_token_ids=list(range(tokens)),
        mm_features=more.get("mm_features", []),
        prompt_embeds=None,
        lora_request=more.get("lora_request"),
        cache_salt=salt,
    )


def plans(tokens: int, params: Any) -> LoadPlans:
    found = LoadPlans()
    asked = request(tokens)
    found.note(asked, params, PrefixNames("w", BLOCK).of(asked))
    return found


def transfer(from_token: int, to_token: int, pool_tokens: int = 0) -> ImportParams:
    return ImportParams(
        transfer_id="t", from_token=from_token, to_token=to_token, pool_tokens=pool_tokens
    )


@pytest.mark.parametrize(
    ("params", "local", "offered", "cached", "first"),
    [
        (LoadParams(pool_tokens=64), 0, 64, 64, 64),
        (LoadParams(pool_tokens=64), 32, 32, 64, 64),
        (LoadParams(pool_tokens=70), 0, 64, 64, 64),  # whole blocks
        (LoadParams(pool_tokens=100), 0, 96, 96, 96),  # and never the last token
        (transfer(0, 96), 0, 96, None, 0),
        (transfer(64, 96), 64, 32, None, 64),
        (transfer(64, 96, 64), 64, 32, None, 64),  # the engine has what it needs
        (transfer(64, 96, 64), 32, 64, 64, 64),  # both
        (transfer(64, 96, 80), 0, 96, 80, 64),
        (
            transfer(64, 96, 48),
            0,
            48,
            48,
            48,
        ),  # the transfer is of no use without the tokens before
    ],
)
def test_what_is_loaded(
    params: Any, local: int, offered: int, cached: int | None, first: int
) -> None:
    found = plans(100, params)
    assert found.offer("r", local) == offered
    start = found.take("r", ([1],))
    assert start.local_tokens == local
    assert start.to_token == local + offered
    assert start.from_token == first
    assert (start.cached and start.cached.to_token) == cached
    assert (start.transfer_id is None) == (first == local + offered)
    assert found.offer("r", local) == 0  # a request loads once


@pytest.mark.parametrize(
    ("params", "local"),
    [
        (LoadParams(pool_tokens=64), 64),
        (LoadParams(pool_tokens=8), 0),
        (transfer(64, 96), 32),
        (transfer(0, 96), 96),
    ],
)
def test_nothing_is_loaded(params: Any, local: int) -> None:
    assert plans(100, params).offer("r", local) == 0


def test_an_engine_that_would_fail_instead_of_computing_loads_nothing_from_the_cache() -> None:
    found, asked = LoadPlans(from_cache=False), request(100)
    names = PrefixNames("w", BLOCK).of(asked)
    found.note(asked, LoadParams(pool_tokens=64), names)
    assert found.offer("r", 0) == 0
    found.note(asked, transfer(0, 96, 64), names)
    assert found.offer("r", 0) == 96


def test_prompts_that_are_more_than_tokens_have_no_names() -> None:
    assert PrefixNames("w", BLOCK).of(request(100, mm_features=["picture"])) is None


def test_names_tell_salts_and_adapters_apart() -> None:
    names = PrefixNames("w", BLOCK)
    lora = LoRARequest("a", 1, "/a")
    every = [
        names.of(request(100)),
        names.of(request(100, salt="s")),
        names.of(request(100, lora_request=lora)),
        PrefixNames("v", BLOCK).of(request(100)),
    ]
    assert len({found.names[0] for found in every if found is not None}) == 4


def test_what_a_transfer_is_of_is_told_with_salt_and_adapter() -> None:
    """Gateways find it by keys that the agent makes of these."""
    lora = LoRARequest("a", 1, "/a")
    found = PrefixNames("w", BLOCK).of(request(100, salt="s", lora_request=lora))
    told = None if found is None else found.stretch(0, BLOCK)
    assert told is not None
    assert (told.salt, told.adapter) == ("s", "a")
