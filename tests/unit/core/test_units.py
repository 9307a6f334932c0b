"""Quantities as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prfaas.core.errors import ConfigError
from prfaas.core.units import format_count, parse_bytes, parse_duration, parse_rate, parse_tokens


def test_units_are_what_they_say() -> None:
    assert parse_bytes("1.5 KiB") == 1536
    assert parse_rate("100 Gbps") == 12.5e9
    assert parse_duration("30 ms") == 0.03
    assert parse_tokens("2K") == parse_tokens(2048) == 2048


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_rate, "200", "no unit; use one of .* for example '200 Mbit/s'"),
        (parse_duration, "3 weeks", "unit 'weeks'"),
        (parse_bytes, "-1 B", "not a number with a unit"),
        (parse_tokens, "1e400", "more than can be computed with"),
        (parse_bytes, "1e400 B", "more than can be computed with"),
        (parse_rate, "1e308 Gbps", "more than can be computed with"),
        (parse_tokens, "1e300K", "more than can be computed with"),
        (parse_duration, "1e-300 s", "less than can be computed with"),
    ],
)
def test_other_things_are_refused(parse: Callable[[str], float], text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


def test_a_count_and_its_noun_agree() -> None:
    assert [format_count(n, "error") for n in (0, 1, 1200)] == [
        "0 errors",
        "1 error",
        "1,200 errors",
    ]
