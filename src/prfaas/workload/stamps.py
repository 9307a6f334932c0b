"""The times of a trace, as text or numbers in any form, as seconds after the first.

Theory of operation. Dates with times are read in every form of ISO 8601 and become whole
nanoseconds, so that an offset, a missing fraction or a `Z` changes nothing. Numbers need a unit.
Where the text does not say what is meant, nothing is guessed; the error says what to write:

- Numbers whose unit the schema does not fix, or that are seconds since 1970 in another unit than
  the schema's.
- Stamps without a zone, if the clocks of some zone change between the first and the last of them;
  stamps that are repeated or left out when the clocks of the zone that was named change.
- Stamps of which some have a zone and others have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from math import isfinite
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from prfaas.core.errors import ConfigError

TimeUnit = Literal["s", "ms", "us", "ns"]
Raw = str | int | float
SECONDS_PER: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_SINCE_1970_S = (1e9, 4e9)
"""Seconds since 1970 that a trace may show: the years 2001 to 2096."""
_NS = 1_000_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d|\d{4}-W\d\d-\d|\d{4}-\d{3}|\d{8}|\d{4}W\d{3}|\d{7})"
    r"(?:(?:[Tt]|\s+)(?P<h>\d\d)(?::?(?P<m>\d\d)(?::?(?P<s>\d\d))?)?(?:[.,](?P<part>\d+))?)?"
    r"\s*(?P<zone>Z|UTC|GMT|[+\-\u2212]\d\d(?::?\d\d(?::?\d\d)?)?)?",
    re.IGNORECASE,
)


def seconds_after_first(
    values: Sequence[Raw],
    *,
    schema_unit: TimeUnit | None,
    unit: TimeUnit | None = None,
    zone: str | None = None,
) -> list[float]:
    """Every value as seconds after the earliest, in the order given.

    Args:
        values: at least one; numbers (also as text) or ISO 8601 stamps, not both.
        schema_unit: what numbers are in by the schema; None where it has none.
        unit: what numbers are in, as somebody said who knows.
        zone: of stamps without one: a name of the IANA database, or an offset such as +02:00.
    Raises ConfigError for what is no time, and for what is ambiguous.
    """
    numeric = [_is_number(value) for value in values]
    if all(numeric):
        return _numbers(values, schema_unit, unit)
    if any(numeric):
        odd = values[numeric.index(not numeric[0])]
        raise ConfigError(f"times: {values[0]!r} and {odd!r} are not of one kind; write all alike")
    instants = _instants([str(value) for value in values], zone)
    first = min(instants)
    return [(instant - first) / _NS for instant in instants]


def _is_number(value: Raw) -> bool:
    return not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) is not None


def _numbers(
    values: Sequence[Raw], schema_unit: TimeUnit | None, unit: TimeUnit | None
) -> list[float]:
    numbers = [_number(value) for value in values]
    first = min(numbers)
    since_1970 = {u for u, scale in SECONDS_PER.items() if _is_since_1970(first * scale)}
    meant = unit or schema_unit
    if meant is None or (unit is None and since_1970 and meant not in since_1970):
        raise ConfigError(
            f"times: {values[0]!r} may be s, ms, us or ns; say which with time_unit (--time-unit)"
        )
    return [(number - first) * SECONDS_PER[meant] for number in numbers]


def _number(value: Raw) -> int | float:
    number = value
    if isinstance(number, str):
        text = number.strip()
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
    if not isfinite(number):
        raise ConfigError(f"times: {value!r} is no time")
    return number


def _is_since_1970(seconds: float) -> bool:
    return _SINCE_1970_S[0] <= seconds < _SINCE_1970_S[1]


def _instants(texts: Sequence[str], zone: str | None) -> list[int]:
    """Nanoseconds of each stamp, from one origin."""
    parsed = [_parse(text) for text in texts]
    bare = [place for place, (_, offset_s) in enumerate(parsed) if offset_s is None]
    named = None if zone is None else _zone(zone)
    if bare and named is None:
        if len(bare) < len(parsed):
            raise ConfigError(
                f"times: {texts[bare[0]]!r} says no time zone and others do; say which is meant "
                "with time_zone (--time-zone UTC)"
            )
        _refuse_change(texts, [local for local, _ in parsed])
    found = []
    for text, (local_ns, offset_s) in zip(texts, parsed, strict=True):
        if offset_s is None:
            offset_s = 0 if named is None else _offset_s(text, local_ns // _NS, named)
        found.append(local_ns - offset_s * _NS)
    return found


def _parse(text: str) -> tuple[int, int | None]:
    """(local time in ns since 1970, offset from UTC in s or None). Raises ConfigError."""
    found = _ISO.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"times: {text!r} is neither a number nor a date and time as ISO 8601 writes it, for "
            "example 2024-05-10T00:00:01.5Z"
        )
    try:
        day = _day(found["date"])
        clock = _clock_ns(found["h"], found["m"], found["s"], found["part"])
        return day * 86400 * _NS + clock, _offset(found["zone"])
    except ValueError as error:
        raise ConfigError(f"times: {text!r}: {error}") from error


@lru_cache(maxsize=64)
def _day(text: str) -> int:
    """Days since 1970."""
    digits = text.replace("-", "")
    if digits.isdecimal() and len(digits) == 7:  # Year and day of the year.
        year, number = int(digits[:4]), int(digits[4:])
        found = date(year, 1, 1) + timedelta(days=number - 1)
        if number < 1 or found.year != year:
            raise ValueError(f"year {year} has no day {number}")
        return found.toordinal() - _EPOCH_DAY
    return date.fromisoformat(text.upper()).toordinal() - _EPOCH_DAY


def _clock_ns(hour: str | None, minute: str | None, second: str | None, part: str | None) -> int:
    """The time of day. A fraction is one of the last unit that is written."""
    h, m, s = int(hour or 0), int(minute or 0), int(second or 0)
    unit_s = 3600 if minute is None else 60 if second is None else 1
    fraction = 0 if part is None else int(part) * unit_s * _NS // 10 ** len(part)
    if h > 24 or m > 59 or s > 60 or (h == 24 and (m or s or fraction)):
        raise ValueError("there is no such time of day")
    return (h * 3600 + m * 60 + s) * _NS + fraction


def _offset(text: str | None) -> int | None:
    if text is None:
        return None
    if text.upper() in ("Z", "UTC", "GMT"):
        return 0
    digits = text[1:].replace(":", "").ljust(6, "0")
    h, m, s = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if h > 23 or m > 59 or s > 59:
        raise ValueError(f"there is no offset {text}")
    return (1 if text[0] == "+" else -1) * (h * 3600 + m * 60 + s)


def _zone(name: str) -> tzinfo:
    try:
        if re.fullmatch(r"(Z|UTC|GMT|[+\-\u2212].*)", name, re.IGNORECASE):
            found = _ISO.fullmatch(f"1970-01-01T00{name}")
            if found is None:
                raise ValueError("an offset is written like +02:00")
            return timezone(timedelta(seconds=_offset(found["zone"]) or 0))
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(
            f"time zone {name!r} is not known; write UTC, +02:00 or Europe/Berlin"
        ) from error


def _offset_s(text: str, local_s: int, zone: tzinfo) -> int:
    """Seconds by which local time is ahead of UTC then. Raises ConfigError where two times, or
    none, are called so."""
    local = datetime(1970, 1, 1) + timedelta(seconds=local_s)
    first, second = (_ahead_s(local.replace(fold=fold), zone) for fold in (0, 1))
    if first == second:
        return first
    # Clocks put back: the offset falls, and the time is there twice.
    what = "is there twice" if first > second else "is left out"
    raise ConfigError(
        f"times: {text!r} {what} in {zone}, whose clocks change then; write offsets from UTC into "
        "the trace"
    )


def _ahead_s(local: datetime, zone: tzinfo) -> int:
    offset = zone.utcoffset(local)
    assert offset is not None
    return round(offset.total_seconds())


_A_YEAR = 400
"""Days; some to spare."""


def _refuse_change(texts: Sequence[str], local_ns: Sequence[int]) -> None:
    """Raise ConfigError if some zone's clocks change between the first stamp and the last: then
    the time between two stamps depends on where they were taken."""
    low, high = min(local_ns), max(local_ns)
    days = [datetime(1970, 1, 1) + timedelta(seconds=at // _NS) for at in _daily(low, high)]
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        if len({_ahead_s(day, zone) for day in days}) > 1:
            first, last = texts[local_ns.index(low)], texts[local_ns.index(high)]
            raise ConfigError(
                f"times: they say no time zone, and between {first!r} and {last!r} the clocks of "
                f"some change ({name} for one); say which is meant with time_zone "
                "(--time-zone UTC)"
            )


def _daily(low: int, high: int) -> Iterable[int]:
    """Of more than a year the first: clocks that are changed are changed in each."""
    yield from range(low, min(high, low + _A_YEAR * 86400 * _NS), 86400 * _NS)
    yield high
