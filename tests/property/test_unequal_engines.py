"""Engines that divide a model among p and d ranks exchange it exactly, whatever the layer.

A model's cache is made of random bytes and divided among an engine's ranks as vLLM does it, written
here again and on its own. What the sender's ranks export, the receiver's ranks import; each of them
must then hold what its share of the model is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.model_executor.layers.mamba import mamba_utils  # noqa: E402
from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator  # noqa: E402
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum  # noqa: E402
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

from prfaas.core.errors import LayoutMismatch  # noqa: E402
from prfaas.core.handoff import ExportParams  # noqa: E402
from prfaas.core.layout import PAIRING_DIGITS, KvLayout  # noqa: E402
from prfaas.testing.loopback_agent_client import LoopbackAgentClient  # noqa: E402
from prfaas.testing.mock_engine_rank import MOCK_DIGEST  # noqa: E402
from prfaas.vllm_plugin import geometry, interior  # noqa: E402
from prfaas.vllm_plugin.export import Exporter  # noqa: E402
from prfaas.vllm_plugin.load import Importer  # noqa: E402
from prfaas.vllm_plugin.metadata import ExportStep, ImportStart  # noqa: E402
from prfaas.vllm_plugin.pages import CpuCopier, page_view  # noqa: E402

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
SIZES = (1, 2, 4, 8)
TOKENS = 64
WINDOW = 20
TAPS = 3


@dataclass(frozen=True)
class Shape:
    """How an engine holds its cache. ``order``: of heads and tokens in a page (CPUs pack a block's
    tokens). ``kernel``: tokens of a kernel block."""

    tp: int
    block: int = 16
    kernel: int = 16
    order: str = "HND"
    conv: str = "SD"


@contextmanager
def conv_layout(name: str) -> Iterator[None]:
    patched = pytest.MonkeyPatch()
    for module in (mamba_utils, interior):
        patched.setattr(module, "get_conv_state_layout", lambda: name)
    yield
    patched.undo()


def random_bytes(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


class Attention:
    """``heads`` KV heads of 4 bf16 keys and as many values; of latents one head."""

    def __init__(self, heads: int, *, latent: bool = False, window: int | None = None) -> None:
        self.heads, self.latent, self.window = heads, latent, window
        self.kind = "sliding_window" if window else "full_attention"
        self.content = 16
        self.full = random_bytes(TOKENS, heads, self.content, seed=heads)

    def spec(self, shape: Shape) -> Any:
        common = {"block_size": shape.block, "dtype": torch.bfloat16}
        if self.latent:
            return MLAAttentionSpec(num_kv_heads=1, head_size=8, max_tp_shards=1, **common)
        common |= {"num_kv_heads": max(1, self.heads // shape.tp), "head_size": 4}
        if self.window:
            return SlidingWindowSpec(sliding_window=self.window, **common)
        return FullAttentionSpec(**common)

    def module(self, shape: Shape) -> Any:
        if shape.order == "packed":
            return SimpleNamespace(isa="vec")
        name = "FLASHMLA" if self.latent else "FLASHINFER" if shape.order == "HND" else "FLASH_ATTN"
        backend = SimpleNamespace(get_name=lambda: name)
        return SimpleNamespace(get_attn_backend=lambda: backend)

    def cache(self, shape: Shape, blocks: int, seed: int) -> torch.Tensor:
        heads = 1 if self.latent else max(1, self.heads // shape.tp)
        rows, n = shape.block // shape.kernel, shape.kernel
        if shape.order == "NHD":
            raw = random_bytes(blocks * rows, n, heads, self.content, seed=seed).transpose(1, 2)
        else:
            raw = random_bytes(blocks * rows, heads, n, self.content, seed=seed)
        return raw.view(torch.bfloat16)

    def fill(
        self, shape: Shape, rank: int, cache: torch.Tensor, table: list[int], since: int, to: int
    ) -> None:
        """Tokens [since, to) of the prompt; where ``table`` has a block."""
        raw = cache.view(torch.uint8)
        rows = shape.block // shape.kernel
        for block in range(since // shape.block, -(-to // shape.block)):
            if table[block] == 0:
                continue
            for head in range(raw.shape[1]):
                source = self.full[:, self._head(shape, rank, head)]
                for row in range(rows):
                    start = block * shape.block + row * shape.kernel
                    tokens = source[start : start + shape.kernel]
                    if shape.order == "packed":  # in whatever order, the same on all engines
                        tokens = tokens.flip(0).T.reshape(tokens.shape)
                    raw[table[block] * rows + row, head] = tokens

    def _head(self, shape: Shape, rank: int, head: int) -> int:
        if self.latent:
            return 0
        if self.heads >= shape.tp:
            return rank * (self.heads // shape.tp) + head
        return rank // (shape.tp // self.heads)


class State:
    """A recurrent layer; ``parts`` are the channels of its convolution, over the whole model."""

    kind = "recurrent"
    window = None

    def __init__(self, name: str, groups: int = 8) -> None:
        self.name, self.groups = name, groups
        group_parts = (16, groups * 2, groups * 2)
        self.parts = {
            "gdn": (8, 8, 16),
            "mamba2": group_parts,
            "mamba1": (16,),
            "short": (16,),
        }.get(name, ())
        self.conv = [random_bytes(TAPS, n, 2, seed=n + i) for i, n in enumerate(self.parts)]
        cells = {"gdn": (8, 2 * 2), "mamba2": (8, 2 * 2), "mamba1": (16, 4), "linear": (8, 2 * 2)}
        self.state = random_bytes(*cells[name], 4, seed=7) if name in cells else None

    def shapes(self, tp: int) -> tuple[tuple[int, ...], ...]:
        of = MambaStateShapeCalculator
        match self.name:
            case "gdn":
                conv, _ = of.gated_delta_net_state_shape(tp, 8, 8, 1, 2, TAPS + 1)
                return conv, (8 // tp, 2, 2)
            case "mamba2":
                return of.mamba2_state_shape(tp, 16, self.groups, 8, 2, 2, TAPS + 1)
            case "mamba1":
                return of.mamba1_state_shape(tp, 16, 4, TAPS + 1)
            case "short":
                return of.short_conv_state_shape(tp, 16, TAPS + 1)
            case _:
                return of.linear_attention_state_shape(8, tp, 2)

    def spec(self, shape: Shape) -> MambaSpec:
        kinds = MambaAttentionBackendEnum
        kind = {
            "gdn": kinds.GDN_ATTN,
            "mamba2": kinds.MAMBA2,
            "mamba1": kinds.MAMBA1,
            "short": kinds.SHORT_CONV,
            "linear": kinds.LINEAR,
        }[self.name]
        with conv_layout(shape.conv):
            shapes = self.shapes(shape.tp)
        dtypes = (torch.bfloat16, torch.float32)
        if len(shapes) == 1:
            dtypes = (torch.float32,) if self.name == "linear" else (torch.bfloat16,)
        return MambaSpec(block_size=shape.block, shapes=shapes, dtypes=dtypes, mamba_type=kind)

    def module(self, shape: Shape) -> Any:
        return SimpleNamespace(norm=SimpleNamespace(n_groups=self.groups))

    def cache(self, shape: Shape, blocks: int, seed: int) -> torch.Tensor:
        size = self.spec(shape).page_size_bytes
        return random_bytes(blocks, 1, 1, size, seed=seed).view(torch.int8)

    def fill(
        self, shape: Shape, rank: int, cache: torch.Tensor, table: list[int], since: int, to: int
    ) -> None:
        """The state at ``to``."""
        shards = []
        for number, part in enumerate(self.conv):
            if self.name == "mamba2" and number and self.groups == 1:
                shards.append(part)  # one group, on every rank
            else:
                shards.append(part.chunk(shape.tp, dim=1)[rank])
        held = b""
        if shards:
            convolution = torch.cat(shards, dim=1)
            if shape.conv == "DS":
                convolution = convolution.transpose(0, 1)
            held += convolution.contiguous().numpy().tobytes()
        if self.state is not None:
            held += self.state.chunk(shape.tp, dim=0)[rank].contiguous().numpy().tobytes()
        page = cache[table[to // shape.block - 1]].view(torch.uint8).flatten()
        assert len(held) == len(page)
        page.copy_(torch.frombuffer(bytearray(held), dtype=torch.uint8))


MODELS: dict[str, list[Any]] = {
    "GQA": [Attention(8), Attention(8)],
    "fewer KV heads than ranks": [Attention(2), Attention(2), Attention(2)],
    "MQA": [Attention(1)],
    "MLA": [Attention(1, latent=True)] * 5,
    "sliding window": [Attention(2), Attention(2, window=WINDOW)],
    "GDN": [State("gdn"), Attention(2)],
    "KDA with MLA": [State("gdn"), State("gdn"), Attention(1, latent=True)] * 2,
    "Mamba-2, a group a rank": [State("mamba2"), Attention(2)],
    "Mamba-2, one group": [State("mamba2", groups=1)] * 2 + [Attention(2)],
    "Mamba-1": [State("mamba1")],
    "short convolution": [State("short"), Attention(2)],
    "lightning attention": [State("linear"), Attention(8)],
}


@dataclass
class Rank:
    layout: KvLayout
    caches: dict[str, torch.Tensor]
    pages: dict[str, torch.Tensor]


@dataclass
class Engine:
    """All ranks of one. Block ``b`` of the prompt lies in block ``table[b]``."""

    layers: list[Any]
    shape: Shape
    seed: int
    ranks: list[Rank] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = TOKENS // self.shape.block
        self.blocks = count + 3
        self.table = [count - b for b in range(count)]
        self.names = [f"model.layers.{i}.mixer" for i in range(len(self.layers))]
        for rank in range(self.shape.tp):
            self.ranks.append(self._rank(rank))

    def _rank(self, rank: int) -> Rank:
        shape = self.shape
        named = dict(zip(self.names, self.layers, strict=True))
        heads = [x.heads for x in self.layers if isinstance(x, Attention)] or [1]
        named_heads = {f"num_key_value_heads_{n}": n for n in heads}
        config: Any = SimpleNamespace(
            model_config=SimpleNamespace(
                hf_config=SimpleNamespace(to_dict=dict),
                dtype=torch.bfloat16,
                quantization=None,
                architectures=["Tiny"],
                hf_text_config=SimpleNamespace(to_dict=lambda: named_heads),
                get_total_num_kv_heads=lambda: heads[0],
            ),
            cache_config=SimpleNamespace(cache_dtype="auto"),
            parallel_config=SimpleNamespace(tensor_parallel_size=shape.tp),
            compilation_config=SimpleNamespace(
                static_forward_context={n: layer.module(shape) for n, layer in named.items()}
            ),
        )
        caches = {
            name: layer.cache(shape, self.blocks, self.seed + 100 * rank + i).to(DEVICE)
            for i, (name, layer) in enumerate(named.items())
        }
        groups = [KVCacheGroupSpec([name], layer.spec(shape)) for name, layer in named.items()]
        kv_cache = KVCacheConfig(self.blocks, [], groups)
        pages = {name: page_view(name, cache, self.blocks) for name, cache in caches.items()}
        with conv_layout(shape.conv):
            layout = geometry.read_layout(config, kv_cache, pages, caches, tp_rank=rank)
        return Rank(layout, caches, pages)

    def fill(self, since: int, to: int, table_of: Any) -> None:
        for number, rank in enumerate(self.ranks):
            for name, layer in zip(self.names, self.layers, strict=True):
                layer.fill(self.shape, number, rank.caches[name], table_of(layer), since, to)

    def windowed(self, to: int) -> Any:
        """Tables as vLLM has them: null before a sliding window."""
        first = max(0, to - WINDOW + 1) // self.shape.block
        hidden = [0] * first + self.table[first:]
        return lambda layer: hidden if layer.window else self.table


@cache
def copier() -> Any:
    """One for all: a GPU's has threads and streams."""
    if DEVICE.type == "cpu":
        return CpuCopier()
    from prfaas.vllm_plugin.cuda_copies import CudaCopier

    return CudaCopier(DEVICE)


