"""The cache key's file while a process runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.tls.authority import make_cache_key
from prfaas.tls.cache_key import LiveCacheKey


def test_another_key_is_taken_and_the_same_one_is_none(tmp_path: Path) -> None:
    live = LiveCacheKey(path := make_cache_key(tmp_path))
    first = live.key
    assert not live.changed()
    text = path.read_text()
    path.unlink()
    path.write_text(text + "\n")
    assert live.changed()
    assert not live.look_at(path), "it is the same key in another file"
    assert not live.changed()
    path.write_text("ab" * 32)
    assert live.changed()
    assert live.look_at(path)
    assert live.key == b"\xab" * 32 != first


@pytest.mark.parametrize("bad", [None, "", "ab" * 31, "xy" * 32, "ab" * 65, "a" * 65, "\xe9" * 64])
def test_a_bad_file_is_looked_at_once_and_taken_when_it_is_mended(
    tmp_path: Path, bad: str | None
) -> None:
    live = LiveCacheKey(path := make_cache_key(tmp_path))
    first = live.key
    path.unlink()
    if bad is not None:
        path.write_bytes(bad.encode("latin-1"))
    assert live.changed()
    with pytest.raises(ConfigError, match=r"cache\.key: ") as refused:
        live.look_at(path)
    if bad:
        assert bad not in str(refused.value)
    assert not live.changed()
    assert live.key == first
    path.write_text("cd" * 32)
    assert live.changed()
    assert live.look_at(path)
