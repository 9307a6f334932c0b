"""KV geometry beside vLLM's own: sizes of every layout it can construct here, every architecture
of its registry accounted for, and the defaults of its config classes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml
from prfaas.models.geometry import config_classes
from prfaas.models.geometry.models import FAMILIES, geometry_of

ORACLE = Path(__file__).parents[2] / "vllm_oracle"
RUN_S = 500


def oracle_cases() -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("vllm_oracle_cases", ORACLE / "cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cases()


CASES = oracle_cases()
RECORDED: dict[str, dict[str, int]] = {
    row["id"]: row["specs"]
    for row in map(json.loads, (ORACLE / "specs.jsonl").read_text().splitlines())
}
ARCHITECTURES = load_yaml(ORACLE / "architectures.yaml", dict[str, Any])


def caches(config: dict[str, Any], flags: dict[str, str]) -> dict[str, int]:
    """How many layers keep what, in the words of the oracle's `describe`."""
    model = geometry_of(config, name="m", source="test", dtype=flags.get("dtype"))
    kv_dtype = flags.get("kv_cache_dtype") or model.kv_dtype
    convolution = flags.get("mamba_cache_dtype") or model.model_dtype
    state = flags.get("mamba_ssm_cache_dtype") or model.state_dtype or convolution
    found: Counter[str] = Counter()
    for layer, count in model.layers.items():
        window = f" in {layer.window_tokens}" if layer.window_tokens else ""
        if per_token := layer.bytes_per_token(kv_dtype):
            found[f"{per_token:g}{window}"] += count
        if fixed := layer.constant_bytes(state_dtype=state, convolution_dtype=convolution):
            found[f"state {fixed:.0f}"] += count
    return dict(found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_sizes_are_those_that_vllm_allocates(case: dict[str, Any]) -> None:
    recorded = RECORDED[case["id"]]
    if recorded:
        assert caches(case["config"], case.get("flags", {})) == recorded
    else:
        with pytest.raises(ConfigError, match="keeps no KV cache"):
            caches(case["config"], {})


WRONG: list[Any] = ["x", "", [], {}, -1, 0, None, [1], ["a"], {"a": 1}, 1.5, True]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_field_that_says_nonsense_is_an_error_of_the_config(case: dict[str, Any]) -> None:
    """Whatever stands in a field: a size, or a ConfigError, and no other error."""
    config = case["config"]
    place = next((name for name in ("thinker_config", "text_config") if name in config), None)
    fields = config if place is None else config[place]
    known = config_classes.config_classes().get(fields["model_type"])
    for name in {*fields, *(known.defaults if known else ())}:
        for value in WRONG:
            changed = {**fields, name: value}
            whole = changed if place is None else {**config, place: changed}
            with contextlib.suppress(ConfigError):
                size = geometry_of(whole, name="m", source="test").kv_size()
                assert size.bytes(1000) >= 0


@pytest.mark.parametrize("architecture", ARCHITECTURES["from_source"])
def test_an_architecture_that_only_its_source_tells_of_has_a_rule(architecture: str) -> None:
    assert ARCHITECTURES["from_source"][architecture] in FAMILIES


@pytest.mark.parametrize("group", ["refused", "no_kv_cache"])
def test_what_has_no_size_is_refused_by_name(group: str) -> None:
    for architecture, model_type in ARCHITECTURES[group].items():
        config = {"architectures": [architecture], "model_type": model_type}
        with pytest.raises(ConfigError, match=f"model type '{model_type}'") as refused:
            geometry_of(config, name="m", source="test")
        assert group == "refused" or "keeps no KV cache" in str(refused.value)


@pytest.mark.parametrize(
    "architecture", ["EagleLlamaForCausalLM", "DeepSeekMTPModel", "Qwen3DSparkModel"]
)
def test_a_draft_model_is_refused(architecture: str) -> None:
    with pytest.raises(ConfigError, match="is a draft model"):
        geometry_of(
            {"architectures": [architecture], "model_type": "llama"}, name="m", source="test"
        )


def run_oracle(script: str, stdin: str = "") -> str:
    command = [sys.executable, str(ORACLE / script)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_vllm_still_allocates_what_is_recorded() -> None:
    pytest.importorskip("vllm")
    lines = "".join(json.dumps(case) + "\n" for case in CASES)
    answers = map(json.loads, run_oracle("kv_cache_specs.py", lines).splitlines())
    assert {row["id"]: row.get("specs", row.get("error")) for row in answers} == RECORDED


@pytest.mark.slow
def test_every_architecture_of_the_registry_is_accounted_for() -> None:
    pytest.importorskip("vllm")
    registered = set(run_oracle("registry.py").split())
    drafts = {name for name in registered if name.startswith("draft:")}
    served = registered - drafts
    measured = {name for case in CASES for name in case["config"]["architectures"]}
    named = [set(group) for group in ARCHITECTURES.values()]
    assert served == measured.union(*named)
    for draft in drafts:
        config = {"architectures": [draft.removeprefix("draft:")], "model_type": "llama"}
        with pytest.raises(ConfigError, match="is a draft model"):
            geometry_of(config, name="m", source="test")


@pytest.mark.slow
def test_the_defaults_are_those_of_the_installed_config_classes() -> None:
    pytest.importorskip("vllm")
    written = Path(config_classes.__file__).parent / "config_defaults.yaml"
    assert run_oracle("config_defaults.py") == written.read_text()
