"""What is sent: prompts of the workload's lengths and shared prefixes, as token ids or as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from prfaas.workload.requests import Workload

Api = Literal["completions", "chat"]
KNOWN_IDS = range(300, 1000)
"""Token ids that every vocabulary has; what they mean does not matter."""
_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word"
).split()
"""A token each, in the vocabularies of today's models, with the space before them."""


class Asked(msgspec.Struct, frozen=True):
    """One request: ``at`` seconds after the first, a prompt of about ``prompt_tokens``, and an
    answer of ``output_tokens``."""

    at: float
    prompt: list[int] | str
    prompt_tokens: int
    output_tokens: int

    def body(self, model: str, api: Api) -> dict[str, object]:
        """As `vllm bench serve` asks: streamed, to the last token, with the usage at the end."""
        found: dict[str, object] = {
            "model": model,
            "max_tokens": self.output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        if api == "chat":
            return found | {"messages": [{"role": "user", "content": self.prompt}]}
        return found | {"prompt": self.prompt}


class Prompts:
    """The prompts of a workload, made one by one: all at once they would not fit into memory.

    Prompts share what their blocks share; what the workload says nothing of is drawn from ``seed``.
    So the same seed asks the same again, and another one finds nothing cached but shared blocks.
    """

    def __init__(self, workload: Workload, api: Api, seed: int) -> None:
        self._workload, self._api, self._seed = workload, api, seed

    def __len__(self) -> int:
        return len(self._workload)

    def at(self, number: int) -> float:
        """When it is to be sent, in seconds after the first."""
        return float(self._workload.arrivals[number])

    def __getitem__(self, number: int) -> Asked:
        workload = self._workload
        tokens = int(workload.prompts[number])
        blocks = workload.blocks[number] if workload.blocks else ()
        picks = self._picks(number, tokens, blocks)
        if self._api == "chat":
            prompt: list[int] | str = " ".join(_WORDS[pick % len(_WORDS)] for pick in picks)
        else:
            prompt = picks
        return Asked(self.at(number), prompt, tokens, int(workload.outputs[number]))

    def _picks(self, number: int, tokens: int, blocks: Sequence[int]) -> list[int]:
        size = self._workload.block_tokens
        parts = [
            self._drawn(0, block, min(size, tokens - begin))
            for begin, block in zip(range(0, tokens, size), blocks, strict=False)
        ]
        known = sum(map(len, parts))
        parts.append(self._drawn(1, number, tokens - known))
        return [pick for part in parts for pick in part]

    def _drawn(self, kind: int, number: int, count: int) -> list[int]:
        rng = np.random.default_rng((self._seed, kind, number % (1 << 63)))
        found: list[int] = rng.integers(KNOWN_IDS.start, KNOWN_IDS.stop, count).tolist()
        return found


def fitted(workload: Workload, longest: int) -> tuple[Workload, float]:
    """Prompts cut so that prompt and answer fit into ``longest`` tokens, and the share that was."""
    room = [max(1, longest - int(output)) for output in workload.outputs]
    prompts = [min(int(p), r) for p, r in zip(workload.prompts, room, strict=True)]
    cut = sum(int(p) > r for p, r in zip(workload.prompts, room, strict=True))
    outputs = [min(int(output), longest - 1) for output in workload.outputs]
    fitted = msgspec.structs.replace(workload, prompts=prompts, outputs=outputs)
    return fitted, cut / max(1, len(prompts))
