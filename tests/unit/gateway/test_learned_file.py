"""What a gateway has learned is there for the next one, or nothing is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.gateway.learned_file import VERSION, Learned, LearnedFile
from prfaas.scheduler.load_times import LearnedTimes
from prfaas.testing.mock_deployment import MockDeployment

SUMS = {"p1": (2.0, 20.0, 1.0, 200.0, 10.0)}
LOADS = {"d1": (1.0, 1e6, 0.1, 1e12, 1e5)}
STEPS = {"d1": (1.0, 8.0, 0.02, 64.0, 0.16, 300.0)}


def test_it_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    assert LearnedFile(path).read().prefills == {}
    LearnedFile(path).write(LearnedTimes(SUMS, LOADS, STEPS))
    assert LearnedFile(path).read() == Learned(VERSION, SUMS, LOADS, STEPS)
    assert [file.name for file in tmp_path.iterdir()] == ["learned.json"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "torn", [b"", b'{"version": 1, "pref', b"\xff", b'{"version": 99}', b"[]", b'{"x": 1}']
)
def test_a_torn_or_strange_file_is_passed_over_with_a_warning(
    torn: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "learned.json"
    path.write_bytes(torn)
    kept = LearnedFile(path)
    assert kept.read() == Learned(VERSION)
    assert "learned anew" in caplog.text
    kept.write(LearnedTimes(SUMS, {}))
    assert kept.read().prefills == SUMS


@pytest.mark.parametrize("what", ["link", "pipe", "left behind"])
def test_what_lies_where_it_is_begun_is_neither_followed_nor_waited_for(
    what: str, tmp_path: Path
) -> None:
    path, begun, others = tmp_path / "l.json", tmp_path / "l.json.tmp", tmp_path / "others"
    others.write_text("theirs")
    if what == "link":
        begun.symlink_to(others)
    elif what == "pipe":
        os.mkfifo(begun)
    else:
        begun.touch(mode=0o644)
    LearnedFile(path).write(LearnedTimes(SUMS, LOADS, STEPS))
    assert others.read_text() == "theirs"
    assert path.lstat().st_mode & 0o777 == 0o600
    assert LearnedFile(path).read().prefills


def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        LearnedFile(tmp_path / "missing" / "learned.json").check()


async def test_a_gateway_begins_where_the_one_before_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    for beginning in (True, False):
        mock = MockDeployment(learned_file=path)
        async with mock.running() as client:
            await mock.ready()
            costs = mock.gateway._driver.scheduler.view.costs
            known = costs.prefill_s("p1", 30) != costs.prefill_s("e1", 30)
            assert known is not beginning
            if beginning:
                mock.engines["p1"].prefill_takes_s = 0.05
                for n in range(3):  # The first of an engine that has come up says nothing.
                    body = {"prompt": f"a prompt that is no. {n}"}
                    async with client.post("/v1/completions", json=body) as response:
                        assert response.status == 200
