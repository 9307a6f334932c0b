"""Times of traces in every form; what is ambiguous is asked for."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.errors import ConfigError
from prfaas.workload import stamps
from prfaas.workload.stamps import Raw, TimeUnit, seconds_after_first


def seconds(*values: Raw, **told: str) -> list[float]:
    return seconds_after_first(values, schema_unit=None, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:00.017335+00:00", 0.007405),
        ("2024-05-10 00:00:00.990000+00:00", "2024-05-10 00:00:01+00:00", 0.01),
        ("2024-05-10T00:00:00Z", "2024-05-10T00:00:01.5Z", 1.5),
        ("2024-05-10t00:00:00z", "2024-05-10 00:00:02 UTC", 2),
        ("2024-05-10 00:00:00.5+00:00", "2024-05-10 00:00:01.25+00:00", 0.75),
        ("2024-05-10 02:00:00.000000+02:00", "2024-05-10 00:00:01.000000+00:00", 1),
        ("2024-05-10T00:00:00-05:30", "2024-05-10T05:31Z", 60),
        ("2024-05-10T00:00:00+0200", "2024-05-09T23+01", 0),
        ("2024-05-10T00:00:00\u221201:00", "2024-05-10T01:00:00,25Z", 0.25),
        ("20240510T000000Z", "20240510T0000015Z", None),
        ("20240510T000000Z", "20240510T000001.5Z", 1.5),
        ("2024-W19-5T00:00Z", "2024W195T000001Z", 1),
        ("2024-131T00:00:00Z", "2024131T00Z", 0),
        ("2024-05-10T23:59:60Z", "2024-05-11T00:00:00Z", 0),
        ("2024-05-10T24:00Z", "2024-05-11T00:00:01Z", 1),
        ("2024-05-10T00.5Z", "2024-05-10T00:30:01Z", 1),
        ("2024-05-10T00:00.5Z", "2024-05-10T00:00:31Z", 1),
        ("2023-11-16 18:17:03.9799600", "2023-11-16 18:17:05", 1.02004),
        (" 2024-05-10 00:00:00.000000001Z", "2024-05-10 00:00:00.000000003Z ", 2e-9),
    ],
)
def test_every_iso_form(first: str, second: str, apart: float | None) -> None:
    if apart is None:
        with pytest.raises(ConfigError, match="neither a number nor a date"):
            seconds(first, second)
    else:
        assert seconds(first, second) == pytest.approx([0, apart], abs=1e-12)


@given(
    st.lists(st.datetimes(datetime(1980, 1, 1), datetime(2090, 1, 1)), min_size=1, max_size=5),
    st.lists(st.integers(-23 * 60, 23 * 60), min_size=5, max_size=5),
    st.sampled_from([" ", "T"]),
)
def test_offsets_change_nothing(moments: list[datetime], minutes: list[int], joint: str) -> None:
    texts = [
        moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=offset))).isoformat(joint)
        for moment, offset in zip(moments, minutes, strict=False)
    ]
    wanted = [(moment - min(moments)).total_seconds() for moment in moments]
    assert seconds(*texts) == pytest.approx(wanted, abs=1e-9)


def test_the_zone_of_this_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("America/New_York", "Asia/Kathmandu", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert seconds("2023-11-16 18:17:04", "2023-11-16 19:17:04") == [0, 3600]
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()
    assert "TZ" not in os.environ


def test_stamps_without_a_zone_are_asked_for_one_where_clocks_may_have_changed() -> None:
    change = ("2024-03-10 01:59:59", "2024-03-10 03:00:00")
    with pytest.raises(ConfigError, match=r"clocks of some change .*with time_zone"):
        seconds(*change)
    assert seconds(*change, zone="UTC") == [0, 3601]
    assert seconds(*change, zone="+02:00") == [0, 3601]
    assert seconds(*change, zone="America/New_York") == [0, 1]
    assert seconds("2024-05-10 00:00:00", "2024-05-12 00:00:00") == [0, 2 * 86400]
    with pytest.raises(ConfigError, match="clocks of some change"):
        seconds("2024-01-10 00:00:00", "2024-05-12 00:00:00")


def test_stamps_ages_apart_are_not_looked_at_day_by_day(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[datetime] = []

    def ahead_s(local: datetime, _zone: tzinfo) -> int:
        looked_at.append(local)
        return len(looked_at) % 2

    monkeypatch.setattr(stamps, "_ahead_s", ahead_s)
    with pytest.raises(ConfigError, match="clocks of some change"):
        seconds("0001-01-01 00:00:00", "9999-12-31 00:00:00")
    assert len(looked_at) <= 401


def test_times_that_are_there_twice_or_never_in_a_zone_are_refused() -> None:
    before = "2024-11-03 00:30:00"
    with pytest.raises(ConfigError, match=r"01:30:00' is there twice in America/New_York"):
        seconds(before, "2024-11-03 01:30:00", zone="America/New_York")
    with pytest.raises(ConfigError, match=r"02:30:00' is left out in America/New_York"):
        seconds(before, "2024-03-10 02:30:00", zone="America/New_York")


def test_some_with_a_zone_and_some_without_are_asked_for_it() -> None:
    mixed = ("2024-05-10 00:00:00Z", "2024-05-10 02:00:01")
    with pytest.raises(ConfigError, match=r"02:00:01' says no time zone and others do"):
        seconds(*mixed)
    assert seconds(*mixed, zone="Europe/Berlin") == [0, 1]


@pytest.mark.parametrize(
    ("values", "schema_unit", "apart"),
    [
        (("5.5", "6"), "s", 0.5),
        ((5, 1005), "ms", 1),
        ((1_700_000_000, 1_700_000_002), "s", 2),
        ((1_700_000_000_000, 1_700_000_002_000), "ms", 2),
        (("1e3", "3e3"), "us", 2e-3),
        ((1_700_000_000_000_000_000, 1_700_000_000_000_000_001), "ns", 1e-9),
    ],
)
def test_numbers_are_in_the_schemas_unit(
    values: tuple[Raw, Raw], schema_unit: TimeUnit, apart: float
) -> None:
    found = seconds_after_first(values, schema_unit=schema_unit)
    assert found == pytest.approx([0, apart], abs=1e-12)


@pytest.mark.parametrize(
    ("values", "schema_unit"),
    [
        ((5, 6), None),
        ((1_700_000_000_000, 1_700_000_000_001), "s"),
        ((1_700_000_000, 1_700_000_001), "ms"),
    ],
)
def test_numbers_whose_unit_is_not_plain_are_asked_for_it(
    values: tuple[Raw, Raw], schema_unit: TimeUnit | None
) -> None:
    with pytest.raises(ConfigError, match=r"may be s, ms, us or ns; say which with time_unit"):
        seconds_after_first(values, schema_unit=schema_unit)
    told = seconds_after_first(values, schema_unit=schema_unit, unit="ms")
    assert told == pytest.approx([0, 1e-3])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("05/10/2024 01:00", "neither a number nor a date"),
        ("yesterday", "neither a number nor a date"),
        ("", "neither a number nor a date"),
        ("2024-02-30T00:00Z", "2024-02-30"),
        ("2023-366T00:00Z", "year 2023 has no day 366"),
        ("2024-05-10T25:00Z", "no such time of day"),
        ("2024-05-10T24:00:01Z", "no such time of day"),
        ("2024-05-10T00:00+24:00", "no offset"),
    ],
)
def test_what_is_no_time_is_named(value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"times: .*{says}"):
        seconds(value)


@pytest.mark.parametrize("value", ["nan", "inf", float("nan")])
def test_numbers_that_are_no_time_are_named(value: Raw) -> None:
    with pytest.raises(ConfigError, match=r"(nan|inf)'? is no time"):
        seconds_after_first([value], schema_unit="s")


def test_numbers_and_dates_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="are not of one kind"):
        seconds_after_first(["5", "2024-05-10T00:00Z"], schema_unit="s")


@pytest.mark.parametrize("zone", ["Europe/Bielefeld", "+25:00", "+x", "../etc/passwd", ""])
def test_an_unknown_zone_is_named(zone: str) -> None:
    with pytest.raises(ConfigError, match="write UTC, "):
        seconds("2024-05-10 00:00:00", zone=zone)
