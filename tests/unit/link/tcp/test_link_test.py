"""The sum of a test of the line: what is recommended, and what the line's limit is."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import LinkError
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test import SilentSink, Stage, report, run_stages

STAGE = Stage(
    connections=1,
    tls=True,
    goodput_bytes_per_s=100.0,
    best_window_bytes_per_s=110.0,
    rtt_s=0.04,
    min_rtt_s=0.03,
    retransmit_share=0.01,
)


def a_stage(connections: int, goodput: float, **more: object) -> Stage:
    return msgspec.structs.replace(
        STAGE, connections=connections, goodput_bytes_per_s=goodput, **more
    )


def test_the_fewest_connections_that_are_as_good_are_recommended() -> None:
    stages = [a_stage(1, 60.0), a_stage(2, 96.0), a_stage(4, 100.0), a_stage(8, 99.0)]
    summary = report("west", "west:7400", stages)
    assert summary.recommended_connections == 2
    assert summary.line_limit_bytes_per_s == 110.0
    assert (summary.rtt_s, summary.loss) == (0.03, 0.01)


def test_plaintext_counts_for_the_limit_alone() -> None:
    plain = a_stage(8, 500.0, tls=False, best_window_bytes_per_s=600.0)
    summary = report("west", "west:7400", [a_stage(2, 100.0), plain])
    assert summary.recommended_connections == 2
    assert summary.line_limit_bytes_per_s == 600.0


def test_a_far_end_that_is_another_ends_the_test_with_the_reason() -> None:
    config = TcpLinkConfig(name="west", security=Plaintext())
    west = TcpLink(config, SilentSink())
    east = msgspec.structs.replace(config, name="east")
    stages = run_stages(east, "north", west.address, [1], tls=False, seconds=0.1)
    with pytest.raises(LinkError, match="looks for agent 'north'; this is 'west'"):
        next(stages)
    west.close()
