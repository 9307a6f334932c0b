"""The fenced blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r' title="(needs [^"]+)"$')
_OF_A_SHELL = re.compile(r"[|<>&;`$]")


class Block(NamedTuple):
    """``kind``: the first word behind the fence; ``needs``: why it is not run, from its title."""

    page: str
    line: int
    kind: str
    needs: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    """Of README.md and all pages."""
    for path in PAGES:
        text = path.read_text()
        for found in _FENCE.finditer(text):
            kind, _, rest = found[2].partition(" ")
            title = _TITLE.search(found[2])
            assert not rest or title, f"{path}: the title of a block says what it needs: {rest}"
            yield Block(
                str(path.relative_to(ROOT)),
                text.count("\n", 0, found.start()) + 1,
                kind,
                None if title is None else title[1],
                textwrap.dedent(found[3]),
            )


class Command(NamedTuple):
    """One command of a block, as written, and in words where it needs no shell."""

    text: str
    words: list[str] | None

    @property
    def verb(self) -> list[str] | None:
        """What stands behind ``prfaas``, if this calls it."""
        words = self.words or []
        return words[1:] if words and words[0].removeprefix(".venv/bin/") == "prfaas" else None


def commands(block: Block) -> Iterator[Command]:
    """Of a block for a shell, in order; lines that go on are joined, comments left out."""
    whole = ""
    for line in block.text.replace("\\\n", " ").splitlines():
        whole = f"{whole}\n{line}" if whole else line
        try:
            words = shlex.split(whole, comments=True)
        except ValueError:  # A quoted text goes on in the next line.
            continue
        if words:
            plain = _without_comment(whole)
            yield Command(plain, None if _OF_A_SHELL.search(_unquoted(plain)) else words)
        whole = ""
    assert not whole, f"{block.place}: a quote does not end"


def _without_comment(line: str) -> str:
    return re.split(r"\s#", line, maxsplit=1)[0].strip()


def _unquoted(line: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
