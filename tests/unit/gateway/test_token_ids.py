"""Token ids that stay text until somebody asks for numbers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.gateway import token_ids
from prfaas.gateway.json_fields import MOST_PROMPTS
from prfaas.gateway.token_ids import TokenIds, take_out
from prfaas.index.keys import BlockHasher, KnownTokens, PromptKeys

MANY = b"[" + b"1," * 1000
"""The beginning of a list that is long."""
IDS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


@pytest.fixture(scope="module", autouse=True, params=["in arrays", "compiled"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything here holds for both ways to make numbers."""
    with pytest.MonkeyPatch.context() as patch:
        numbers = None
        if request.param == "compiled":
            numbers = compiled(tmp_path_factory.mktemp("compiled") / "token_text.so")
        patch.setattr(token_ids, "_numbers", numbers)
        yield


def compiled(target: Path) -> object:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is there")
    headers = sysconfig.get_paths()["include"]
    source = Path(token_ids.__file__).with_name("token_text.c")
    how = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *how, f"-I{headers}", str(source), "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location("token_text", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.numbers


@given(IDS, st.sampled_from([(",", ":"), (", ", ": ")]), st.integers(0, 70))
def test_they_are_the_ids_of_the_text(ids: list[int], separators: object, count: int) -> None:
    text = json.dumps(ids, separators=separators).encode()  # type: ignore[arg-type]
    found = TokenIds(text)
    assert len(found) == len(ids)
    assert found.first(count).tolist() == ids[:count]
    assert found.first(1000).tolist() == ids
    assert json.loads(bytes(found.json())) == ids
    assert json.loads(msgspec.json.encode({"a": found.json(count)})) == {"a": ids[:count]}
    assert KnownTokens(ids).first(count).tolist() == ids[:count]


@given(IDS, st.integers(1, 5))
def test_keys_are_those_of_the_numbers(ids: list[int], block: int) -> None:
    hasher, text = BlockHasher(b"seed"), TokenIds(json.dumps(ids).encode())
    for ours, theirs in zip(
        PromptKeys(text).chunks(hasher, block), PromptKeys(ids).chunks(hasher, block), strict=True
    ):
        assert ours.low.tolist() == theirs.low.tolist()


@pytest.mark.parametrize(
    "text",
    ["[1.5]", '["1"]', "[[1]]", "[-1]", "{}", "null", "1", "[1e3]", "", "[", "]", "[1,]", "[,1]",
     "[1,,2]", "[1, ,2]", "[1 2]", "[1 , 2 3]", "[ ,]", "[1]]", "[01]", "[1, 007]", "[00]",
     "[1, , 2]"],
)  # fmt: skip
def test_what_is_no_list_of_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        TokenIds(text.encode())
    with pytest.raises(ValueError):  # noqa: PT011
        TokenIds(MANY + text[1:].encode() if text.startswith("[") else MANY + text.encode())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_long_lists_are_read_as_short_ones(separators: tuple[str, str]) -> None:
    ids = [number * 65_537 for number in range(2000)]
    found = TokenIds(json.dumps(ids, separators=separators).encode())
    assert len(found) == len(ids)
    assert found.first(3000).tolist() == ids
    assert json.loads(bytes(found.json(1999))) == ids[:1999]


@pytest.mark.parametrize("text", ["[ 1,\n2 ]", "[1 ,2]", "[\t]", "[1,  2]", "[1, 2,3]"])
def test_spaces_may_be_where_json_has_them(text: str) -> None:
    found = TokenIds(text.encode())
    assert found.first(9).tolist() == json.loads(text)
    assert json.loads(bytes(found.json())) == json.loads(text)


@given(st.lists(IDS, max_size=3), st.booleans(), st.text(max_size=5))
def test_lists_are_taken_out_of_what_a_renderer_answers(
    lists: list[list[int]], spaced: bool, text: str
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    said = text + '"token_ids": [7]'
    prompts = [{"a": said, "token_ids": ids, "b": [1], said: 2} for ids in lists]
    rest, found = take_out(json.dumps(prompts, separators=separators).encode())
    assert [json.loads(one) for one in found] == lists
    for number, prompt in enumerate(json.loads(rest)):
        assert prompt == {"a": said, "token_ids": [-1 - number], "b": [1], said: 2}
    assert take_out(b'{"token_ids": [1, 2') == (b'{"token_ids": [1, 2', [])


@pytest.mark.parametrize("number", [2**32, 2**63, 10**40])
def test_a_number_too_large_is_told_when_it_is_looked_at(number: int) -> None:
    found = TokenIds(b"[1, %d]" % number)
    assert found.first(1).tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OverflowError):
            found.first(2)


def test_long_lists_are_read_as_far_as_somebody_asks() -> None:
    ids = [number * 7919 % 10 ** (number % 9 + 1) for number in range(60_000)]
    ids[40_000] = 4_000_000_000  # More digits than a word has.
    found = TokenIds(msgspec.json.encode(ids))
    assert len(found) == len(ids)
    for count in (1, 1000, 30_000, 30_001, 60_000):
        assert found.first(count).tolist() == ids[:count]
        assert json.loads(bytes(found.json(count))) == ids[:count]


@pytest.mark.parametrize("place", [65_533, 65_534, 65_535, 65_536, 65_537, 65_538])
@pytest.mark.parametrize("wrong", [b",,", b"x,", b",07", b"- "])
def test_what_is_wrong_is_seen_wherever_it_is(place: int, wrong: bytes) -> None:
    text = b"[" + b"1," * 50_000 + b"1]"
    place -= place % 2 == 0  # After a number.
    with pytest.raises(ValueError):  # noqa: PT011
        TokenIds(text[: place + 1] + wrong + text[place + 1 :])


def test_more_lists_than_a_request_has_prompts_are_not_taken_out() -> None:
    one = b'{"token_ids":[1]},'
    assert len(take_out(one * MOST_PROMPTS)[1]) == MOST_PROMPTS
    with pytest.raises(ValueError, match="more than 16384 prompts"):
        take_out(one * (MOST_PROMPTS + 1))
