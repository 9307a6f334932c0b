"""A reproduced figure: cells with the paper's value, ours and a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class Cell:
    """One number of the paper and ours.

    ``tolerance`` is relative; None: shown, never judged. ``printed``: digits after the point that
    the paper prints (negative: tens, hundreds); a value that rounds to the same is never out.
    """

    name: str
    paper: float
    ours: float
    tolerance: float | None
    printed: int = 2
    note: str = ""

    @property
    def deviation(self) -> float:
        return self.ours / self.paper - 1

    @property
    def is_out(self) -> bool:
        if self.tolerance is None or abs(self.deviation) <= self.tolerance:
            return False
        return round(self.ours, self.printed) != round(self.paper, self.printed)

    def row(self) -> str:
        verdict = "shown" if self.tolerance is None else "OUT" if self.is_out else "ok"
        tolerance = "-" if self.tolerance is None else f"{self.tolerance:.0%}"
        digits = max(self.printed, 0)
        return (
            f"| {self.name} | {self.paper:.{digits}f} | {self.ours:.{digits + 1}f} "
            f"| {self.deviation:+.1%} | {tolerance} | {verdict} | {self.note} |"
        )


@dataclass
class Reproduction:
    """A table or figure of the paper, recomputed."""

    name: str
    title: str
    how: str
    cells: list[Cell]
    draw: Callable[[Path], None] | None = None
    reference: str = "paper"
    """What the cells' ``paper`` value is."""
    remarks: list[str] = field(default_factory=list)

    @property
    def out(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.is_out]

    def markdown(self) -> str:
        lines = [f"# {self.title}", "", self.how, ""]
        lines += [
            f"| cell | {self.reference} | ours | deviation | tolerance | | |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [cell.row() for cell in self.cells]
        lines += ["", *(f"- {remark}" for remark in self.remarks)] if self.remarks else []
        return "\n".join(lines) + "\n"


def printed(folder: str) -> Any:
    """What the paper prints: ``paper.yaml`` of a figure's folder."""
    return msgspec.yaml.decode((Path(__file__).parent / folder / "paper.yaml").read_bytes())
