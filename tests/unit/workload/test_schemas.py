"""Schemas as they come: marks, quotes, delimiters, units, block sizes."""

from __future__ import annotations

import json

import pytest

from prfaas.core.errors import ConfigError
from prfaas.workload.schemas import parse_trace
from prfaas.workload.trace import PooledTrace, RecordedTrace, TraceFormat

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens\n"


def recorded(text: str, **told: object) -> RecordedTrace:
    trace = parse_trace(text, TraceFormat(**told))  # type: ignore[arg-type]
    assert isinstance(trace, RecordedTrace)
    return trace


def lines(*rows: dict[str, object]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        AZURE + "2024-05-10 00:00:00.5+00:00,40,2\n2024-05-10T00:00:01Z,30,1\n",
        '"TIMESTAMP","ContextTokens","GeneratedTokens"\r\n'
        '"2024-05-10 00:00:00,5Z","40","2"\r\n"2024-05-10 00:00:01Z","30","1"\r\n',
        "timestamp; contexttokens ;generatedtokens;note\n"
        '2024-05-10T00:00:00.5Z;40;2;"a; b"\n\n2024-05-10T00:00:01Z;30;1;"two\nlines"\n',
        "GeneratedTokens\tTIMESTAMP\tContextTokens\n"
        "2\t2024-05-10T02:00:00.5+02:00\t40.0\n1\t2024-05-10T00:00:01Z\t30\n",
        "\n\n" + BURST + "0.5,m,40,2\n1,m,30,1\n",
        BURST + "2024-05-10T00:00:00.5Z,m,40,2\n2024-05-10T00:00:01Z,m,30,1\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n1,30,1\n0.5,40,2\n",
        lines(
            {"timestamp": 1000, "input_length": 30, "output_length": 1},
            {"timestamp": 500.0, "input_length": 40, "output_length": 2},
        ),
        json.dumps(
            [
                {"timestamp": "2024-05-10T00:00:01Z", "input_length": 30, "output_length": 1},
                {"timestamp": "2024-05-10T00:00:00.5Z", "input_length": 40, "output_length": 2},
            ],
            indent=1,
        ),
    ],
)
def test_the_same_two_requests_in_every_form(text: str) -> None:
    trace = recorded(text)
    assert trace.arrivals == pytest.approx([0, 0.5])
    assert (trace.prompts, trace.outputs) == ([40, 30], [2, 1])


def test_numbers_in_a_schema_that_has_dates_are_asked_for_their_unit() -> None:
    text = AZURE + "5,40,2\n6,30,1\n"
    with pytest.raises(ConfigError, match="'5' may be s, ms, us or ns"):
        recorded(text)
    assert recorded(text, time_unit="ms").arrivals == pytest.approx([0, 0.001])


def test_only_what_is_mooncakes_own_is_in_milliseconds() -> None:
    """Others publish the same fields in seconds, with blocks of another size."""
    others = lines(
        {"timestamp": 61, "input_length": 1600, "output_length": 1, "hash_ids": list(range(100))},
        {"timestamp": 62, "input_length": 8000, "output_length": 1, "hash_ids": list(range(500))},
    )
    with pytest.raises(ConfigError, match="61 may be s, ms"):
        recorded(others)
    trace = recorded(others, time_unit="s")
    assert trace.arrivals == [0, 1]
    assert trace.block_tokens == 16
    assert [len(blocks) for blocks in trace.blocks] == [100, 500]
    with pytest.raises(ConfigError, match=r"61\.25 may be s, ms"):
        recorded(lines({"timestamp": 61.25, "input_length": 9, "output_length": 1}))


def test_a_wrong_block_size_is_refused_and_one_that_is_not_plain_asked_for() -> None:
    text = lines({"input_length": 100, "output_length": 1, "hash_ids": [1, 2, 3, 4, 5]})
    with pytest.raises(ConfigError, match="say how many with block_tokens"):
        recorded(text)
    assert recorded(text, block_tokens=20).blocks == [[1, 2, 3, 4, 5]]
    assert recorded(text, block_tokens=24).blocks == [[1, 2, 3, 4]]
    with pytest.raises(ConfigError, match="blocks of 512 tokens do not fit"):
        recorded(text, block_tokens=512)
    with pytest.raises(ConfigError, match="block_tokens: 0"):
        recorded(text, block_tokens=0)


