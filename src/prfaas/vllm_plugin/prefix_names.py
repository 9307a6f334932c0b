"""Names of a request's prefixes (`core.prefixes`), as this engine computes them.

They are what a cached prefix is found by, so they stand for everything that decides its bytes: the
tokens, the salt, the adapter, the model's weights. The layout its pages have is compared beside.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prfaas.core.errors import CallerError
from prfaas.core.prefixes import PromptPrefix, chain, root_digest, stretch
from prfaas.core.prompt_digest import prompt_digest
from prfaas.vllm_plugin.adapter_identity import AdapterIdentities
from prfaas.vllm_plugin.hub import commit_of, files_of

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.v1.request import Request

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.tensors")
_SAMPLES, _SAMPLE_BYTES = 4096, 4096
_LEAST_SAMPLES = 64
"""Of each file; where there are few, of each its part of ``_SAMPLES``."""


@dataclass(frozen=True)
class RequestNames:
    """The names of one prompt's prefixes. ``names``: after each whole block."""

    block_tokens: int
    root: bytes
    names: tuple[bytes, ...]
    token_ids: list[int]
    salt: str | None
    adapter: str | None

    def stretch(self, from_token: int, to_token: int) -> PromptPrefix | None:
        """What a transfer of these tokens is of; None for one that is not to be kept."""
        return stretch(
            self.names,
            self.root,
            self.token_ids,
            block_tokens=self.block_tokens,
            from_token=from_token,
            to_token=to_token,
            salt=self.salt,
            adapter=self.adapter,
        )


class PrefixNames:
    """Names prefixes as one engine computes them. ``weights``: see `weights_identity`."""

    def __init__(
        self, weights: str, block_tokens: int, adapters: AdapterIdentities | None = None
    ) -> None:
        self._weights, self._block_tokens = weights, block_tokens
        self._adapters = adapters or AdapterIdentities()

    def renew(self) -> None:
        """What was named before is found no more: the engine's weights may be others from now on,
        and nobody says which. What it names then it alone finds."""
        self._weights = uuid.uuid4().hex

    def of(self, request: Request, *, tokens: int | None = None) -> RequestNames | None:
        """Of its prompt, or of the first ``tokens`` of prompt and answer. None for a prompt that is
        more than its token ids."""
        if request.mm_features or request.prompt_embeds is not None:
            return None
        lora = request.lora_request
        adapter = self._adapters.of(lora)
        root = root_digest(self._weights, adapter=adapter, salt=request.cache_salt)
        ids = list(request.all_token_ids[: request.num_prompt_tokens if tokens is None else tokens])
        return RequestNames(
            block_tokens=self._block_tokens,
            root=root,
            names=chain(root, ids, self._block_tokens),
            token_ids=ids,
            salt=request.cache_salt,
            adapter=None if lora is None else lora.lora_name,
        )


def transfer_digest(request: Request, to_token: int, adapter: str | None) -> str:
    """What a transfer of it is bound to. Raises CallerError for more than token ids."""
    more = request.mm_features or request.prompt_embeds is not None
    if request.prompt_token_ids is None or more:  # Ids are placeholders for what is more.
        raise CallerError("kv_transfer_params: only prompts of token ids are handed over")
    return prompt_digest(
        request.prompt_token_ids, to_token=to_token, salt=request.cache_salt, adapter=adapter
    )


def weights_identity(config: ModelConfig) -> str:
    """What tells these weights from others under the same name: an agent outlives its engines, and
    an engine may come back with a model that was trained on. Of files here, a folder's or one, by
    their sizes and samples of their content; of a model from a hub its name and commit; of anything
    else name and revision."""
    digest = hashlib.blake2b(digest_size=16)
    place = Path(config.model)
    files = [place] if place.is_file() else files_of(place, _WEIGHT_FILES)
    samples = max(_LEAST_SAMPLES, _SAMPLES // max(1, len(files)))
    try:
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.name} {size} ".encode())
            with file.open("rb") as stream:
                for number in range(samples):
                    stream.seek(number * size // samples)
                    digest.update(stream.read(_SAMPLE_BYTES))
    except OSError:
        files = []
    if files:
        return digest.hexdigest()
    commit = commit_of(config.model, "config.json", revision=config.revision)
    return f"{config.model} {commit or config.revision}"
