"""Trace schemas, told by their first line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.workload.files import TraceSource, clip_note, read_trace_file
from prfaas.workload.trace import PooledTrace, RecordedTrace


def read(path: Path, text: str) -> RecordedTrace | PooledTrace:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return read_trace_file(path)


def test_mooncake_is_sorted_by_time_and_keeps_whole_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 1000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 2]},
        {"timestamp": 4000, "input_length": 10, "output_length": 0, "hash_ids": [0]},
    ]
    trace = read(tmp_path / "m.jsonl.gz", "\n".join(json.dumps(row) for row in rows))
    assert trace == RecordedTrace(
        arrivals=[0.0, 2.0], prompts=[1024, 600], outputs=[7, 5], blocks=[[0, 2], [0]]
    )


def test_mooncake_without_timestamps_has_no_times_and_keeps_its_order(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
        {"input_length": 40, "output_length": 7},
    ]
    path = tmp_path / "m.jsonl"
    assert read(path, "\n".join(json.dumps(row) for row in rows)) == RecordedTrace(
        arrivals=None, prompts=[600, 40], outputs=[5, 7], blocks=[[0], []]
    )
    rows[0]["timestamp"] = 3
    with pytest.raises(ConfigError, match="in every line or in none"):
        read(path, "\n".join(json.dumps(row) for row in rows))


@pytest.mark.parametrize(
    "text",
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.4799600,3180,8\n2023-11-16 18:17:05.0,0,8\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5.5,ChatGPT,3180,8,3188,c\n5,ChatGPT,4808,10,4818,c\n6,GPT-4,12,0,12,f\n",
    ],
)
def test_tables_with_times(tmp_path: Path, text: str) -> None:
    trace = read(tmp_path / "t.csv", text)
    assert isinstance(trace, RecordedTrace)
    assert trace.arrivals == pytest.approx([0.0, 0.5])
    assert (trace.prompts, trace.outputs, trace.blocks) == ([4808, 3180], [10, 8], [])


def test_lengths_alone(tmp_path: Path) -> None:
    trace = read(tmp_path / "v.csv", "num_prefill_tokens,num_decode_tokens,r\n40.0,2.0,1\n7,1,1\n")
    assert trace == RecordedTrace(arrivals=None, prompts=[40, 7], outputs=[2, 1], blocks=[])


def test_pooled(tmp_path: Path) -> None:
    text = {
        "input_hist": {"0": 9, "10": 1, "20": 3},
        "output_hist": {"7": 1},
        "rate_600s": [[0, 2]],
    }
    trace = read(tmp_path / "s.json", json.dumps(text))
    assert isinstance(trace, PooledTrace)
    assert (trace.prompts.mean(), trace.outputs.mean()) == pytest.approx((17.5, 7.0))
    assert trace.rates == [(0.0, 2.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no known schema"),
        ("a,b\n1,2\n", "no known schema"),
        ("\x00\x01", "no known schema"),
        ("ContextTokens,GeneratedTokens\n", "no request"),
        ("ContextTokens,GeneratedTokens\nx,1\n", "not what its first line promises"),
        ("ContextTokens,GeneratedTokens\n1\n", "not what its first line promises"),
        ("ContextTokens,GeneratedTokens\ninf,1\n", "not what its first line promises"),
        ("Timestamp,Request tokens,Response tokens\nnan,1,1\n", "'nan' is no time"),
        ('{"input_length": "many"}\n', "not what its first line promises"),
        ('{"hash_ids": 3}\n', "not what its first line promises"),
    ],
)
def test_foreign_and_empty_files_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"trace .*x\.csv: .*{says}"):
        read(tmp_path / "x.csv", text)


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10T00:00:00Z,40,2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read_over(tmp_path: Path, encoding: str) -> None:
    for name, pack in (("t.csv", bytes), ("t.csv.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(pack(AZURE.encode(encoding)))
        trace = read_trace_file(path)
        assert isinstance(trace, RecordedTrace)
        assert trace.prompts == [40]


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xe9" + AZURE.encode())
    with pytest.raises(ConfigError, match=r"t\.csv: not utf-8 text: byte 0"):
        read_trace_file(path)


def test_a_source_says_how_to_read_a_file_and_cuts_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(AZURE + "2024-05-10T00:00:01Z,4000,2\n")
    trace = TraceSource(file="t.csv", clip="1K").read(tmp_path)
    assert isinstance(trace, RecordedTrace)
    assert trace.prompts == [40, 1024]
    assert clip_note("1K", trace.clipped_share).startswith("trace: 50.00% of the prompts were")
    with pytest.raises(ConfigError, match="clip: 0; write 1 token or more"):
        TraceSource(file="t.csv", clip=0).read(tmp_path)
    (tmp_path / "t.csv").write_text(AZURE.replace("2024-05-10T00:00:00Z", "5"))
    with pytest.raises(ConfigError, match="say which with time_unit"):
        TraceSource(file="t.csv").read(tmp_path)
    assert TraceSource(file="t.csv", time_unit="ms").read(tmp_path) == RecordedTrace(
        arrivals=[0.0], prompts=[40], outputs=[2], blocks=[]
    )


def test_a_few_bytes_that_unpack_to_many_are_refused_before_they_are_held(tmp_path: Path) -> None:
    bomb, line = tmp_path / "bomb.gz", b'{"timestamp": 0, "input_length": 6, "output_length": 5}\n'
    bomb.write_bytes(gzip.compress(line * 100_000))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="unpacks to more than 100 times its size"):
            read_trace_file(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000 * len(line)


def test_missing_torn_and_damaged_files_are_named(tmp_path: Path) -> None:
    packed = gzip.compress(b"a,b\n" * 100)
    torn, damaged = tmp_path / "torn.gz", tmp_path / "damaged.gz"
    torn.write_bytes(packed[:20])
    damaged.write_bytes(packed[:10] + b"\xff" * 4 + packed[14:])
    for path in (torn, damaged, tmp_path / "none"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_trace_file(path)
