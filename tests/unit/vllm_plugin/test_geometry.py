"""What a layout says of an engine's pages, and so which engines pair."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MambaSpec,
    SlidingWindowSpec,
)

from prfaas.core.errors import LayoutMismatch  # noqa: E402
from prfaas.core.layout import PAIRING_DIGITS, KvLayout  # noqa: E402
from prfaas.vllm_plugin import geometry, interior  # noqa: E402
from prfaas.vllm_plugin.pages import page_view  # noqa: E402

BLOCK, BLOCKS, NAME = 32, 4, "model.layers.3.attn"


def layout(
    spec: Any,
    cache: torch.Tensor,
    *,
    isa: str | None = None,
    kv_dtype: str = "auto",
    dtype: torch.dtype = torch.bfloat16,
    quantization: str | None = None,
    **facts: Any,
) -> KvLayout:
    """Of an engine with one layer. ``facts``: of the model's configuration."""
    model = SimpleNamespace(
        hf_config=SimpleNamespace(to_dict=lambda: dict(facts)),
        dtype=dtype,
        quantization=quantization,
        architectures=["Tiny"],
        hf_text_config=SimpleNamespace(to_dict=dict),
        get_total_num_kv_heads=lambda: 2,
    )
    module = SimpleNamespace() if isa is None else SimpleNamespace(isa=isa)
    config: Any = SimpleNamespace(
        model_config=model,
        cache_config=SimpleNamespace(cache_dtype=kv_dtype),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        compilation_config=SimpleNamespace(static_forward_context={NAME: module}),
    )
    group = KVCacheGroupSpec([NAME], spec)
    kv_cache = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=[group])
    pages = {NAME: page_view(NAME, cache, BLOCKS)}
    return geometry.read_layout(config, kv_cache, pages, {NAME: cache}, tp_rank=0)


def states(
    *dtypes: torch.dtype, shapes: tuple[tuple[int, ...], ...] = ((3, 4), (2, 8))
) -> KvLayout:
    """vLLM registers a recurrent layer's pages as plain bytes."""
    spec = MambaSpec(block_size=BLOCK, shapes=shapes, dtypes=dtypes)
    return layout(spec, torch.zeros(BLOCKS, 1, 1, spec.page_size_bytes, dtype=torch.int8))


def attention(
    isa: str | None = None, *, held: torch.dtype = torch.bfloat16, **more: Any
) -> KvLayout:
    """``held``: the dtype of what vLLM registers."""
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=8, dtype=held)
    return layout(spec, torch.zeros(BLOCKS, 2, BLOCK, 16, dtype=held), isa=isa, **more)


def differ(ours: KvLayout, theirs: KvLayout, named: str) -> None:
    assert ours.fingerprint() != theirs.fingerprint()
    with pytest.raises(LayoutMismatch, match=f"layer {NAME}: interior differs: .*{named}"):
        ours.check_pairs_with(theirs)


def test_equal_engines_pair() -> None:
    for make in (lambda: states(torch.bfloat16, torch.float32), lambda: attention("amx")):
        assert make().fingerprint() == make().fingerprint()
        make().check_pairs_with(make())


@pytest.mark.parametrize(
    "other",
    [
        {"kv_dtype": "fp8_e5m2"},
        {"kv_dtype": "int8_per_token_head"},
        {"dtype": torch.float16},
        {"quantization": "fp8"},
        {"rope_scaling": {"factor": 2.0}},
    ],
)
def test_pages_of_another_dtype_or_configuration_are_not_exchanged(other: dict[str, Any]) -> None:
    """Also where they are of one size: what is cached is found under the whole fingerprint."""
    ours, theirs = attention(), attention(**other)
    assert ours.fingerprint() != theirs.fingerprint()
    assert ours.fingerprint()[:PAIRING_DIGITS] != theirs.fingerprint()[:PAIRING_DIGITS]
    with pytest.raises(LayoutMismatch, match="model differs"):
        ours.check_pairs_with(theirs)


def test_recurrent_states_of_other_types_or_shapes_do_not_pair() -> None:
    ours = states(torch.bfloat16, torch.bfloat16)
    differ(ours, states(torch.bfloat16, torch.float16), r"float16\[2, 8\]")
    differ(ours, states(torch.bfloat16, torch.bfloat16, shapes=((4, 3), (2, 8))), r"\[4, 3\]")


def test_another_order_of_convolution_states_does_not_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = states(torch.bfloat16, torch.float32)
    monkeypatch.setattr(interior, "get_conv_state_layout", lambda: "DS")
    differ(ours, states(torch.bfloat16, torch.float32), "convolutions DS")


def test_pages_packed_for_another_instruction_set_do_not_pair() -> None:
    differ(attention("amx"), attention("vec"), "'amx' and 'vec'")
    assert attention().groups[0].layers[0].interior == ""


def test_another_kv_dtype_is_named_by_layer_or_option() -> None:
    """Two formats of eight bits are bytes to torch."""
    ours, fp8 = attention(), attention(kv_dtype="fp8", held=torch.uint8)
    with pytest.raises(LayoutMismatch, match=f"{NAME}: dtype differs: 'bfloat16' and 'uint8'"):
        ours.check_pairs_with(fp8)
    with pytest.raises(LayoutMismatch, match=r"model differs: .*--kv-cache-dtype"):
        attention(kv_dtype="fp8_e5m2", held=torch.uint8).check_pairs_with(fp8)


@pytest.mark.parametrize(
    ("one", "other", "held"),
    [("auto", "bfloat16", torch.bfloat16), ("fp8", "fp8_e4m3", torch.uint8)],
)
def test_two_names_of_one_kv_dtype_pair(one: str, other: str, held: torch.dtype) -> None:
    """One engine may be told by name what the other takes anyway."""
    layouts = [attention(kv_dtype=name, held=held) for name in (one, other)]
    assert layouts[0].fingerprint() == layouts[1].fingerprint()
    layouts[0].check_pairs_with(layouts[1])


def test_a_window_is_as_long_as_vllm_keeps_it() -> None:
    spec = SlidingWindowSpec(
        block_size=BLOCK,
        num_kv_heads=1,
        head_size=8,
        dtype=torch.bfloat16,
        sliding_window=64,
        extra_retained_tokens=2,
    )
    (group,) = layout(spec, torch.zeros(BLOCKS, 1, BLOCK, 16, dtype=torch.bfloat16)).groups
    assert (group.kind, group.window_tokens) == ("sliding_window", 66)
