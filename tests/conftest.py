"""What holds for every test."""

from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web_app
from hypothesis import settings

# Nothing is timed: the machine may be busy. All else as Hypothesis chooses for this environment.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _ended_applications_are_forgotten() -> Iterator[None]:
    # aiohttp remembers the handlers of its last thousand applications, and with them what they
    # belong to: gateways of a hundred megabytes.
    yield
    web_app._cached_build_middleware.cache_clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine cannot run is counted, by its reason, in one line."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    told = "; ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"not run on this machine: {told or 'nothing'}")
