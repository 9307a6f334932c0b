"""Where S_kv comes from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.core.deployment import ModelConfig
from prfaas.core.errors import ConfigError
from prfaas.core.planned import KvSizeConfig
from prfaas.description.speeds import check_longest, kv_size_of
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import load_profile

PUBLISHED = load_profile("paper-1t-h200")
MEASURED = msgspec.structs.replace(PUBLISHED, basis="measured", kv=KvSize(1000.0, 10.0))
KIMI = ModelConfig(path="Kimi-Linear-48B-A3B")


def test_the_file_then_what_was_measured_then_the_model_then_the_profiles() -> None:
    here = Path()
    said = ModelConfig(path=KIMI.path, kv_size=KvSizeConfig(constant="1 MiB", per_token="2 KiB"))
    assert kv_size_of(said, [MEASURED], beside=here).bytes(1) == 2**20 + 2048
    assert kv_size_of(KIMI, [MEASURED, MEASURED], beside=here) == MEASURED.kv
    assert kv_size_of(KIMI, [PUBLISHED], beside=here).bytes_per_token == 8064
    assert kv_size_of(KIMI, [PUBLISHED, MEASURED], beside=here).bytes_per_token == 8064
    assert kv_size_of(ModelConfig(), [PUBLISHED], beside=here) == PUBLISHED.kv
    with pytest.raises(ConfigError, match="do not agree"):
        kv_size_of(ModelConfig(), [PUBLISHED, MEASURED], beside=here)


def test_a_prompt_beyond_a_profile_is_refused_with_what_to_do() -> None:
    check_longest("here", PUBLISHED, 131072)
    with pytest.raises(ConfigError, match=r"here: .*ends at 131072.*--clip 131072"):
        check_longest("here", PUBLISHED, 131073)
