"""The parameters that a gateway and an engine's connector exchange."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from prfaas.core.errors import CallerError
from prfaas.core.handoff import ExportParams, ExportResult, ImportParams, parse_handoff

EXPORT = ExportParams(
    transfer_id="t-1", destination="west", readers=("w",), from_token=0, to_token=512
)
IMPORT = ImportParams(transfer_id="t-1", from_token=256, to_token=512, prompt_token_ids=[1, 2])


@pytest.mark.parametrize("params", [EXPORT, IMPORT])
def test_what_one_side_writes_the_other_reads(params: ExportParams | ImportParams) -> None:
    assert parse_handoff(msgspec.to_builtins(params)) == params


def test_requests_of_others_carry_none_of_ours() -> None:
    assert parse_handoff(None) is None
    assert parse_handoff({}) is None
    assert parse_handoff({"do_remote_prefill": True}) is None
    assert parse_handoff(5) is None
    assert parse_handoff(["prfaas"]) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prfaas": "both"}, "both"),
        ({"transfer_id": "../etc/passwd"}, "transfer_id"),
        ({"transfer_id": "t\n"}, "transfer_id"),
        ({"destination": ""}, "destination"),
        ({"from_token": -1}, "from_token"),
        ({"to_token": 1 << 33}, "to_token"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"context": {"request_id": "r\n"}}, "request_id"),
        ({"context": {"request_id": "r" * 129}}, "request_id"),
        ({"context": {"request_id": "r", "traceparent": "00-0af7-b7ad-01"}}, "traceparent"),
        ({"context": {"request_id": "r", "attempt": -1}}, "attempt"),
        ({"from_token": 513}, "from_token 513 > to_token 512"),
    ],
)
def test_what_names_us_and_is_not_valid_is_the_callers_fault(
    change: dict[str, Any], says: str
) -> None:
    with pytest.raises(CallerError, match=f"kv_transfer_params: .*{says}"):
        parse_handoff({**msgspec.to_builtins(EXPORT), **change})


def test_a_missing_field_is_named() -> None:
    params = msgspec.to_builtins(EXPORT)
    del params["destination"]
    with pytest.raises(CallerError, match="destination"):
        parse_handoff(params)


def test_an_engines_word_says_why_not() -> None:
    said = msgspec.to_builtins(ExportResult(transfer_id="t-1", ok=False, reason="no slots"))
    assert said == {
        "prfaas": "exported",
        "transfer_id": "t-1",
        "ok": False,
        "reason": "no slots",
        "do_remote_prefill": True,
        "remote_prefill_cached_tokens": None,
    }
