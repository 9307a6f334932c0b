"""What holds for every test."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web_app
from hypothesis import settings

from prfaas.process.freed_memory import give_back_freed

# Nothing is timed: the machine may be busy. All else as Hypothesis chooses for this environment.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _ended_applications_are_forgotten() -> Iterator[None]:
    # aiohttp remembers the handlers of its last thousand applications, and with them what they
    # belong to: gateways of a hundred megabytes.
    yield
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _what_tests_leave_is_given_back() -> Iterator[None]:
    # Among a million objects of vLLM's the collector comes so seldom that gigabytes of gateways
    # wait for it, and what it frees the C library would keep. What is left is not looked at again.
    # Who leaves a socket open is told so in its own file, and not in one that comes later.
    yield
    gc.collect()
    gc.freeze()
    give_back_freed()


def pytest_unconfigure() -> None:
    """What was set aside ends with the interpreter, or libraries say that it leaks."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine cannot run is counted, by its reason, in one line."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    told = "; ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"not run on this machine: {told or 'nothing'}")
