"""Recompute every figure into build/figures/; exit 1 if a cell is out of its tolerance.

Run from the repository: ``python -m benchmarks.figures [name ...]``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.figures.cells import Reproduction

FIGURES = ("table3", "table5", "section23", "table6", "figure5a", "figure5b", "elastic_bound")
OUTPUT = Path("build/figures")


def main(names: list[str]) -> int:
    unknown = set(names) - set(FIGURES)
    if unknown:
        print(f"unknown figure {', '.join(sorted(unknown))}; known: {', '.join(FIGURES)}")
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in names or FIGURES:
        module = importlib.import_module(f"benchmarks.figures.{name}.reproduce")
        result: Reproduction = module.reproduce()
        text = result.markdown()
        (OUTPUT / f"{name}.md").write_text(text, encoding="utf-8")
        if result.draw is not None:
            for suffix in ("png", "svg"):
                result.draw(OUTPUT / f"{name}.{suffix}")
        print(text)
        failed += len(result.out)
    print(
        f"written to {OUTPUT}/; " + (f"{failed} cells out" if failed else "every cell in tolerance")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
