"""Whose key, which limits, and for how long somebody is told to wait."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from prfaas.core.deployment import GatewayConfig, TenantConfig
from prfaas.core.deployment.tenants import DEFAULT_TENANT
from prfaas.core.errors import ConfigError
from prfaas.gateway.api_errors import RequestRefused, TooManyRequests
from prfaas.gateway.body import RequestBody
from prfaas.gateway.keys import key_shown
from prfaas.gateway.tenants import Tenants, read_tenants


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tenants(*configs: TenantConfig, clock: Clock | None = None, **more: object) -> Tenants:
    return Tenants(read_tenants(GatewayConfig(tenants=configs, **more)), clock or Clock())  # type: ignore[arg-type]


def one(**limits: object) -> TenantConfig:
    return TenantConfig(name="acme", api_keys=("acme-key",), **limits)  # type: ignore[arg-type]


OTHER = TenantConfig(name="other", api_keys=("other-key",))


def shown(authorization: str) -> str:
    return key_shown(
        make_mocked_request("POST", "/v1/completions", {"Authorization": authorization})
    )


def test_anthropics_clients_show_a_key_in_a_header_of_its_own() -> None:
    request = make_mocked_request("POST", "/v1/messages", {"X-Api-Key": "acme-key"})
    assert key_shown(request) == "acme-key"


def test_a_key_is_its_tenants() -> None:
    both = tenants(one(), OTHER)
    assert both.find(shown("Bearer acme-key")).name == "acme"
    assert both.find(shown("bearer  other-key")).name == "other"
    for wrong in ("", "Bearer ", "Bearer acme-key2", "Basic acme-key", "acme-key"):
        with pytest.raises(RequestRefused, match="no valid API key") as refused:
            both.find(shown(wrong))
        assert refused.value.status == 401
        assert refused.value.cause == "key"


def test_an_old_list_of_keys_is_one_tenant_and_no_keys_let_everybody_in() -> None:
    old = Tenants(read_tenants(GatewayConfig(api_keys=("k1", "k2"))))
    assert [old.find(shown(f"Bearer {key}")).name for key in ("k1", "k2")] == [DEFAULT_TENANT] * 2
    assert not old.several
    assert not old.isolated
    assert bool(old)
    none = Tenants(read_tenants(GatewayConfig()))
    assert none.find(shown("")).name == DEFAULT_TENANT
    assert not none


def test_caches_are_apart_as_soon_as_there_are_two() -> None:
    assert tenants(one()).isolated, "another may come in its place, or be at another gateway"
    assert not tenants(one(), isolate_caches=False).isolated
    assert tenants(one(), OTHER).isolated
    assert not tenants(one(), OTHER, isolate_caches=False).isolated
    assert tenants(one(), isolate_caches=True).isolated
    assert tenants(one(), api_keys=("old",)).isolated, "the list of keys is a tenant, too"


def test_they_are_apart_as_well_where_each_gateway_of_a_file_has_one() -> None:
    """Nor is a tenant told of caches that it shares with those of another gateway."""
    old = GatewayConfig(name="old", api_keys=("k",))
    acmes = GatewayConfig(name="new", tenants=(one(),))
    for own, others, isolated, several in (
        (old, (old, acmes), True, True),
        (acmes, (acmes, old), True, True),
        (acmes, (acmes, acmes), True, False),
        (old, (old, old), False, False),
        (msgspec.structs.replace(acmes, isolate_caches=False), (old,), False, True),
    ):
        found = Tenants(read_tenants(own, others))
        assert (found.isolated, found.several) == (isolated, several)


def test_keys_come_from_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("# rotated in May\nfrom-file-1\n\n from-file-2 \n")
    monkeypatch.setenv("OUR_KEYS", "from-env-1 from-env-2")
    found = TenantConfig(name="acme", api_keys_file=str(file), api_keys_env="OUR_KEYS")
    both = tenants(found, OTHER)
    for key in ("from-file-1", "from-file-2", "from-env-1", "from-env-2"):
        assert both.find(shown(f"Bearer {key}")).name == "acme"

    file.write_text("from-file-2\n")
    both.take(read_tenants(GatewayConfig(tenants=(found, OTHER))))
    with pytest.raises(RequestRefused):
        both.find(shown("Bearer from-file-1"))
    assert both.find(shown("Bearer from-file-2")).name == "acme"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("", "no key is left"), ("two words\n", "key 1 is none"),
     ("#only\n", "no key is left"), ("caf\xe9\n", "not ASCII"), ("other-key\n", "tenant 'other'")],
)  # fmt: skip
def test_keys_that_cannot_be_had_are_refused_without_being_shown(
    tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as refused:
        tenants(OTHER, TenantConfig(name="acme", api_keys_file=str(file)))
    assert "acme" in str(refused.value)
    assert "other-key" not in str(refused.value)


def test_who_waits_as_long_as_it_was_told_is_let_in() -> None:
    clock = Clock()
    (acme,) = tenants(one(requests_per_s=0.25), clock=clock)
    acme.begin().end()
    with pytest.raises(TooManyRequests, match=r"0\.25 requests a second") as refused:
        acme.begin()
    assert refused.value.retry_after_s == 4
    clock.now += 3.0
    with pytest.raises(TooManyRequests):
        acme.begin()
    clock.now += 1.0
    acme.begin().end()


def test_tokens_of_prompts_and_of_answers_are_counted() -> None:
    clock = Clock()
    (acme,) = tenants(one(tokens_per_min=600), clock=clock)
    use = acme.begin()
    use.take_tokens(500, 1000)
    use.told_tokens = 200
    use.end()
    with pytest.raises(TooManyRequests, match="600 tokens a minute") as refused:
        acme.begin().take_tokens(20, 1)
    assert refused.value.retry_after_s == 12, "a debt of 100 and 20 more, at 10 a second"
    clock.now += 12.0
    acme.begin().take_tokens(20, 1)


def test_what_is_answered_at_a_time_is_bounded() -> None:
    (acme,) = tenants(one(max_requests=2, max_tokens=1000))
    first, second = acme.begin(), acme.begin()
    with pytest.raises(TooManyRequests, match="max_requests"):
        acme.begin()
    first.take_tokens(600, 300)
    with pytest.raises(TooManyRequests, match="max_tokens"):
        second.take_tokens(50, 100)
    first.end()
    second.take_tokens(50, 100)
    with pytest.raises(RequestRefused, match="lower max_tokens") as never:
        acme.begin().take_tokens(900, 101)
    assert never.value.status == 400, "no waiting helps"


def test_what_is_refused_says_nothing_of_how_long_answers_take() -> None:
    clock = Clock()
    (acme,) = tenants(one(max_tokens=1000), clock=clock)
    for _ in range(40):
        use = acme.begin()
        use.take_tokens(500, 500)
        clock.now += 60.0
        use.end()
    acme.begin().take_tokens(500, 500)
    told = []
    for _ in range(20):
        with pytest.raises(TooManyRequests) as refused, acme.using() as use:
            use.take_tokens(500, 500)
        told.append(refused.value.retry_after_s)
    assert set(told) == {60}


def test_who_waits_as_long_as_requests_take_finds_a_place() -> None:
    """They began at one time: half of the time was told where there are two, and was too early."""
    clock = Clock()
    (acme,) = tenants(one(max_requests=3, max_tokens=1000), clock=clock)
    for _ in range(60):
        with acme.using() as use:
            use.take_tokens(1, 1)
            clock.now += 60.0
    uses = [acme.begin(), acme.begin()]
    for use, tokens in zip(uses, (100, 800), strict=True):
        use.take_tokens(tokens, 0)
    clock.now += 10.0
    with pytest.raises(TooManyRequests, match="max_tokens") as refused, acme.using() as use:
        use.take_tokens(101, 0)
    assert refused.value.retry_after_s == 50
    uses.append(acme.begin())
    clock.now += 10.0
    with pytest.raises(TooManyRequests, match="max_requests") as refused:
        acme.begin()
    assert refused.value.retry_after_s == 40
    uses[0].refused = True  # Or it would say that they take less.
    uses[0].end()
    with pytest.raises(TooManyRequests, match="max_tokens") as refused, acme.using() as use:
        use.take_tokens(500, 0)
    assert refused.value.retry_after_s == 40, "the largest is that which is to end"
    clock.now += 100.0
    with pytest.raises(TooManyRequests, match="max_tokens") as refused, acme.using() as use:
        use.take_tokens(500, 0)
    assert refused.value.retry_after_s <= 30, "it takes longer than others, nobody knows how long"


def test_who_waits_for_one_limit_need_not_wait_for_another_then() -> None:
    clock = Clock()
    (acme,) = tenants(one(requests_per_s=0.1, tokens_per_min=600, max_tokens=1000), clock=clock)
    with acme.using() as use:
        use.take_tokens(600, 0)
    clock.now += 10.0
    with pytest.raises(TooManyRequests, match="tokens_per_min") as refused, acme.using() as use:
        use.take_tokens(150, 0)
    assert refused.value.retry_after_s == 10, "5 s until the tokens are there, 10 until a request"
    clock.now += 10.0
    with acme.using() as use:
        use.take_tokens(150, 850)
        clock.now += 10.0
        with pytest.raises(TooManyRequests, match="max_tokens") as refused, acme.using() as more:
            more.take_tokens(400, 0)
        assert refused.value.retry_after_s == 25, "250 more tokens, at 10 a second"


def test_limits_change_while_requests_run() -> None:
    both = tenants(one(max_requests=1), OTHER)
    use = both.find(shown("Bearer acme-key")).begin()
    both.take(read_tenants(GatewayConfig(tenants=(one(max_requests=2), OTHER))))
    acme = both.find(shown("Bearer acme-key"))
    acme.begin()
    with pytest.raises(TooManyRequests):
        acme.begin()
    use.end()
    assert acme.inflight == 1


def test_models() -> None:
    (acme,) = tenants(one(models=("base", "poet")))
    acme.check_model("poet")
    for model in ("other", None):
        with pytest.raises(RequestRefused, match="this key may not use it") as refused:
            acme.check_model(model)
        assert refused.value.status == 404


def test_no_salt_of_a_client_is_another_tenants() -> None:
    salts = set()
    for tenant in ("a", "b", "ab"):
        for given in ({}, {"cache_salt": "x"}, {"cache_salt": "b"}):
            body = RequestBody("/v1/completions", _json(given))
            body.belong_to(tenant)
            salts.add(body.cache_salt)
            assert body.cache_salt is not None
            assert body.cache_salt.encode() in body.raw, "engines are told the same"
    assert len(salts) == 9
    stolen = next(iter(salts))
    body = RequestBody("/v1/completions", _json({"cache_salt": stolen}))
    body.belong_to("b")
    assert body.cache_salt not in salts


def test_where_tenants_are_not_kept_apart_no_salt_is_one_of_those_that_are() -> None:
    alices = RequestBody("/v1/completions", _json({}))
    alices.belong_to("alice")
    salts = []
    for given in (alices.cache_salt or "", "x", "x"):
        body = RequestBody("/v1/completions", _json({"cache_salt": given}))
        body.belong_to(None)
        salts.append(body.cache_salt)
    assert alices.cache_salt not in salts
    assert salts[1] == salts[2] != salts[0]
    body = RequestBody("/v1/completions", raw := _json({}))
    body.belong_to(None)
    assert body.raw == raw


def test_a_salt_that_is_written_twice_is_written_once() -> None:
    body = RequestBody("/v1/completions", b'{"cache_salt": "a", "prompt": "x", "cache_salt": "b"}')
    body.belong_to("acme")
    assert body.raw.count(b"cache_salt") == 1


@pytest.mark.parametrize("salt", ["5", '""', "[]", "{}"])
def test_a_salt_that_is_none_is_refused(salt: str) -> None:
    body = RequestBody("/v1/completions", b'{"cache_salt": %s}' % salt.encode())
    with pytest.raises(RequestRefused, match="cache_salt"):
        body.belong_to("acme")


def _json(fields: dict[str, str]) -> bytes:
    return msgspec.json.encode({"prompt": "p", **fields})


@pytest.mark.parametrize(
    ("limits", "tokens", "wait_s"),
    [
        ({"max_tokens": "150"}, 40, 5),  # Room for that when the oldest has ended,
        ({"max_tokens": "150"}, 60, 9),  # for that when the next has, too;
        ({"max_requests": 1}, 0, 9),  # for a request when both have.
    ],
)
def test_who_needs_the_room_of_several_is_told_when_the_last_of_them_ends(
    limits: dict[str, object], tokens: int, wait_s: int
) -> None:
    clock = Clock()
    every = tenants(one(), clock=clock)
    tenant = next(iter(every))
    for began in (0.0, 4.0):
        clock.now = began
        tenant.begin().take_tokens(25, 25)
    every.take(read_tenants(GatewayConfig(tenants=(one(**limits),))))
    tenant.takes_s, clock.now = 10.0, 5.0
    with pytest.raises(TooManyRequests) as refused:
        tenant.begin().take_tokens(tokens, 50)
    assert refused.value.retry_after_s == wait_s
