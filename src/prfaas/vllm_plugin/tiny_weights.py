"""Makes one tiny model: ``python -m prfaas.vllm_plugin.tiny_weights KIND DIRECTORY``.

Theory of operation. A random network is a fine stand-in for a real one where only the *path* of
the computation is on trial, if three things hold. Its text must depend on the whole prompt: so
the layers outweigh the token embedding, and the recurrent state decays slowly. Its text must
vary: so weights are larger than a trainer would start with. And its greedy choice must be clear:
bf16 logits of a random vocabulary nearly tie at every tenth token, and the order of a near-tie
depends on how a batch was mixed. So only the words of `tiny_text.VOICE` have large rows in the
output matrix, with heavy-tailed norms, and all other tokens are far behind.

Every tensor is drawn from numpy's PCG64 seeded by the tensor's own name: the same bytes on every
machine.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from prfaas.vllm_plugin.tiny_kinds import CONFIGS, VOCABULARY, ModelKind
from prfaas.vllm_plugin.tiny_text import VOICE, training_text

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


def _draw(name: str, shape: tuple[int, ...], kind: ModelKind, voice: list[int]) -> np.ndarray:
    """The values of one parameter, float32."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    normal = rng.standard_normal(shape, dtype=np.float32)
    if "A_log" in name:
        return rng.uniform(-6.0, -1.5, shape).astype(np.float32)  # slow decay: a long memory
    if "dt_bias" in name:
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)
    if name.endswith("norm.weight") or len(shape) == 1:
        return _norm_weight(name, shape, kind)
    if "conv1d" in name:
        return normal * 0.4
    if "lm_head" in name or (kind == "sliding_window" and "embed_tokens" in name):
        return normal * _row_scale(voice)
    if "embed_tokens" in name:
        return normal * np.float32(0.5)
    return normal * np.float32(_GAIN / np.sqrt(shape[-1]))


_GAIN = 1.6


def _norm_weight(name: str, shape: tuple[int, ...], kind: ModelKind) -> np.ndarray:
    """Gain 1: some layouts store it as an offset from 1 (Qwen3-Next, Gemma 3), some as it is."""
    offset = kind == "sliding_window" or (kind == "gdn" and "linear_attn" not in name)
    return np.full(shape, 0.0 if offset else 1.0, dtype=np.float32)


def _row_scale(voice: list[int]) -> np.ndarray:
    """Column of row norms: words loud, the rest nearly silent."""
    rng = np.random.default_rng(7)
    scale = np.full((VOCABULARY, 1), 0.004, dtype=np.float32)
    scale[voice, 0] = 0.06 * np.exp(0.5 * rng.standard_normal(len(voice)))
    return scale


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))  # type: ignore[arg-type]
