"""What the demo's last line claims follows from the answers."""

import io

import msgspec
from rich.console import Console

from prfaas.demo.client import Answer
from prfaas.demo.report import bought, parts_at
from prfaas.demo.run import _judge


def _answer(route: str, uncached: int, kv_bytes: int | None, hidden: float | None) -> Answer:
    return Answer(
        text="x", token_ids=(1,), ttft_s=1.0, tokens_per_s=10.0, route=route,
        total_tokens=uncached, uncached_tokens=uncached, kv_bytes=kv_bytes, kv_hidden=hidden,
    )  # fmt: skip


def test_only_what_was_offloaded_counts() -> None:
    answers = {
        "a": _answer("offload", 6000, 6 * 2**20, 0.9),
        "b": _answer("offload", 2000, 2 * 2**20, 0.5),
        "c": _answer("pd-p", 1500, 2**20, 1.0),
        "d": _answer("direct", 500, None, None),
    }
    said = bought(answers)
    assert "8,000 of 10,000 uncached prompt tokens (80%)" in said
    assert "8.0 MiB of KV cache over the line, 80% of it sent while" in said


def test_nothing_offloaded_is_said_too() -> None:
    assert "0 of 500 uncached prompt tokens (0%)" in bought(
        {"a": _answer("direct", 500, None, None)}
    )


def test_a_text_may_part_only_where_the_plain_engine_nearly_ties() -> None:
    ours = msgspec.structs.replace(_answer("direct", 9, None, None), token_ids=(1, 2))
    plain = msgspec.structs.replace(ours, token_ids=(1, 3))
    assert parts_at(ours, plain) == 1
    assert parts_at(ours, ours) is None
    for lead, status, says in ((0.06, 0, "1 part where"), (0.4, 1, "identical: 0/1\n")):
        console = Console(file=io.StringIO(), width=200)
        assert _judge({"q": ours}, {"q": plain}, {"q": lead}, console) == status
        assert says in console.file.getvalue()  # type: ignore[attr-defined]
    shorter = msgspec.structs.replace(ours, token_ids=(1,))
    assert parts_at(ours, shorter) is None
    assert _judge({"q": ours}, {"q": shorter}, {}, Console(quiet=True)) == 1
