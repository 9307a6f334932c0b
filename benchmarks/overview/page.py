"""Pages of results: docs/performance.md from what is stored, build/bench/all.html of a run."""

from __future__ import annotations

import html
from itertools import groupby
from pathlib import Path

import msgspec
from benchmarks.overview.rows import Row

from prfaas.plots.figure import BLUE, GREY, new_figure

STORED = Path(__file__).with_name("stored.json")
DOCS = Path("docs/performance.md")
_RED = "#cf222e"
_MUCH = 1.25
"""A ratio that is worse by this factor is told: two runs on a busy machine differ by less."""
_HEAD = """# How fast it is

<!-- Written by `python -m benchmarks.overview --page` from benchmarks/overview/stored.json. -->

`make bench` runs every benchmark in its short form beside its peers, in one go on one machine, and
writes `build/bench/all.json`, a page of plots `build/bench/all.html`, and which ratios became worse
than those below. Only ratios of one run mean something: machines differ, and what else they do.
`make bench STORE=1` makes a run the one that this page shows.

"""


class Taken(msgspec.Struct, frozen=True):
    """Where and when a benchmark ran. ``load_average``: of the minute before it ended."""

    date: str
    machine: str
    cores: int
    load_average: float
    versions: dict[str, str]
    seconds: float
    rows: tuple[Row, ...] = ()
    failed: str | None = None


Run = dict[str, Taken]
"""By benchmark."""


def read(path: Path) -> Run:
    """A run; an empty one where there is no file."""
    return msgspec.json.decode(path.read_bytes(), type=Run) if path.exists() else {}


def worse(run: Run, stored: Run) -> list[str]:
    """Rows whose ratio is much worse than the stored one, in words."""
    before = {row.key: row for taken in stored.values() for row in taken.rows}
    found = []
    for row in (row for taken in run.values() for row in taken.rows):
        old = before.get(row.key)
        if old is not None and row.worse_than(old) > _MUCH:
            found.append(f"{row.key}: {old.ratio:.2f} stored, {row.ratio:.2f} now")
    return found


def markdown(run: Run) -> str:
    """The page of the documentation."""
    parts = [_HEAD]
    for name, taken in run.items():
        parts.append(f"## {name.capitalize()}\n\n{_where(taken)}\n\n")
        if taken.failed is not None:
            parts.append(f"It failed: {taken.failed}\n\n")
            continue
        parts.append("| | ours | beside | | ratio | aimed at |\n|---|---|---|---|---|---|\n")
        parts += [f"| {' | '.join(_cells(row))} |\n" for row in taken.rows]
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _where(taken: Taken) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in taken.versions.items())
    return (
        f"{taken.date}, {taken.machine}, {taken.cores} cores, load average "
        f"{taken.load_average:.1f}, {taken.seconds:.0f} s; {versions}."
    )


def _cells(row: Row) -> list[str]:
    aimed = "-"
    if row.wanted is not None:
        aimed = f"{'at least' if row.more else 'at most'} {row.wanted:g}"
        aimed += ", reached" if row.reached else ", **not reached**"
    return [
        row.what, f"{row.ours:.3g} {row.unit}", row.beside, f"{row.other:.3g} {row.unit}",
        f"{row.ratio:.2f}", aimed,
    ]  # fmt: skip


def _colour(row: Row) -> str:
    if row.reached is None:
        return GREY
    return BLUE if row.reached else _RED


def draw(run: Run, path: Path) -> None:
    """One page: a plot of the ratios of each benchmark, and the tables. Needs matplotlib."""
    shown = [taken for taken in run.values() if taken.rows]
    height = sum(len(taken.rows) for taken in shown) * 0.28 + len(shown) * 0.9
    figure, axes = new_figure(size=(10, max(3.0, height)), rows=max(1, len(shown)))
    for axis, taken in zip(axes, shown, strict=False):
        rows = taken.rows[::-1]
        ratios = [row.ratio for row in rows]
        axis.barh(range(len(rows)), ratios, color=[_colour(row) for row in rows])
        names = [f"{row.what} / {row.beside}" for row in rows]
        axis.set_yticks(range(len(rows)), names, fontsize=7)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{rows[0].benchmark}: ratio of ours to the other", fontsize=9)
    svg = path.with_suffix(".svg")
    figure.savefig(svg)
    body = [f"<img src='{svg.name}' style='max-width:100%' alt='ratios'>"]
    for name, group in groupby(shown, key=lambda taken: taken.rows[0].benchmark):
        for taken in group:
            body.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(_where(taken))}</p><table>")
            for row in taken.rows:
                cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row))
                body.append(f"<tr>{cells}</tr>")
            body.append("</table>")
    style = "body{font:14px sans-serif;margin:2em}td{padding:2px 10px}"
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><title>Benchmarks</title><style>{style}</style>"
        f"<h1>Benchmarks</h1>{''.join(body)}\n"
    )
