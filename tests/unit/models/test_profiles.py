"""Profiles: interpolation, refusal beyond the table, the built-in files, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.profiles import built_in_profiles, common_kv_size, load_profile, parse_profile

HEAD = "name: a\nhardware: x\nsource: s\nbasis: measured\n"
H200 = load_profile("paper-1t-h200").prefill_or_refuse


def test_the_points_and_between() -> None:
    assert H200.seconds(8192) == 0.72
    assert H200.seconds(20 * 1024) == pytest.approx((0.72 + 1.84) / 2)
    assert H200.max_tokens == 131072


def test_beyond_the_table_is_refused_below_is_continued() -> None:
    with pytest.raises(ConfigError, match=r"ends at 131072.*asked for 131073"):
        H200.seconds(131073)
    with pytest.raises(ConfigError, match="add it"):
        H200.seconds(np.array([1.0, 2e6]))
    assert H200.seconds(0) == pytest.approx(0.40)
    assert H200.table.covers_from == 1024


def test_decode_batch_within_a_step() -> None:
    decode = load_profile("paper-1t-h20-fit").decode_or_refuse
    assert decode.batch_within(0.025) == 20
    assert decode.batch_within(0.024) == 0
    assert decode.step_seconds(1) == 0.025
    with pytest.raises(ConfigError, match="ends at 20"):
        decode.step_seconds(21)


def test_a_fit_says_so_in_its_label() -> None:
    assert load_profile("paper-1t-h20-fit").label.endswith("(fit)")
    assert load_profile("paper-1t-h200").label == "paper-1t-h200"


def test_every_built_in_profile_loads_and_rises() -> None:
    for name in built_in_profiles():
        profile = load_profile(name)
        assert profile.name == name
        seconds = profile.prefill_or_refuse.table.y
        assert list(seconds) == sorted(seconds)


def test_a_missing_table_is_named() -> None:
    with pytest.raises(ConfigError, match="no 'decode' table"):
        _ = load_profile("paper-1t-h200").decode_or_refuse


def test_a_profile_file_is_found_beside_the_scenario(tmp_path: Path) -> None:
    text = HEAD + "gpus: 1\nprefill: {points: {1K: 1.0, 4096: 2.0}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    profile = load_profile("mine.yaml", beside=tmp_path)
    assert profile.prefill_or_refuse.seconds(4096) == 2.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "gpus: 0\n", "at least one GPU"),
        (HEAD + "gpus: 1\nprefil: {}\n", "did you mean 'prefill'"),
        (HEAD + "gpus: 1\nprefill: {points: {}}\n", "at least one point"),
        (
            HEAD + "gpus: 1\nprefill: {points: {8K: 1.0, 1K: 2.0}}\n",
            "rising order",
        ),
        (
            HEAD + "gpus: 1\nkv: {constant: '3', per_token: 1 KiB}\n",
            "no unit",
        ),
        (HEAD + "gpus: 1\nprefill: {points: {1K: .nan}}\n", "prefill: values must be finite"),
    ],
)
def test_bad_files_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_profile(text, source="p.yaml")


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("{1e18: 0.02}", "decode: points go up to 1048576"),
        ("{8: 1.0e-300}", "decode: points .* take 1e-09 to 1e"),
        ("{8: 1.0e+300}", "decode: points .* take 1e-09 to 1e"),
    ],
)
def test_points_that_nothing_measures_are_slips(points: str, says: str) -> None:
    """Each batch up to the largest is looked at."""
    with pytest.raises(ConfigError, match=says):
        parse_profile(f"{HEAD}gpus: 1\ndecode: {{points: {points}}}\n", source="p.yaml")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="paper-1t-h200"):
        load_profile("h200")


def test_s_kv_is_the_files_own_or_its_models() -> None:
    silent = parse_profile(HEAD + "gpus: 1\n", source="p.yaml")
    assert silent.kv_size() is None
    modelled = parse_profile(HEAD + "gpus: 1\nmodel: Kimi-Linear-48B-A3B\n", source="p.yaml")
    of_model, in_fp8 = modelled.kv_size(), modelled.kv_size(kv_dtype="fp8")
    assert of_model is not None
    assert in_fp8 is not None
    assert (of_model.bytes_per_token, in_fp8.bytes_per_token) == (8064, 4032)
    own = load_profile("paper-1t-h200")
    assert own.kv_size(kv_dtype="fp8") == own.kv


def test_profiles_share_one_s_kv_or_say_why_not() -> None:
    paper, other = load_profile("paper-1t-h200"), load_profile("table3-qwen3-235b-h200")
    silent = parse_profile(HEAD + "gpus: 1\n", source="p.yaml")
    assert common_kv_size([silent, paper, paper]) == paper.kv
    with pytest.raises(ConfigError, match="no profile says"):
        common_kv_size([silent])
    with pytest.raises(ConfigError, match="the profiles do not agree"):
        common_kv_size([paper, other])
