"""Makes one tiny model: ``python -m prfaas.tiny_models.weights KIND DIRECTORY``.

Theory of operation. A random network is a fair stand-in for a trained one where the *path* of the
computation is on trial, if three things hold. Its text must depend on the whole prompt, through
the KV cache and the recurrent state (which therefore decays slowly). Its text must vary. And its
greedy choice must be clear: the best two of thousands of random logits in bf16 nearly tie at
every tenth token, and which of two near-ties wins depends on how a batch was mixed.

So the output matrix holds a small random grammar. Every word of `text.VOICE` has
`_SUCCESSORS` words that may follow it; those lead all others by far, and what the layers have
read of the prompt decides between them. All tokens that are no such words stay far behind. Near-
ties remain, where the prompt speaks for both alike: fewer, not none.

Every tensor is drawn from numpy's PCG64, seeded by the tensor's name: the same on every machine.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from prfaas.tiny_models.kinds import CONFIGS, HIDDEN, VOCABULARY, ModelKind
from prfaas.tiny_models.text import VOICE, training_text

_SUCCESSORS = 4
_WORD = HIDDEN // 2
_CONSTANT = 2.0
_SLOW_WRITES = 1.5
_SHARPNESS = 2.2
_ATTENTION_OUT = 3.0
_MLP = 0.5
_LEAD, _SPOKEN = 0.2, 0.2
_QK_GAIN, _FULL_GAIN, _WINDOW_GAIN = 1.5, 1.2, 0.5
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
        return _grammar(voice)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    if "conv1d" in name:
        return drawn * np.float32(0.4)
    drawn *= np.float32(_gain(name, kind) / np.sqrt(shape[-1]))
    if kind != "sliding_window":
        _respect_subspaces(name, drawn)
    return drawn


def _gain(name: str, kind: ModelKind) -> float:
    """How much larger than usual a matrix is."""
    layer = int(name.split(".")[2])
    full_attention = "self_attn" in name and (kind != "kda" or layer % 4 == 3)
    if "down_proj" in name or "output_linear" in name:
        return 1.0 if kind == "sliding_window" else _MLP
    if full_attention and "o_proj" in name:
        return 1.0 if kind == "sliding_window" else _ATTENTION_OUT
    if full_attention and "q_proj" in name:
        return _SHARPNESS  # has no effect where queries are normalised: see `_norm_gain`
    return 1.0


def _respect_subspaces(name: str, drawn: npt.NDArray[np.float32]) -> None:
    """Layers write to the context's subspace alone; recurrent layers write little of each token."""
    if any(part in name for part in ("o_proj", "out_proj", "down_proj", "output_linear")):
        drawn[..., :_WORD, :] = 0.0
    if "b_proj" in name:
        drawn[:, 0] = -_SLOW_WRITES
    if "in_proj_ba" in name:
        drawn[:, 0] = -_SLOW_WRITES


def _norm_gain(name: str, shape: tuple[int, ...], kind: ModelKind) -> npt.NDArray[np.float32]:
    gain = 1.0
    if name.endswith("bias"):
        gain = 0.0
    elif "q_norm" in name or "k_norm" in name:
        gain = _QK_GAIN  # attention that tells positions apart
    elif kind == "sliding_window":
        if name == "model.norm.weight":
            gain = 8.0  # the tied embedding is small as an output matrix
        elif "post_attention_layernorm" in name:
            gain = _FULL_GAIN if int(name.split(".")[2]) % 4 == 3 else _WINDOW_GAIN
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


def _grammar(voice: list[int]) -> npt.NDArray[np.float32]:
    """The output matrix: a word's row points along the embeddings of the words it may follow."""
    rng = np.random.default_rng(7)
    words = np.array(voice)
    head = rng.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32) * np.float32(0.004)
    head[words] = 0.0
    spoken = rng.standard_normal((len(words), HIDDEN - _WORD), dtype=np.float32)
    head[words, _WORD:] = np.float32(_SPOKEN) * spoken  # the part that the prompt speaks to
    embedding = _embedding()
    embedding[:, 0] = 0.0
    for _ in range(_SUCCESSORS):
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
    make(sys.argv[1], Path(sys.argv[2]))  # type: ignore[arg-type]
