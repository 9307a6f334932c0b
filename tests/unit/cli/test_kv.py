"""``prfaas kv`` from the command line."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from prfaas.cli.kv import KvReport
from prfaas.cli.main import main


def test_kv_prints_layers_sizes_and_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "Kimi-Linear-48B-A3B", "--tokens", "32K"]) == 0
    out = capsys.readouterr().out
    for text in ("Kimi Delta Attention", "8,064 bytes per token", "293.4 MiB", "(implied)"):
        assert text in out


def test_kv_json_and_dtypes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["kv", "Qwen3.8-27B", "--state-dtype", "bf16", "--kv-dtype", "fp8", "--json"]
    assert main([*arguments, "--tokens", "1024"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["constant_bytes"] == 78446592
    assert report["bytes_per_token"] == 32768
    assert report["lengths"] == [{"tokens": 1024, "bytes": 78446592 + 32768 * 1024}]


def test_kv_lists_the_catalogue_and_names_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kv", "--list"]) == 0
    assert "Kimi-K3" in capsys.readouterr().out
    assert main(["kv"]) == 2
    assert main(["kv", "gpt-oss-120"]) == 2
    assert "did you mean gpt-oss-120b" in capsys.readouterr().err


def test_kv_json_is_what_its_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["Kimi-Linear-48B-A3B"], ["DeepSeek-V4-Flash", "--tokens", "1M"]):
        assert main(["kv", *arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        jsonschema.validate(report, msgspec.json.schema(KvReport))
        assert set(report) == set(KvReport.__struct_fields__)


def test_kv_takes_vllms_flags(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dtype", "float32", "--kv-cache-dtype", "auto", "--mamba-cache-dtype", "auto"]
    assert main(["kv", "Jamba2-Mini", *flags, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["dtype"], report["kv_dtype"], report["state_dtype"]) == ("float32",) * 3
    assert main(["kv", "Jamba2-Mini", "--kv-cache-dtype", "turboquant_k8v4"]) == 2
    assert "unknown dtype 'turboquant_k8v4'" in capsys.readouterr().err


def test_kv_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["kv", "--help"])
    assert "prfaas kv ./my-model --tokens 32K" in capsys.readouterr().out
