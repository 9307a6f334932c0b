"""The random models: what decides their text, and that every kind can be drawn."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from prfaas.tiny_models import weights
from prfaas.tiny_models.kinds import CONFIGS, HIDDEN, VOCABULARY, ModelKind

WORDS = list(range(300, 400))


def test_every_kind_has_a_shape_and_gains() -> None:
    assert set(CONFIGS) == set(weights.GAINS) == set(get_args(ModelKind))


def draw(name: str, shape: tuple[int, ...], kind: ModelKind) -> np.ndarray:
    return weights._draw(name, shape, kind, WORDS)


def test_layers_write_beside_the_word_and_only_that_decides_between_successors() -> None:
    written = draw("model.layers.3.self_attn.o_proj.weight", (HIDDEN, 64), "gdn")
    touched = np.flatnonzero(np.abs(written).sum(axis=1))
    embedding = draw("model.embed_tokens.weight", (VOCABULARY, HIDDEN), "gdn")
    assert not embedding[:, touched].any()
    head = draw("lm_head.weight", (VOCABULARY, HIDDEN), "gdn")
    assert head[WORDS][:, touched].any(axis=1).all()
    leads = embedding[WORDS, 1:] @ head[WORDS, 1:].T
    assert (leads.max(axis=1) > 4 * np.median(np.abs(leads), axis=1)).all()
    assert (np.argmax(leads, axis=1) != np.arange(len(WORDS))).all(), "a word follows itself"


def test_the_same_name_is_drawn_alike() -> None:
    name, shape = "model.layers.0.mlp.up_proj.weight", (8, 8)
    assert np.array_equal(draw(name, shape, "kda"), draw(name, shape, "kda"))
    assert not np.array_equal(draw(name, shape, "kda"), draw(name.replace("0", "1"), shape, "kda"))
