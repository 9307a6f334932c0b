"""Which blocks of a complete answer are kept, found in vLLM's own prefix cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.v1.core.block_pool import BlockPool  # noqa: E402
from vllm.v1.core.kv_cache_utils import BlockHash  # noqa: E402
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    SlidingWindowSpec,
)
from vllm.v1.request import RequestStatus  # noqa: E402

from prfaas.core.prefixes import chain, root_digest  # noqa: E402
from prfaas.core.prompt_digest import prompt_digest  # noqa: E402
from prfaas.vllm_plugin.answers import Answers  # noqa: E402
from prfaas.vllm_plugin.metadata import StepReport  # noqa: E402
from prfaas.vllm_plugin.prefix_names import PrefixNames  # noqa: E402

BLOCK = 16
COUNT = 64


def full() -> FullAttentionSpec:
    return FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.bfloat16)


def mamba() -> MambaSpec:
    return MambaSpec(block_size=BLOCK, shapes=((4,),), dtypes=(torch.float32,))


def window(tokens: int) -> SlidingWindowSpec:
    return SlidingWindowSpec(
        block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.bfloat16, sliding_window=tokens
    )


class Engine:
    """Its prefix cache, in which a request has left blocks."""

    def __init__(self, *specs: Any, ranks: int = 1, keeps: bool = True) -> None:
        specs = specs or (full(), mamba())
        groups = [KVCacheGroupSpec([f"layers.{n}"], spec) for n, spec in enumerate(specs)]
        config = KVCacheConfig(COUNT, kv_cache_tensors=[], kv_cache_groups=groups)
        self.answers = Answers(config, PrefixNames("w", BLOCK), ranks=ranks, keeps=keeps)
        self.pool = self.answers.pool = BlockPool(COUNT, enable_caching=True, hash_block_size=BLOCK)
        self.free = self.pool.get_num_free_blocks()

    def request(self, prompt: int, answer: int, *, status: Any = None, parting: int = 0) -> Any:
        tokens = prompt + answer
        return SimpleNamespace(
            request_id="r",
            num_tokens=tokens,
            num_prompt_tokens=prompt,
            all_token_ids=list(range(tokens)),
            block_hashes=[BlockHash(bytes([n]) * 32) for n in range(tokens // BLOCK)],
            mm_features=[],
            prompt_embeds=None,
            lora_request=None,
            cache_salt=None,
            shared_prefix_boundary=parting,
            status=status or RequestStatus.FINISHED_STOPPED,
        )

    def caches(self, request: Any, group: int, blocks: list[int]) -> list[int]:
        """vLLM has these blocks of the request in its prefix cache; returns their ids."""
        ids = []
        for block in blocks:
            (found,) = self.pool.get_new_blocks(1)
            before = [self.pool.null_block] * block
            self.pool.cache_full_blocks(request, [*before, found], block, block + 1, BLOCK, group)
            self.pool.free_blocks([found])
            ids.append(found.block_id)
        return ids


def test_prompt_and_answer_are_kept_up_to_the_last_block_with_a_state() -> None:
    engine = Engine()
    request = engine.request(40, 30)
    attention = engine.caches(request, 0, [0, 1, 2, 3])
    (state,) = engine.caches(request, 1, [2])  # none at the fourth block's end
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    assert (step.first_token, step.end_token, step.final, step.states_at) == (0, 48, True, (48,))
    assert step.tables == (attention[:3], [0, 0, state])
    assert step.params.readers == ()
    assert step.params.destination == ""
    ids = list(range(70))
    assert step.prompt_digest == prompt_digest(ids, to_token=48)
    assert step.prefix is not None
    root = root_digest("w", adapter=None, salt=None)
    assert step.prefix.digests == chain(root, ids[:48], BLOCK)
    # Until they are copied, nobody is given these blocks.
    assert engine.pool.get_num_free_blocks() == engine.free - 4
    assert engine.answers.pending
    engine.answers.copied({step.params.transfer_id: 1, "unknown": 1})
    assert engine.pool.get_num_free_blocks() == engine.free
    assert not engine.answers.pending


def test_what_the_agent_has_is_not_sent_again() -> None:
    engine = Engine(full())
    request = engine.request(40, 30)
    ids = engine.caches(request, 0, [0, 1, 2, 3])
    engine.answers.note("r", 39)
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    assert (step.first_token, step.end_token, step.states_at) == (32, 64, ())
    assert step.tables == ([0, 0, *ids[2:]],)
    assert step.prefix is not None
    assert step.prefix.from_token == 32


def test_states_are_kept_where_the_prompt_was_seen_to_part_from_another() -> None:
    """With one block of attention; those before it lie in the first part."""
    engine = Engine()
    request = engine.request(60, 10, parting=35)
    attention = engine.caches(request, 0, [0, 1, 2, 3])
    parting, last = engine.caches(request, 1, [1, 3])
    engine.answers.finished(request)
    whole, part = engine.answers.take_steps()
    assert (whole.first_token, whole.end_token, whole.states_at) == (0, 64, (64,))
    assert whole.tables == (attention, [0, 0, 0, last])
    assert (part.first_token, part.end_token, part.states_at) == (16, 32, (32,))
    assert part.tables == ([0, attention[1]], [0, parting])
    assert part.prefix is not None
    assert whole.prefix is not None
    assert (part.prefix.from_token, part.prefix.parent) == (16, whole.prefix.digests[0])
    assert part.prefix.digests == whole.prefix.digests[1:2]
    engine.answers.copied({s.params.transfer_id: 1 for s in (whole, part)})
    assert engine.pool.get_num_free_blocks() == engine.free


@pytest.mark.parametrize(
    ("why", "parting", "known"),
    [
        ("nobody was seen to part", 0, 0),
        ("there is no state any more", 48, 0),
        ("it is the end that is kept anyway", 64, 0),
        ("the agent has what is before it", 32, 32),
        ("it is less than a block", 15, 0),
    ],
)
def test_no_state_is_kept_in_between(why: str, parting: int, known: int) -> None:
    engine = Engine()
    request = engine.request(60, 10, parting=parting)
    engine.caches(request, 0, [0, 1, 2, 3])
    engine.caches(request, 1, [1, 3])
    engine.answers.note("r", known)
    engine.answers.finished(request)
    assert len(engine.answers.take_steps()) == 1, why


def test_full_attention_goes_on_anywhere() -> None:
    engine = Engine(full())
    request = engine.request(60, 10, parting=32)
    engine.caches(request, 0, [0, 1, 2, 3])
    engine.answers.finished(request)
    assert len(engine.answers.take_steps()) == 1


def test_what_the_agent_had_before_a_reset_is_sent_again() -> None:
    engine = Engine(full())
    request = engine.request(40, 30)
    engine.caches(request, 0, [0, 1, 2, 3])
    engine.answers.note("r", 39)
    engine.answers.forget_known()
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    assert (step.first_token, step.end_token) == (0, 64)


def test_of_a_sliding_window_what_is_seen_from_there_is_kept() -> None:
    engine = Engine(full(), window(20))
    request = engine.request(40, 30)
    engine.caches(request, 0, [0, 1, 2, 3])
    seen = engine.caches(request, 1, [2, 3])
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    assert step.tables[1] == [0, 0, *seen]


@pytest.mark.parametrize("why", ["evicted", "aborted", "short", "off", "export", "known", "image"])
def test_nothing_is_kept(why: str) -> None:
    engine = Engine(full(), keeps=why != "off")
    status = RequestStatus.FINISHED_ABORTED if why == "aborted" else None
    request = engine.request(10 if why == "short" else 40, 6, status=status)
    if why == "image":
        request.mm_features = ["an image"]
    engine.caches(request, 0, list(range((46 if why != "short" else 16) // BLOCK)))
    if why == "evicted":
        engine.pool.reset_prefix_cache()
    if why == "known":
        engine.answers.note("r", 47)
    engine.answers.finished(request, keep=why != "export")
    assert engine.answers.take_steps() == []
    assert engine.pool.get_num_free_blocks() == engine.free
    assert not engine.answers.pending


def test_one_is_kept_where_that_is_asked_for_it_alone() -> None:
    engine = Engine(full(), keeps=False)
    request = engine.request(40, 6)
    engine.caches(request, 0, [0, 1])
    engine.answers.note("r", 0, keep=True)
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    assert (step.first_token, step.end_token) == (0, 32)
    engine.answers.finished(request)
    assert engine.answers.take_steps() == []


def test_blocks_are_held_until_every_rank_has_copied() -> None:
    engine = Engine(full(), ranks=2)
    request = engine.request(40, 6)
    engine.caches(request, 0, [0, 1])
    engine.answers.finished(request)
    (step,) = engine.answers.take_steps()
    name = step.params.transfer_id
    engine.answers.copied({name: 1})
    assert engine.answers.pending
    both = StepReport({}, {name: 1}).aggregate(StepReport({"x": "why"}, {"other": 2}))
    assert both == StepReport({"x": "why"}, {name: 1, "other": 2})
    engine.answers.copied(both.answers)
    assert engine.pool.get_num_free_blocks() == engine.free
