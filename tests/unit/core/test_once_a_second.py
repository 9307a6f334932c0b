"""One line a second for each cause."""

from __future__ import annotations

from prfaas.core.once_a_second import OnceASecond


def test_what_happens_often_is_said_once_a_second_with_its_number() -> None:
    lines = OnceASecond()
    assert [lines.times("a", at) for at in (0.0, 0.1, 0.9, 1.0, 1.5, 9.0)] == [1, 0, 0, 3, 0, 2]
    assert lines.times("b", 9.1) == 1, "other causes are said by themselves"


def test_it_keeps_little_however_many_causes_there_are() -> None:
    lines = OnceASecond()
    assert all(lines.times(cause, 0.0) == 1 for cause in range(100_000))
    assert len(lines._said) <= 256