def serve_gen(rates: list[list[float]]) -> str:
    histograms = {"input_hist": {"10": 1, "0": 3}, "output_hist": {"7": 1}}
    return json.dumps({**histograms, "rate_600s": rates}, indent=2)


def test_published_rates_hold_for_600_s_whatever_they_are_written_in() -> None:
    for rates, unit in (
        ([[0, 2], [600, 3], [1800, 1]], None),
        ([[0, 2], [600_000, 3], [1_800_000, 1]], "ms"),
    ):
        trace = parse_trace(serve_gen(rates), TraceFormat(time_unit=unit))  # type: ignore[arg-type]
        assert isinstance(trace, PooledTrace)
        assert trace.rates == [(0, 2), (600, 3), (1800, 1)]
    for rates in ([[0, 2], [600_000, 3]], [[0, 2], [10, 3]], [[600, 2], [0, 3]]):
        with pytest.raises(ConfigError, match="are not 600 s apart; say what they are in"):
            parse_trace(serve_gen(rates), TraceFormat())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AZURE + "2024-05-10T00:00Z,40,2\n2024-05-10T00:00Z,40.5,2\n", "line 3: .*'40.5' is no"),
        (AZURE + '2024-05-10T00:00Z,"4,808",2\n', "line 2: not what its first line promises"),
        (AZURE + "2024-05-10T00:00Z,40\n", "line 2: not what its first line promises"),
        (AZURE + "05/10/2024 01:00,40,2\n", "neither a number nor a date"),
        ('{"input_length": 9, "output_length": 1}\n{"input_length": 9}\n', "line 2: .*missing"),
        ("[1, 2]", "not what its first line promises"),
    ],
)
def test_a_bad_row_is_named_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_trace(text, TraceFormat())


@pytest.mark.parametrize(
    "text",
    [
        '{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [], "x": '
        + "[" * 9999,
        '[{"timestamp": ' + "[" * 9999,
        '{"event":{"type":"RequestArrived","x":' + "[" * 9999,
    ],
)
def test_what_is_nested_without_end_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        recorded(text)


@pytest.mark.parametrize(
    "text", ["TIMESTAMP\rx,ContextTokens,GeneratedTokens", AZURE + "1,4\r2,2\n"]
)
def test_a_table_that_cannot_be_divided_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        recorded(text)


def test_a_journals_answers_are_as_long_as_they_became() -> None:
    def arrived(at: float, name: str) -> str:
        return (
            f'{{"at":{at},"type":"RequestArrived","request_id":"{name}","total_tokens":9,'
            '"max_output_tokens":4096,"cached":{"d":4}}'
        )

    text = "\n".join(
        [
            arrived(0.0, "a"),
            arrived(1.0, "b"),
            arrived(2.0, "c"),
            '{"at":3.0,"type":"RequestCompleted","request_id":"b","attempt":1}',
            '{"at":4.0,"type":"RequestCompleted","request_id":"a","attempt":2,"output_tokens":17}',
        ]
    )
    trace = recorded(text)
    assert list(trace.outputs) == [17, 4096, 4096]
    assert list(trace.prompts) == [5, 5, 5]


@pytest.mark.parametrize("length", [1 << 41, 10**30, 10**400])
def test_lengths_that_no_prompt_has_are_refused(length: int) -> None:
    row = {"input_length": 5, "output_length": 5, "hash_ids": []}
    for name in ("input_length", "output_length"):
        with pytest.raises(ConfigError, match="tokens, at most 1099511627776"):
            recorded(lines({**row, name: length}))
    histogram = {"5": 1.0, str(length): 1.0}
    with pytest.raises(ConfigError, match="lengths end at 1099511627776"):
        parse_trace(json.dumps({"input_hist": histogram, "output_hist": {"5": 1.0}}), TraceFormat())


def test_a_trace_has_no_ages_in_it() -> None:
    """They would be simulated second by second."""
    with pytest.raises(ConfigError, match=r"times: 1e\+18 s are between"):
        recorded(BURST + "0,m,5,5\n1e18,m,5,5\n")


def test_a_journals_answers_have_no_lengths_below_zero() -> None:
    arrived = '{"at":0,"type":"RequestArrived","request_id":"r","total_tokens":5,'
    ended = '{"at":1,"type":"RequestCompleted","request_id":"r","output_tokens":-5}'
    with pytest.raises(ConfigError, match="no answer has -5 tokens"):
        parse_trace(f'{arrived}"max_output_tokens":5}}\n{ended}\n', TraceFormat())
