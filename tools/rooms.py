"""Measure how the source is built: sizes, docstrings, tests beside modules, import circles.

``make rooms`` prints the table and writes it into docs/developing.md; ``--check`` only says which
limits are broken, and ends with 1 if any is. What is counted:

- *modules*: files of src/prfaas with code, so no ``__init__.py``. Lines are all lines.
- *functions*: from ``def`` to the last line, with the docstring; nested ones also by themselves.
- *public docstrings*: functions, classes and methods that can be named from outside without an
  underscore. A method that overrides a documented one has that one's (as `inspect.getdoc` says).
- *mirror*: modules ``src/prfaas/a/b.py`` for which there is a ``tests/unit/a/test_b.py``.
- *import circles*: groups of modules that import each other, wherever the import stands: at the
  top, in a function, under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from operator import ge, le
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs") / "developing.md"
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Row:
    """One measure; ``limit`` None: shown, never judged."""

    name: str
    value: float
    form: str
    limit: float | None = None
    at_least: bool = False

    @property
    def broken(self) -> bool:
        within = ge if self.at_least else le
        return self.limit is not None and not within(self.value, self.limit)

    def __str__(self) -> str:
        bound = ">=" if self.at_least else "<="
        wanted = "" if self.limit is None else f"{bound} {self.limit:{self.form}}"
        return f"| {self.name} | {self.value:{self.form}} | {wanted} |"


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, its path below src/prfaas, its parsed text."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


def modules_of(root: Path) -> list[Module]:
    """Every module of the package below ``root``, by name."""
    found = []
    for path in sorted((root / "src" / "prfaas").rglob("*.py")):
        below = path.relative_to(root / "src")
        parts = below.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        place = below.relative_to("prfaas")
        found.append(Module(name, place, len(text.splitlines()), ast.parse(text)))
    return found


def measure(root: Path) -> tuple[list[Row], list[list[str]], list[str]]:
    """The rows of the table, the import circles, and the public names without a docstring."""
    every = modules_of(root)
    coded = [module for module in every if module.path.name != "__init__.py"]
    lines = [module.lines for module in coded]
    lengths = [_length(node) for module in coded for node in ast.walk(module.tree) if _is_def(node)]
    named, bare = _docstrings(coded)
    tests = sum(_lines(path) for path in (root / "tests").rglob("*.py"))
    twins = sum(_twin(root, module).exists() for module in coded)
    circles = import_circles(every)
    ratio = tests / sum(module.lines for module in every)
    rows = [
        Row("modules", len(coded), ".0f"),
        Row("lines of a module, median", median(lines), ".0f", 120),
        Row("lines of a module, maximum", max(lines), ".0f", 320),
        Row("functions", len(lengths), ".0f"),
        Row("lines of a function, 90th percentile", quantiles(lengths, n=10)[-1], ".0f", 20),
        Row("lines of a function, maximum", max(lengths), ".0f"),
        Row("public docstrings", 1 - len(bare) / named, ".1%", 0.9, True),
        Row("lines of tests / lines of source", ratio, ".2f", 0.6, True),
        Row("modules with a test file of their own", twins / len(coded), ".0%"),
        Row("import circles", len(circles), ".0f", 0),
    ]
    return rows, circles, bare


def _is_def(node: ast.AST) -> bool:
    return isinstance(node, Function)


def _length(node: ast.AST) -> int:
    assert isinstance(node, Function)
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _twin(root: Path, module: Module) -> Path:
    return root / "tests" / "unit" / module.path.parent / f"test_{module.path.name}"


def _docstrings(modules: list[Module]) -> tuple[int, list[str]]:
    """How many public names there are, and those that say nothing."""
    classes = {
        node.name: node
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    named, bare = 0, []
    for module in modules:
        for name, node, owner in _public(module.tree, module.name):
            named += 1
            if not ast.get_docstring(node) and not _inherits(node.name, owner, classes):
                bare.append(name)
    return named, bare


def _public(
    scope: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, Function | ast.ClassDef, ast.ClassDef | None]]:
    owner = scope if isinstance(scope, ast.ClassDef) else None
    for node in scope.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(_is_exempt(decorator) for decorator in node.decorator_list):
            continue
        yield f"{prefix}.{node.name}", node, owner
        if isinstance(node, ast.ClassDef):
            yield from _public(node, f"{prefix}.{node.name}")


def _is_exempt(decorator: ast.expr) -> bool:
    """Overloads and setters: their one docstring stands at the function or the getter."""
    return (isinstance(decorator, ast.Name) and decorator.id == "overload") or (
        isinstance(decorator, ast.Attribute) and decorator.attr == "setter"
    )


def _inherits(method: str, owner: ast.ClassDef | None, classes: dict[str, ast.ClassDef]) -> bool:
    for base in owner.bases if owner is not None else []:
        parent = classes.get(_last_name(base))
        for node in parent.body if parent is not None else []:
            if isinstance(node, Function) and node.name == method and ast.get_docstring(node):
                return True
        if parent is not None and parent is not owner and _inherits(method, parent, classes):
            return True
    return False


def _last_name(expression: ast.expr) -> str:
    while isinstance(expression, ast.Subscript):
        expression = expression.value
    return ast.unparse(expression).rsplit(".", 1)[-1]


def import_circles(modules: list[Module]) -> list[list[str]]:
    """Groups of modules that reach each other by imports (Tarjan's strong components)."""
    known = {module.name for module in modules}
    graph = {module.name: sorted(set(_imports(module.tree, known))) for module in modules}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            place = stack.index(name)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                circles.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return sorted(circles)


def _imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            # A package's own file counts only for names that are not modules below it.
            yield from (name if name in known else node.module for name in inner)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    return "\n".join(["| measure | now | wanted |", "|---|---|---|", *map(str, rows)])


def _write(page: Path, text: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page}: the lines {BEGIN} and {END} are missing")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Print, write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure how the source is built.")
    parser.add_argument("--check", action="store_true", help="say only which limits are broken")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    parser.add_argument("--bare", action="store_true", help="list public names without docstring")
    args = parser.parse_args(argv)
    rows, circles, bare = measure(ROOT)
    if not args.check:
        print(table(rows))
    if args.write:
        _write(ROOT / PAGE, table(rows))
    if args.bare:
        print("\n".join(bare))
    broken = [row for row in rows if row.broken]
    for row in broken:
        print(f"limit broken: {row}")
    for circle in circles:
        print(f"import circle: {', '.join(circle)}")
    return 1 if args.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
