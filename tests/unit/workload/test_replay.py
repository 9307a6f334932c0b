"""Traces as workloads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals
from prfaas.workload.files import TraceSource, read_trace_file
from prfaas.workload.replay import replayed
from prfaas.workload.requests import Workload


def read(path: Path, text: str, *, arrivals: Arrivals | None = None, count: int = 100) -> Workload:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    trace = read_trace_file(path)
    return replayed(trace, arrivals=arrivals, count=count, rng=np.random.default_rng(1))


def test_recorded_traces_keep_times_lengths_and_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 1000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 2]},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    workload = read(tmp_path / "m.jsonl.gz", text)
    assert workload.arrivals == [0.0, 2.0]
    assert workload.prompts == [1024, 600]
    assert workload.outputs == [7, 5]
    assert workload.blocks == [[0, 2], [0]]
    assert list(workload.sped_up(2).arrivals) == [0.0, 1.0]


def test_serve_gen_draws_lengths_and_follows_its_rates(tmp_path: Path) -> None:
    trace = {
        "source": "made up",
        "input_hist": {"0": 1.0, "100": 0.5, "200": 0.5},
        "output_hist": {"7": 1.0},
        "rate_600s": [[0, 1.0], [600, 3.0]],
    }
    workload = read(tmp_path / "s.json", json.dumps(trace), count=5000)
    times = np.asarray(workload.arrivals)
    assert set(workload.prompts) == {100, 200}
    assert 400 < (times < 600).sum() < 800 < (times >= 600).sum() < 2200
    assert times.max() < 1200


def test_lengths_alone_need_arrivals(tmp_path: Path) -> None:
    text = "num_prefill_tokens,num_decode_tokens,pd_ratio\n3772,54,69.8\n2015,156,12.9\n"
    with pytest.raises(ConfigError, match=r"workload\.arrivals: {process"):
        read(tmp_path / "v.csv", text)
    workload = read(tmp_path / "v.csv", text, arrivals=Arrivals("uniform", 2.0))
    assert workload.arrivals == [0.0, 0.5]


def test_a_traces_own_times_win_and_arrivals_serve_where_it_has_none(tmp_path: Path) -> None:
    evenly = Arrivals("uniform", 2.0)
    timed = "Timestamp,Request tokens,Response tokens\n5,40,2\n9,30,1\n"
    assert read(tmp_path / "b.csv", timed, arrivals=evenly).arrivals == [0.0, 4.0]
    timeless = '{"input_length": 40, "output_length": 2}\n{"input_length": 30, "output_length": 1}'
    assert read(tmp_path / "m.jsonl", timeless, arrivals=evenly).arrivals == [0.0, 0.5]
    pooled = '{"input_hist": {"40": 1}, "output_hist": {"2": 1}}'
    assert read(tmp_path / "s.json", pooled, arrivals=evenly, count=3).arrivals == [0.0, 0.5, 1.0]
    for name, text in (("m.jsonl", timeless), ("s.json", pooled)):
        with pytest.raises(ConfigError, match="has no arrival times"):
            read(tmp_path / name, text)


def test_the_share_that_was_clipped_and_the_block_size_go_with_the_workload(
    tmp_path: Path,
) -> None:
    rows = [
        {"timestamp": "2024-05-10T00:00Z", "input_length": n, "output_length": 1, "hash_ids": ids}
        for n, ids in ((1600, list(range(100))), (64, [0, 1, 2, 3]))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    trace = TraceSource(file="t.jsonl", clip=160).read(tmp_path)
    workload = replayed(trace, arrivals=None, count=9, rng=np.random.default_rng(1))
    assert workload.block_tokens == 16
    assert workload.clipped_share == workload.first(1).clipped_share == 0.5
    assert [len(blocks) for blocks in workload.blocks] == [10, 4]
