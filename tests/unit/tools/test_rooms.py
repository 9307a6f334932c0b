"""The script that measures how the source is built, on small trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.testing.loading import load_script

ROOMS = load_script(Path(__file__).parents[3] / "tools" / "rooms.py")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


SOURCE = {
    "src/prfaas/__init__.py": "",
    "src/prfaas/a.py": '''"""A."""

class Base:
    """A base."""

    def told(self) -> int:
        """What it is."""
        return 1

    def silent(self) -> int:
        return 2

class Child(Base):
    def told(self) -> int:
        def inner() -> int:
            return 3
        return inner()

    def _private(self) -> None: ...

def bare() -> None: ...
''',
    "src/prfaas/room/__init__.py": "",
    "src/prfaas/room/b.py": "X = 1\n",
    "tests/unit/room/test_b.py": "Y = 1\n" * 5,
}


def test_what_is_public_and_says_nothing_is_named(tmp_path: Path) -> None:
    _, _, bare = ROOMS.measure(tree(tmp_path, SOURCE))
    assert bare == ["prfaas.a.Base.silent", "prfaas.a.Child", "prfaas.a.bare"]


def test_the_rows_count_what_they_say(tmp_path: Path) -> None:
    rows, _, _ = ROOMS.measure(tree(tmp_path, SOURCE))
    values = {row.name: row.value for row in rows}
    assert values["modules"] == 2
    assert values["lines of a module, maximum"] == SOURCE["src/prfaas/a.py"].count("\n")
    assert values["functions"] == 6
    assert values["lines of a function, maximum"] == 4
    assert values["public docstrings"] == pytest.approx(1 - 3 / 6)
    assert values["lines of tests / lines of source"] == pytest.approx(
        5 / (SOURCE["src/prfaas/a.py"].count("\n") + 1)
    )
    assert values["modules with a test file of their own"] == 0.5


@pytest.mark.parametrize(
    ("first", "second", "circle"),
    [
        ("from prfaas.b import X\n", "from prfaas.a import Y\n", True),
        ("import prfaas.b\n", "def f():\n    from prfaas import a\n", True),
        ("if TYPE_CHECKING:\n    from prfaas.b import X\n", "from prfaas.a import Y\n", True),
        ("from prfaas.b import X\n", "from prfaas.core import Y\n", False),
        ("from prfaas import b\n", "from prfaas import VERSION\n", False),
    ],
)
def test_circles_are_found_wherever_the_import_stands(
    tmp_path: Path, first: str, second: str, circle: bool
) -> None:
    files = {"__init__.py": "", "a.py": first, "b.py": second, "core.py": ""}
    root = tree(tmp_path, {f"src/prfaas/{name}": text for name, text in files.items()})
    found = ROOMS.import_circles(ROOMS.modules_of(root))
    assert found == ([["prfaas.a", "prfaas.b"]] if circle else [])


def test_a_limit_is_broken_on_its_own_side_only() -> None:
    assert ROOMS.Row("x", 121, ".0f", 120).broken
    assert not ROOMS.Row("x", 120, ".0f", 120).broken
    assert ROOMS.Row("x", 0.89, ".0%", 0.9, True).broken
    assert not ROOMS.Row("x", 0.9, ".0%", 0.9, True).broken
    assert not ROOMS.Row("shown", 1e9, ".0f").broken


def test_check_ends_with_1_where_a_limit_is_broken_and_write_keeps_the_rest_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = f"before\n{ROOMS.BEGIN}\nold\n{ROOMS.END}\nafter\n"
    monkeypatch.setattr(ROOMS, "ROOT", tree(tmp_path, {**SOURCE, "docs/developing.md": page}))
    assert ROOMS.main(["--check"]) == 1
    shown = capsys.readouterr().out
    assert "limit broken: | public docstrings | 50.0% | >= 90.0% |" in shown
    assert "median" not in shown
    assert ROOMS.main(["--write"]) == 0
    written = (tmp_path / "docs" / "developing.md").read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert "| import circles | 0 | <= 0 |" in written