_LOOK_S = 0.0002
"""Between looks: without it the threads that copy wait for this one's interpreter lock."""


def hand_over(
    sender: Engine,
    receiver: Engine,
    *,
    from_token: int,
    local: int,
    to: int,
    slot_bytes: int = 96,
    kept: int | None = None,
) -> int:
    """Returns the bytes that crossed the line. ``kept``: the block for other prompts' states."""
    client = LoopbackAgentClient(slot_bytes=slot_bytes, slots=4000)
    clients = [client] + [client.beside(rank) for rank in range(1, sender.shape.tp)]
    params = ExportParams(
        transfer_id="t", destination="west", readers=("w",), from_token=from_token, to_token=to
    )
    tables = tuple(sender.windowed(to)(layer) for layer in sender.layers)
    states_at = (to,)
    if to % sender.shape.block and to > sender.shape.block:
        states_at = (to // sender.shape.block * sender.shape.block, to)
    middle = (from_token + to) // 2
    for rank, its in zip(sender.ranks, clients, strict=True):
        exporter = Exporter(its, rank.layout, rank.pages, copier())
        for first, end in ((from_token, middle), (middle, to)):
            final = end == to
            standing = states_at if final else ()
            step = ExportStep("r", params, MOCK_DIGEST, first, end, final, tables, standing)
            for name in sender.names:
                exporter.layer_computed(step, name)
            exporter.step_ended([step])
        assert not exporter.take_failures()
    layout = sender.ranks[0].layout
    source = None if layout.is_held_as(receiver.ranks[0].layout) else layout.packed()
    until = time.monotonic() + 30
    while {r for r, c in enumerate(clients) if c.finished} != set(layout.sending_ranks()):
        assert time.monotonic() < until, "an export did not end"
        time.sleep(_LOOK_S)
    tables = tuple(receiver.windowed(to)(layer) for layer in receiver.layers)
    for rank in receiver.ranks:
        importer = Importer(client, rank.layout, rank.pages, copier())
        kept_in = {} if kept is None else dict.fromkeys(range(len(receiver.layers)), kept)
        start = ImportStart("r", "t", MOCK_DIGEST, from_token, to, local, tables, kept_in, source)
        importer.start(start)
        until = time.monotonic() + 30
        while not (results := importer.take_results(set())).finished:
            assert time.monotonic() < until, "the load was never reported"
            time.sleep(_LOOK_S)
        importer.close()
        assert not results.failed
    return sum(c.totals.get("t", 0) for c in clients)


def check(layers: list[Any], p: Shape, d: Shape, **span: int) -> int:
    sender, receiver = Engine(layers, p, 1), Engine(layers, d, 5000)
    to, local = span["to"], span["local"]
    sender.fill(0, to, sender.windowed(to))
    wanted = Engine(layers, d, 5000)
    wanted.fill(local, to, wanted.windowed(to))
    crossed = hand_over(sender, receiver, **span)
    for number, (got, expected) in enumerate(zip(receiver.ranks, wanted.ranks, strict=True)):
        for name, layer in zip(receiver.names, layers, strict=True):
            ours, theirs = (x.caches[name].view(torch.uint8).clone() for x in (got, expected))
            if layer.kind != "recurrent":
                unseen(receiver, layer, ours, to)
                unseen(receiver, layer, theirs, to)
            assert torch.equal(ours, theirs), (name, number)
    return crossed


def unseen(engine: Engine, layer: Any, raw: torch.Tensor, to: int) -> None:
    """Zero the tokens that no later token sees: those of a window's first block before the window,
    which another engine, whose block begins later, has not sent; and those behind the end."""
    shape = engine.shape
    if shape.order == "packed":
        return
    rows = shape.block // shape.kernel
    first = max(0, to - layer.window + 1) if layer.window else 0
    before = range(first // shape.block * shape.block, first)
    for token in (*before, *range(to, -(-to // shape.block) * shape.block)):
        block, inside = divmod(token, shape.block)
        row, place = divmod(inside, shape.kernel)
        raw[engine.table[block] * rows + row, :, place] = 0


@pytest.mark.parametrize("model", MODELS)
def test_every_pair_of_sizes_exchanges_every_layer_exactly(model: str) -> None:
    layers = MODELS[model]
    crossed = {
        check(layers, Shape(p), Shape(d), from_token=16, local=16, to=TOKENS)
        for p in SIZES
        for d in SIZES
    }
    # Whatever the ranks hold in common crosses once: the model's own bytes, on any line.
    (once,) = crossed
    (whole,) = Engine(layers, Shape(1), 1).ranks
    assert once == whole.layout.handoff_bytes(16, TOKENS)


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(sorted(MODELS)),
    tp=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    blocks=st.tuples(st.sampled_from([8, 16, 32]), st.sampled_from([8, 16, 32])),
    kernels=st.tuples(st.sampled_from([4, 8, 32]), st.sampled_from([4, 8, 32])),
    orders=st.tuples(st.sampled_from(["HND", "NHD"]), st.sampled_from(["HND", "NHD"])),
    convs=st.tuples(st.sampled_from(["SD", "DS"]), st.sampled_from(["SD", "DS"])),
    skipped=st.integers(0, 3),
    more_local=st.integers(0, 1),
    end=st.integers(1, 2),
    slot_bytes=st.sampled_from([32, 96, 1000]),
)
def test_blocks_kernel_blocks_and_orders_may_differ(
    model: str,
    tp: tuple[int, int],
    blocks: tuple[int, int],
    kernels: tuple[int, int],
    orders: tuple[str, str],
    convs: tuple[str, str],
    skipped: int,
    more_local: int,
    end: int,
    slot_bytes: int,
) -> None:
    p, d = (
        Shape(t, b, min(b, k), o, c)
        for t, b, k, o, c in zip(tp, blocks, kernels, orders, convs, strict=True)
    )
    to = end * 32
    from_token = min(skipped * d.block, to - d.block)
    local = min(from_token + more_local * d.block, to - d.block)
    check(MODELS[model], p, d, from_token=from_token, local=local, to=to, slot_bytes=slot_bytes)


@settings(max_examples=30, deadline=None)
@given(
    model=st.sampled_from(["GQA", "fewer KV heads than ranks", "MLA", "sliding window"]),
    tp=st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)),
    kernels=st.tuples(st.sampled_from([4, 16]), st.sampled_from([4, 16])),
    orders=st.tuples(st.sampled_from(["HND", "NHD"]), st.sampled_from(["HND", "NHD"])),
    to=st.integers(1, TOKENS),
)
def test_a_hand_off_that_ends_inside_a_block_is_exact_up_to_its_end(
    model: str, tp: tuple[int, int], kernels: tuple[int, int], orders: tuple[str, str], to: int
) -> None:
    p, d = (Shape(t, 16, k, o) for t, k, o in zip(tp, kernels, orders, strict=True))
    check(MODELS[model], p, d, from_token=0, local=0, to=to)


@pytest.mark.parametrize("model", ["GDN", "Mamba-2, one group", "KDA with MLA"])
@pytest.mark.parametrize(("p", "d"), [(1, 2), (2, 1), (4, 2), (2, 2)])
def test_states_inside_a_block_and_at_the_last_blocks_end_arrive(
    model: str, p: int, d: int
) -> None:
    """The request's own, and the one that is kept for other prompts."""
    layers = [layer for layer in MODELS[model] if layer.kind == "recurrent"]
    sender, receiver, wanted = (Engine(layers, Shape(tp), s) for tp, s in ((p, 1), (d, 9), (d, 9)))
    kept = receiver.blocks - 1
    for engine, at in ((sender, sender.table[2]), (wanted, kept)):
        for number, rank in enumerate(engine.ranks):
            for name, layer in zip(engine.names, layers, strict=True):
                cache = rank.caches[name]
                layer.fill(engine.shape, number, cache, [0] * 2 + [at], 0, 48)
                layer.fill(engine.shape, number, cache, [0] * 3 + [engine.table[3]], 0, 64)
    hand_over(sender, receiver, from_token=0, local=0, to=57, kept=kept)
    for got, expected in zip(receiver.ranks, wanted.ranks, strict=True):
        for name in receiver.names:
            assert torch.equal(got.caches[name], expected.caches[name]), name


@pytest.mark.parametrize("model", ["GQA", "fewer KV heads than ranks", "sliding window", "GDN"])
def test_packed_pages_are_divided_by_heads(model: str) -> None:
    """As vLLM's CPU attention has them: nothing is known of a block's tokens."""
    for p, d in ((1, 2), (2, 1), (2, 2), (4, 2), (1, 8)):
        shapes = (Shape(tp, order="packed") for tp in (p, d))
        check(MODELS[model], *shapes, from_token=0, local=0, to=TOKENS)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (Shape(2, block=32, kernel=32, order="packed"), "bytes of a head or channel differs"),
        (Shape(2, order="HND"), "interior differs: 'vec' and 'key, value'"),
    ],
)
def test_packed_pages_pair_only_with_pages_packed_alike(changed: Shape, named: str) -> None:
    layers = MODELS["GQA"]
    ours, theirs = (
        Engine(layers, s, 1).ranks[0].layout for s in (Shape(1, order="packed"), changed)
    )
    assert ours.fingerprint()[:PAIRING_DIGITS] != theirs.fingerprint()[:PAIRING_DIGITS]
    with pytest.raises(LayoutMismatch, match=named):
        ours.check_pairs_with(theirs)


def test_another_number_of_heads_or_another_dtype_is_named() -> None:
    ours = Engine([Attention(8)], Shape(2), 1).ranks[0].layout
    for other, named in (
        (Engine([Attention(4)], Shape(2), 1).ranks[0].layout, "heads or channels differs"),
        (Engine([Attention(8, window=WINDOW)], Shape(2), 1).ranks[0].layout, "kind differs"),
        (msgspec.structs.replace(ours, model="Other:1"), "model differs"),
    ):
        with pytest.raises(LayoutMismatch, match=named):
            ours.check_pairs_with(other)


def test_where_layers_differ_in_heads_a_doubt_is_no_guess() -> None:
    """A rank with one head may share it: where layers differ, nothing tells. Taken for shared,
    heads of which each rank has its own would not be sent, not even to an equal engine."""
    layers = [Attention(2), Attention(8)]
    few, many = (Engine(layers, Shape(tp), 1).ranks[0].layout for tp in (2, 8))
    with pytest.raises(LayoutMismatch, match="differs"):
        few.check_pairs_with(many)
    check(layers, Shape(8), Shape(8), from_token=0, local=0, to=TOKENS)
