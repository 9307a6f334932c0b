"""Pauses between starts: they double, up to half a minute, and begin anew after a good while."""

from __future__ import annotations

from prfaas.launch.restart_pause import RestartPause, pause_after


def test_what_fails_at_once_is_started_ever_later() -> None:
    pause = RestartPause()
    assert [pause.after(0.0) for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_what_was_well_for_a_minute_begins_anew() -> None:
    pause = RestartPause()
    assert [pause.after(well_s) for well_s in (0.0, 59.0, 60.0, 0.0)] == [1.0, 2.0, 1.0, 2.0]


def test_what_ends_all_night_long_is_started_again() -> None:
    assert [pause_after(ends) for ends in (0, 1, 2, 5, 6, 5000)] == [
        1.0,
        1.0,
        2.0,
        16.0,
        30.0,
        30.0,
    ]
