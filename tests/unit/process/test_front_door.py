"""An application at its address, and what is said where the address cannot be had."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.core.errors import ConfigError
from prfaas.process.front_door import serving_strangers


def an_application() -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
async def test_its_url_tells_the_port_that_was_taken(listen: str) -> None:
    served = serving_strangers(an_application(), listen, what="x.listen", shutdown_timeout_s=1.0)
    async with served as url, aiohttp.ClientSession() as client:
        assert parse_url(url).port > 0
        async with client.get(url) as answer:
            assert await answer.text() == "hello"
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(url)


async def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"^x.listen {listen}: (?i:.*address already in use)"
        ):
            async with serving_strangers(
                an_application(), listen, what="x.listen", shutdown_timeout_s=1.0
            ):
                pass


async def test_what_is_no_address_is_named_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"^x.listen 'nowhere' is not host:port"):
        async with serving_strangers(
            an_application(), "nowhere", what="x.listen", shutdown_timeout_s=1.0
        ):
            pass
