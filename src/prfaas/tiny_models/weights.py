"""Makes one tiny model: ``python -m prfaas.tiny_models.weights KIND DIRECTORY``.

Theory of operation. A random network is a fair stand-in for a trained one where the *path* of the
computation is on trial, if three things hold. Its text must depend on the whole prompt, through
the KV cache and the recurrent state (which therefore decays slowly). Its text must vary. And its
greedy choice must be clear: the best two of thousands of random logits in bf16 nearly tie at
every tenth token, and which of two near-ties wins depends on how a batch was mixed.

So the output matrix holds a small random grammar. Every word of `text.VOICE` has a few words that
may follow it; those lead the others, and what the layers have read of the prompt decides between
them. All tokens that are no such words stay far behind. Near-ties remain, where the prompt
speaks for both alike: fewer, not none.

It must also show when part of a cache is lost: one layer of it, one block, one state, the window.
So half of the dimensions hold the last word, the others what the layers read, which write there
alone and which alone decide between successors. Attention is sharp and loud, so that a block
matters; recurrent layers forget slowly and write little of each token (the delta rule erases what
it writes over), so that a state from before the last block still matters. The gains were searched
for: the smallest share of losses that leave 16 tokens as they are, at clear choices.

Every tensor is drawn from numpy's PCG64, seeded by the tensor's name: the same on every machine.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from prfaas.tiny_models.kinds import CONFIGS, HIDDEN, VOCABULARY, ModelKind
from prfaas.tiny_models.text import VOICE, training_text

_WORD = HIDDEN // 2
"""Dimensions that hold the word; layers write what they read of the prompt to the others."""
_CONSTANT = 2.0
_LEAD = 0.2


class Gains(NamedTuple):
    """How much louder than usual parts of a model are; found by search, see the theory above."""

    successors: int = 6
    spoken: float = 0.3
    """The part of a word's score that the context decides."""
    attention_out: float = 6.0
    queries: float = 3.0
    """Without effect where queries are normalised."""
    query_key_norms: float = 1.8
    mlp: float = 0.5
    slow_writes: float = 1.5
    """How far the delta rule is kept from writing: what it writes displaces what is there."""


