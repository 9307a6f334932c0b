"""A version that was not tried is used, with a warning."""

import pytest

from prfaas.vllm_plugin.versions import version_warning


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1", "0.32.0+cpu", "0.33.0rc1", "0.32"])
def test_what_was_tried_is_not_spoken_of(version: str) -> None:
    assert version_warning(version) is None


@pytest.mark.parametrize("version", ["0.34.0", "0.3.2", "0.320.1", "1.0", "dev"])
def test_another_version_is_a_warning(version: str) -> None:
    warning = version_warning(version)
    assert warning is not None
    assert f"vLLM {version} was not tried" in warning
