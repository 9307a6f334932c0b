"""Errors of engines and agents in words."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from prfaas.gateway.dialects import dialect_of
from prfaas.gateway.http_answer import CannotConnect
from prfaas.gateway.upstream_errors import (
    EngineFull,
    describe,
    error_message,
    error_status,
    refusal,
)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"error": {"code": 404, "message": "no such model"}}', 404, "no such model"),
        (b'{"error": {"code": "x", "message": 3}}', 500, "3"),
        (b'{"error": "gone"}', 500, '{"error": "gone"}'),
        (b"<html>\xff", 500, "<html>\ufffd"),
        (b"", 500, "no message"),
    ],
)
def test_any_body_has_a_status_and_a_message(body: bytes, status: int, message: str) -> None:
    assert error_status(body) == status
    assert error_message(body) == message


def test_no_error_is_without_words() -> None:
    assert describe(TimeoutError()) == "timed out"
    assert describe(ConnectionResetError()) == "ConnectionResetError"
    assert describe(OSError(24, "Too many open files")) == "Too many open files"
    refused = ConnectionRefusedError(111, "Connect call failed ('10.0.0.5', 8000)")
    for error in (refused, CannotConnect("10.0.0.5", 8000, refused)):
        assert "Connection refused" in describe(error)
        assert "10.0.0.5" not in describe(error), "clients read it"
    unreachable = OSError(113, "Connect call failed ('10.0.0.5', 8000)")
    assert describe(unreachable) == "No route to host"
    assert describe(OSError(f"Multiple exceptions: {unreachable}, {refused}")) == "cannot connect"


def test_what_a_client_has_an_engine_quote_is_not_kept_whole() -> None:
    quoted = "x" * 100_000
    assert len(error_message(b'{"error": {"message": "%b"}}' % quoted.encode())) == 4096


def test_what_is_long_is_not_read_for_what_went_wrong() -> None:
    lists = b'{"error": {"message": "m", "code": 404}, "more": [' + b"[]," * 400_000 + b"[]]}"
    assert error_message(lists) == lists[:200].decode()
    assert error_status(lists) == 500
    assert dialect_of("/v1/messages").refusal(404, lists) == lists


@pytest.mark.parametrize("said", ["soon", "inf", "nan", "", None, "Mon, 99 Nov 2026 10:00:00 GMT"])
def test_an_engine_that_does_not_say_when_has_a_place_soon(said: str | None) -> None:
    full = refusal("d1", 429, said, b"")
    assert isinstance(full, EngineFull)
    assert full.retry_after_s == 1.0


def test_an_engine_may_say_when_as_a_date() -> None:
    for in_s, told in ((100, 100), (-100, 0), (10_000, 3600)):
        full = refusal("d1", 503, formatdate(time.time() + in_s, usegmt=True), b"")
        assert isinstance(full, EngineFull)
        assert full.retry_after_s == pytest.approx(told, abs=30)
