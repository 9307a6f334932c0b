"""What an engine has room for."""

from __future__ import annotations

import ast
from pathlib import Path

import prfaas.scheduler
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Clock, ClusterState, EngineState, Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec

SCHEDULER = Path(prfaas.scheduler.__file__).parent
ENGINES = {"engine", "other", "old", "giver", "taker", "one"}
"""What the room calls them."""


def record(tokens: int) -> Record:
    return Record(RequestArrived("r", tokens, 10), 0.0)


def test_slots_are_bounded_by_batch_and_kv_memory() -> None:
    spec = EngineSpec("d", "west", "decode", 3, kv_tokens=1000)
    engine = EngineState(spec, ClusterState(ClusterSpec("west", "pd")), Clock(), set())
    assert engine.has_slot(record(5000))  # Alone, whatever its size.
    engine.take_slot(record(590))
    assert engine.has_slot(record(390))
    assert not engine.has_slot(record(391))
    engine.take_slot(record(10))
    engine.take_slot(record(10))
    assert not engine.has_slot(record(1))
    for tokens in (590, 10, 10):
        engine.give_slot(record(tokens))
    assert (engine.running, engine.kv_used) == (0, 0)


def test_who_writes_an_engines_field_says_that_it_changed() -> None:
    """Compiled, a write from another module passes ``__setattr__`` by."""
    fields = set(EngineState.__slots__)
    seen = 0
    for file in sorted(SCHEDULER.glob("*.py")):
        functions = [
            node for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.FunctionDef) and file.name != "state.py"
        ]  # fmt: skip
        for function in functions:
            source = ast.unparse(function)
            for name in _written(function, fields):
                told = f"{name}.changed()" in source or f"{name}.set_usable(" in source
                assert told, f"{file.name}: {function.name}"
                seen += 1
    assert seen


def _written(function: ast.FunctionDef, fields: set[str]) -> set[str]:
    """Names of engines whose fields it assigns."""
    targets = [
        target
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return {
        target.value.id
        for target in targets
        if isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id in ENGINES
        and target.attr in fields
    }
