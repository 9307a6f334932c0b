"""What an engine's own arguments say, and ranks that could not be told apart."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import EngineConfig, parse_deployment
from prfaas.core.errors import ConfigError


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), None),
        (("--other", "2"), None),
        (("--size", "2"), "2"),
        (("-s=4",), "4"),
        (("--size", "2", "-s", "8"), "8"),
        (("--size", "--other"), ""),
        (("--size",), ""),
        (("--own_size", "2"), "2"),
        (("--own_size=a_b",), "a_b"),
    ],
)
def test_an_option_of_vllm(args: tuple[str, ...], expected: str | None) -> None:
    assert (
        EngineConfig(name="e", role="decode", args=args).option("--size", "-s", "--own-size")
        == expected
    )


def test_vllm_takes_options_with_underscores_too() -> None:
    assert EngineConfig(name="e", role="decode", args=("--enable_dbo",)).micro_batches
    assert EngineConfig(name="e", role="decode", args=("--ubatch_size=2",)).micro_batches
    assert not EngineConfig(name="e", role="decode", args=("--no-enable-dbo",)).micro_batches


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        ('["--data-parallel-size", "2"]', True),
        ('["-dp=4"]', True),
        ('["--data_parallel_size=2"]', True),
        ('["--data_parallel_size=2", "--data_parallel_rank", "1"]', False),
        ('["--data-parallel-size", "1"]', False),
        ('["--data-parallel-size", "2", "--data-parallel-rank", "1"]', False),
        ('["--tensor-parallel-size", "2"]', False),
    ],
)
def test_data_parallel_ranks_behind_one_address_are_refused_by_name(
    args: str, refused: bool
) -> None:
    text = (
        "clusters: [{name: w, kind: pd, agent: {name: a}, "
        f"engines: [{{name: d, role: decode, args: {args}}}]}}]"
    )
    if not refused:
        assert parse_deployment(text, source="test").engines[0].name == "d"
        return
    with pytest.raises(ConfigError, match=r"engine 'd': --data-parallel-size \d: ranks behind one"):
        parse_deployment(text, source="test")


@pytest.mark.parametrize(
    "args",
    ['["-pp", "2"]', '["--pipeline-parallel-size=4"]', '["--pipeline_parallel_size", "4"]'],
)
def test_stages_of_a_pipeline_are_refused_when_the_file_is_read(args: str) -> None:
    """Its connector would refuse it when the engine starts."""
    text = (
        "clusters: [{name: west, kind: pd, agent: {name: a}, engines: "
        "[{name: d, role: decode, args: %s}]}]"
    )
    with pytest.raises(ConfigError, match="engine 'd': --pipeline-parallel-size: pipeline"):
        parse_deployment(text % args, source="here")
    parse_deployment(text % '["-pp", "1"]', source="here")