GAINS: dict[ModelKind, Gains] = {
    "gdn": Gains(successors=8, spoken=0.2, attention_out=9.0, query_key_norms=2.0, slow_writes=1.8),
    "sliding_window": Gains(attention_out=1.0, queries=1.0, mlp=1.0),
    "dense": Gains(successors=8, spoken=0.12, attention_out=1.0),
    "mla": Gains(successors=3, spoken=0.2, attention_out=2.0),
    "kda": Gains(queries=3.5, mlp=1.2, slow_writes=1.2),
    "mamba2": Gains(attention_out=4.0, query_key_norms=1.6, slow_writes=1.2),
}
SPECIAL = ["<|end_of_text|>", "<|pad|>", "<|start|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def make(kind: ModelKind, directory: Path) -> None:
    """Write config, weights and tokenizer of ``kind`` into ``directory``."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(directory)
    config = AutoConfig.for_model(**CONFIGS[kind])
    model = AutoModelForCausalLM.from_config(config)
    voice = [tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in VOICE]
    unknown = [w for w, i in zip(VOICE, voice, strict=True) if i is None]
    assert not unknown, f"no token of their own: {unknown}"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_draw(name, tuple(parameter.shape), kind, voice)))
    model.to(torch.bfloat16).save_pretrained(directory)


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(training_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[1],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _draw(
    name: str, shape: tuple[int, ...], kind: ModelKind, voice: list[int]
) -> npt.NDArray[np.float32]:
    """The values of one parameter."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if "A_log" in name:
        return rng.uniform(-7.0, -4.0, shape).astype(np.float32)  # slow decay: a long memory
    if "dt_bias" in name:
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    if len(shape) == 1:
        return _norm_gain(name, shape, kind)
    if "embed_tokens" in name:
        return _tied_embedding(voice) if kind == "sliding_window" else _embedding()
    if "lm_head" in name:
        return _grammar(voice, GAINS[kind])
    drawn = rng.standard_normal(shape, dtype=np.float32)
    if "conv1d" in name:
        return drawn * np.float32(0.4)
    drawn *= np.float32(_gain(name, kind) / np.sqrt(shape[-1]))
    if kind != "sliding_window":
        _respect_subspaces(name, drawn, kind)
    return drawn


def _gain(name: str, kind: ModelKind) -> float:
    """How much larger than usual a matrix is."""
    full_attention = "self_attn" in name and (kind != "kda" or _is_full_attention(name))
    if "down_proj" in name or "output_linear" in name:
        return GAINS[kind].mlp
    if full_attention and "o_proj" in name:
        return GAINS[kind].attention_out
    if full_attention and "q_proj" in name:
        return GAINS[kind].queries
    return 1.0


def _is_full_attention(name: str) -> bool:
    """In the hybrids every fourth layer is."""
    return int(name.split(".")[2]) % 4 == 3


def _respect_subspaces(name: str, drawn: npt.NDArray[np.float32], kind: ModelKind) -> None:
    if any(part in name for part in ("o_proj", "out_proj", "down_proj", "output_linear")):
        drawn[..., :_WORD, :] = 0.0
    if "b_proj" in name or "in_proj_ba" in name:
        drawn[:, 0] = -GAINS[kind].slow_writes


def _norm_gain(name: str, shape: tuple[int, ...], kind: ModelKind) -> npt.NDArray[np.float32]:
    gain = 1.0
    if name.endswith("bias"):
        gain = 0.0
    elif "q_norm" in name or "k_norm" in name:
        gain = GAINS[kind].query_key_norms  # attention that tells positions apart
    elif kind == "sliding_window":
        if name == "model.norm.weight":
            gain = 8.0  # the tied embedding is small as an output matrix
        elif "post_attention_layernorm" in name:
            gain = 0.8
    # Qwen3-Next and Gemma 3 store most gains as an offset from 1.
    offset = kind == "sliding_window" or (kind == "gdn" and "linear_attn" not in name)
    return np.full(shape, gain - 1.0 if offset else gain, dtype=np.float32)


def _embedding() -> npt.NDArray[np.float32]:
    """Words in the words' subspace, but for its first dimension, the same for all."""
    rng = np.random.default_rng(11)
    embedding = rng.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32)
    embedding[:, 0] = _CONSTANT
    embedding[:, _WORD:] = 0.0
    return embedding


def _grammar(voice: list[int], gains: Gains) -> npt.NDArray[np.float32]:
    """The output matrix: a word's row points along the embeddings of the words it may follow."""
    rng = np.random.default_rng(7)
    words = np.array(voice)
    head = rng.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32) * np.float32(0.004)
    head[words] = 0.0
    spoken = rng.standard_normal((len(words), HIDDEN - _WORD), dtype=np.float32)
    head[words, _WORD:] = np.float32(gains.spoken) * spoken  # the part that the prompt speaks to
    embedding = _embedding()
    embedding[:, 0] = 0.0
    for _ in range(gains.successors):
        ring = rng.permutation(words)  # a ring: no word follows itself
        head[np.roll(ring, -1)] += np.float32(_LEAD) * embedding[ring]
    return head


def _tied_embedding(voice: list[int]) -> npt.NDArray[np.float32]:
    """Input and output matrix in one (Gemma 3): no grammar fits, so words are merely loud, some
    louder than others, and layers outweigh the embedding."""
    rng = np.random.default_rng(7)
    scale = np.full((VOCABULARY, 1), 0.0005, dtype=np.float32)
    scale[voice, 0] = 0.008 * np.exp(0.5 * rng.standard_normal(len(voice)))
    return rng.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32) * scale


if __name__ == "__main__":
    make(msgspec.convert(sys.argv[1], ModelKind), Path(sys.argv[2]))
