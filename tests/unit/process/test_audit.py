"""Tests for the record of refusals."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web

from prfaas.agent.refusals import Refusals as AgentsRefusals
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.gateway.refusals import Refusals

_MANY = 17


class _Told(logging.Handler):
    """Knows when so many refusals are on record."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.all = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if sum(map(int, re.findall(r"times=(\d+)", " ".join(self.lines)))) == _MANY:
            self.all.set()


@pytest.fixture
def told() -> Iterator[_Told]:
    handler = _Told()
    logging.getLogger("prfaas.audit").addHandler(handler)
    yield handler
    logging.getLogger("prfaas.audit").removeHandler(handler)


async def test_the_last_of_many_refusals_are_on_record_though_no_other_comes(told: _Told) -> None:
    refusals = Refusals(GatewayMetrics())
    request = cast("web.Request", SimpleNamespace(remote="192.0.2.1", path="/v1/models"))
    for at in range(_MANY):
        error = RequestRefused(401, "no", cause="key")
        refusals.note(error, request, tenant=None, request_id=f"r{at}")
    await asyncio.wait_for(told.all.wait(), 30)
    assert len(told.lines) == 2
    assert "path='/v1/models' request=r16 times=16" in told.lines[1]


async def test_so_are_those_of_an_agent(told: _Told) -> None:
    refusals = AgentsRefusals()
    for _ in range(_MANY):
        refusals.note("peer", None, "GET /cache")
    await asyncio.wait_for(told.all.wait(), 30)
    assert len(told.lines) == 2
