"""The text that prompts are made of is the same everywhere."""

import hashlib

from prfaas.tiny_models.text import harbour_log


def test_a_seed_tells_the_same_tale_on_every_machine() -> None:
    digest = hashlib.sha256(harbour_log(7, entries=50).encode()).hexdigest()
    assert digest.startswith("6c6e4f0dee4f0a8b")


def test_a_longer_log_begins_like_a_shorter_one() -> None:
    assert harbour_log(3, entries=40).startswith(harbour_log(3, entries=39))
