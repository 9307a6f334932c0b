"""What may be said of a cached prefix: found by who has the key and the prompt, by nobody else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from prfaas.core.errors import EngineError
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.index import keyed_prefixes
from prfaas.index.keyed_prefixes import KeyedPrefixes, keys_of, keys_of_prompt
from prfaas.index.keys import BlockHasher, KnownTokens, PromptKeys

BLOCK = 4
TOKENS = list(range(70_000, 70_030))
KEY = b"the deployment's"


def told(
    start: int, end: int, *, salt: str | None = "a-salt", adapter: str | None = None
) -> PromptPrefix:
    root = root_digest("w", adapter=adapter, salt=salt)
    names = chain(root, TOKENS, BLOCK)
    found = stretch(
        names, root, TOKENS, block_tokens=BLOCK,
        from_token=start, to_token=end, salt=salt, adapter=adapter,
    )  # fmt: skip
    assert found is not None
    return found


@pytest.mark.parametrize(("salt", "adapter"), [(None, None), ("s", None), (None, "a"), ("s", "a")])
def test_keys_are_those_of_the_prompt_however_it_was_told(
    salt: str | None, adapter: str | None
) -> None:
    prefixes = KeyedPrefixes(KEY)
    whole = keys_of_prompt(BlockHasher(KEY), KnownTokens(TOKENS), BLOCK, salt=salt, adapter=adapter)
    asked = list(PromptKeys(TOKENS, salt=salt, adapter=adapter).chunks(BlockHasher(KEY), BLOCK))
    assert np.array_equal(np.concatenate([k.low for k in asked]), whole.low)
    for start, end in ((0, 12), (12, 28)):
        keys = keys_of(prefixes.keyed(told(start, end, salt=salt, adapter=adapter)))
        assert keys is not None
        assert np.array_equal(keys.low, whole.low[start // BLOCK : end // BLOCK])
        assert np.array_equal(keys.high, whole.high[start // BLOCK : end // BLOCK])


def test_no_token_no_salt_and_no_name_of_the_engines_is_in_it() -> None:
    plain = told(0, 28)
    made = KeyedPrefixes(KEY).keyed(plain)
    said = msgspec.json.encode(made) + msgspec.msgpack.encode(made)
    for token in TOKENS[:28]:
        assert str(token).encode() not in said
        for order in ("big", "little"):
            assert token.to_bytes(4, order) not in said  # type: ignore[arg-type]
    for name in (plain.parent, *plain.digests):
        assert name not in said
        assert msgspec.json.encode(name)[1:-3] not in said
    assert b"a-salt" not in said
    other = KeyedPrefixes(b"another").keyed(plain)
    assert not set(made.digests) & set(other.digests)
    assert made.keys != other.keys


def test_of_what_comes_after_something_unknown_there_are_names_alone() -> None:
    prefixes = KeyedPrefixes(KEY)
    assert prefixes.keyed(told(12, 28)).keys == b""
    first = prefixes.keyed(told(0, 12))
    assert prefixes.keyed(told(12, 28)).parent == first.digests[-1]
    assert prefixes.keyed(told(12, 28)).keys != b""


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_prefixes, "_MOST_PLACES", 3)
    prefixes = KeyedPrefixes(KEY)
    prefixes.keyed(told(0, 28))
    assert prefixes.keyed(told(12, 28)).keys == b"", "the oldest are forgotten"
    assert prefixes.keyed(told(24, 28)).keys != b""


def test_where_prompts_go_on_is_remembered_though_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A system prompt is cached once; what is behind it is told again and again."""
    monkeypatch.setattr(keyed_prefixes, "_MOST_PLACES", 8)
    prefixes = KeyedPrefixes(KEY)
    prefixes.keyed(told(0, 12))
    for number in range(8):
        tokens = [*TOKENS[:12], *range(number * 10, number * 10 + 8)]
        root = root_digest("w", adapter=None, salt="a-salt")
        behind = stretch(
            chain(root, tokens, BLOCK), root, tokens, block_tokens=BLOCK,
            from_token=12, to_token=20, salt="a-salt", adapter=None,
        )  # fmt: skip
        assert behind is not None
        assert prefixes.keyed(behind).keys != b"", f"the end is forgotten after {number}"


def test_what_is_no_prefix_is_refused() -> None:
    with pytest.raises(EngineError, match="each of its tokens"):
        KeyedPrefixes(KEY).keyed(msgspec.structs.replace(told(0, 12), tokens=b""))
    with pytest.raises(EngineError, match="16 bytes"):
        KeyedPrefixes(KEY).name(b"short")


def test_with_another_key_names_and_keys_are_others_and_what_was_learned_is_void() -> None:
    keyed, fresh = KeyedPrefixes(b"one"), KeyedPrefixes(b"two")
    first, second = told(0, 8), told(8, 16)
    before = keyed.keyed(first)
    keyed.rekey(b"two")
    assert keyed.key_id == fresh.key_id
    assert keyed.keyed(second).keys == b"", "what is before it was told under the other key"
    after = keyed.keyed(first)
    assert after == fresh.keyed(first)
    assert after.digests != before.digests
    assert after.keys != before.keys
    assert keyed.keyed(second).keys
