"""Names of prefixes."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.cache_news import Stored
from prfaas.core.prefixes import (
    MOST_BLOCK_TOKENS,
    Prefix,
    PromptPrefix,
    chain,
    pack_tokens,
    root_digest,
    stretch,
)
from prfaas.engine_socket.framing import encode
from prfaas.engine_socket.messages import DescribeTransfer
from prfaas.gateway import agent_client

TOKENS = list(range(100, 140))


def names(tokens: list[int], *, salt: str | None = None, adapter: str | None = None) -> list[bytes]:
    return list(chain(root_digest("w", adapter=adapter, salt=salt), tokens, 16))


def test_prompts_share_names_as_far_as_they_are_alike() -> None:
    other = [*TOKENS[:20], 7, *TOKENS[21:]]
    assert len(names(TOKENS)) == 2  # of whole blocks
    assert names(TOKENS)[0] == names(other)[0]
    assert names(TOKENS)[1] != names(other)[1]
    # The second block's tokens are alike, what is before them is not.
    assert names([1, *TOKENS[1:]])[1] != names(TOKENS)[1]


def test_salt_adapter_and_weights_are_in_every_name() -> None:
    plain = names(TOKENS)
    others = [names(TOKENS, salt="a"), names(TOKENS, adapter="a"), names(TOKENS, salt="b")]
    others.append(list(chain(root_digest("v", adapter=None, salt=None), TOKENS, 16)))
    every = [name for some in (plain, *others) for name in some]
    assert len(set(every)) == len(every)


def test_a_stretch_is_of_whole_blocks() -> None:
    root = root_digest("w", adapter=None, salt=None)
    chained = chain(root, TOKENS, 16)
    found = stretch(
        chained, root, TOKENS, block_tokens=16, from_token=16, to_token=39, salt=None, adapter=None
    )
    assert found is not None
    assert (found.from_token, found.end_token) == (16, 32)
    assert (found.parent, found.digests) == (chained[0], chained[1:])
    assert found.tokens == pack_tokens(TOKENS[16:32])
    assert found.fault() is None
    for first, end in ((0, 15), (8, 32), (32, 32)):
        nothing = stretch(
            chained,
            root,
            TOKENS,
            block_tokens=16,
            from_token=first,
            to_token=end,
            salt=None,
            adapter=None,
        )
        assert nothing is None


def test_what_has_blocks_that_are_too_long_is_no_stretch() -> None:
    tokens = [7] * (MOST_BLOCK_TOKENS + 1)
    root = root_digest("w", adapter=None, salt=None)

    def of(size: int) -> PromptPrefix | None:
        names = chain(root, tokens, size)
        return stretch(
            names, root, tokens, block_tokens=size, from_token=0, to_token=len(tokens),
            salt=None, adapter=None,
        )  # fmt: skip

    whole = of(MOST_BLOCK_TOKENS)
    assert whole is not None
    assert whole.fault() is None
    assert of(MOST_BLOCK_TOKENS + 1) is None


SOUND = PromptPrefix(16, 0, bytes(16), (bytes(16),), pack_tokens(range(16)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"block_tokens": 0}, "whole blocks"),
        ({"from_token": 8}, "whole blocks"),
        ({"digests": ()}, "whole blocks"),
        ({"tokens": b"1234"}, "each of its tokens"),
        ({"parent": b"short"}, "16 bytes"),
        ({"digests": (b"short",)}, "16 bytes"),
        ({"block_tokens": 1 << 20}, "blocks of at most"),
        ({"digests": (bytes(16),) * ((1 << 19) // 16 + 1)}, "at most"),
        ({"digests": (bytes(16), bytes(16))}, "a name of its own"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, object], fault: str) -> None:
    assert SOUND.fault() is None
    assert fault in str(msgspec.structs.replace(SOUND, **change).fault())


@pytest.mark.parametrize(("size", "most"), [(1, 96 << 10), (4, 384 << 10), (8, 512 << 10)])
def test_the_longest_stretch_fits_a_frame_and_a_line_of_news(size: int, most: int) -> None:
    """Or the engine could not say it, or gateways knew nothing of what else its agent has."""
    fits = []
    for tokens in (most, most + size, 512 << 10):
        digests = [number.to_bytes(16, "big") for number in range(1, tokens // size + 1)]
        made = stretch(
            digests, bytes(16), range(tokens), block_tokens=size,
            from_token=0, to_token=tokens, salt=None, adapter=None,
        )  # fmt: skip
        if made is not None:
            assert made.fault() is None
            told = Prefix(size, 0, made.parent, made.digests, bytes(16 * len(digests)))
            news = Stored("x" * 64, 1023, 1, "f" * 128, told, tokens)
            assert len(msgspec.json.encode(news)) < agent_client._LONGEST_NEWS
            assert encode(DescribeTransfer("x" * 64, made))
            fits.append(tokens)
    assert set(fits) == {most}


def test_more_blocks_than_a_line_has_room_for_are_no_prefix() -> None:
    digests = tuple(number.to_bytes(16, "big") for number in range(1, (96 << 10) + 2))
    assert Prefix(1, 0, bytes(16), digests).fault() == "a cached prefix has at most 98304 blocks"
    assert Prefix(1, 0, bytes(16), digests[1:]).fault() is None


def test_keys_are_of_every_block_or_of_none() -> None:
    told = Prefix(16, 0, bytes(16), (bytes(16),))
    assert told.fault() is None
    assert msgspec.structs.replace(told, keys=bytes(16)).fault() is None
    assert "keys of blocks" in str(msgspec.structs.replace(told, keys=bytes(17)).fault())
    assert "16 bytes" in str(msgspec.structs.replace(told, parent=b"").fault())
