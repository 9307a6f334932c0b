"""Tiny models the product makes itself, so that everything can be shown without a download.

`ensure(kind)` returns a directory that vLLM serves: random weights from a seed, a small tokenizer
with a chat template. It is made once (seconds) and kept in the user's cache directory; its name
holds a digest of the makers' source, so a changed recipe makes a new model beside the old one.
The making runs in a process of its own: this module imports neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from prfaas.core.errors import ConfigError, EngineError
from prfaas.tiny_models.kinds import ModelKind

_RECIPE = ("kinds.py", "text.py", "weights.py")


def ensure(kind: str) -> Path:
    """The directory of the tiny model ``kind`` (see `ModelKind`), made if it is not there yet.

    Raises ConfigError for an unknown kind, EngineError where the making fails.
    """
    if kind not in get_args(ModelKind):
        raise ConfigError(f"no tiny model {kind!r}; known: {', '.join(get_args(ModelKind))}")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prfaas" / "models"
    target = home / f"{kind}-{_recipe_digest()}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with open(home / f"{kind}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _make(kind, target)
    return target


def _make(kind: str, target: Path) -> None:
    """Build beside ``target`` and rename: a half-made model is never found."""
    building = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=target.parent))
    try:
        command = [sys.executable, "-m", "prfaas.tiny_models.weights", kind, str(building)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            tail = made.stderr.strip().splitlines()[-1:] or ["no message"]
            raise EngineError(f"making the tiny model {kind!r} failed: {tail[0]}")
        building.chmod(0o755)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _recipe_digest() -> str:
    digest = hashlib.sha256()
    for name in _RECIPE:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a tiny model; print where it is.")
    parser.add_argument("kind", choices=get_args(ModelKind))
    print(ensure(parser.parse_args().kind))
