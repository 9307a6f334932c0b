"""Tables of messages and records in the documentation, from the code's types:
``python tools/type_tables.py --write``.

A page says where: between ``<!-- types: NAME -->`` and ``<!-- end -->`` stand the types of
`SECTIONS` by that name, and in the section ``shared`` of a page all others that they are made of.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect as kinds

from prfaas.core import cache_copies, cache_news, gateway_sessions, handoff
from prfaas.engine_socket import messages
from prfaas.kv_events import wire
from prfaas.link.api import LinkStates, MeasuredLine, TransferOffer
from prfaas.link.protocol import frames
from prfaas.link.protocol.line_share import Demand, Grant
from prfaas.pool.records import TransferView
from prfaas.scheduler import journal
from prfaas.scheduler.commands import AnyCommand
from prfaas.scheduler.events import AnyEvent

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("journal.md", "wire-protocols.md")
SECTIONS: dict[str, tuple[type, ...]] = {
    "notes": typing.get_args(journal.AnyNote),
    "events": typing.get_args(AnyEvent),
    "commands": typing.get_args(AnyCommand),
    "link": (frames.Hello, frames.Welcome, frames.Reason, TransferOffer, Demand, Grant),
    "engine": typing.get_args(messages.EngineMessage),
    "agent": typing.get_args(messages.AgentMessage),
    "sessions": (gateway_sessions.Renewal, gateway_sessions.Standing),
    "transfers": (TransferView, LinkStates, MeasuredLine),
    "caches": typing.get_args(cache_news.CacheNews),
    "copies": (cache_copies.CopyCached, cache_copies.AwaitCopy),
    "kv-events": typing.get_args(wire.Frame),
    "hand-offs": (*typing.get_args(handoff.Handoff), handoff.ExportResult),
}
_MARK = re.compile(r"(<!-- types: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SIMPLE = {
    kinds.AnyType: "anything",
    kinds.BoolType: "boolean",
    kinds.BytesType: "bytes",
    kinds.NoneType: "null",
}


def filled(text: str) -> str:
    """A page with its tables as they must be."""
    named = [found[2] for found in _MARK.finditer(text) if found[2] != "shared"]
    told = [kind for name in named for kind in SECTIONS[name]]
    known = {**dict.fromkeys(told), **dict.fromkeys(_below(told))}
    parts = {**{name: SECTIONS[name] for name in named}, "shared": tuple(list(known)[len(told) :])}
    heading = _Headings(known)
    return _MARK.sub(lambda m: m[1] + "\n" + heading.section(parts[m[2]]) + m[3], text)


class _Headings:
    """Two types of one name are told apart by their modules."""

    def __init__(self, known: typing.Iterable[type]) -> None:
        names = [kind.__name__ for kind in known]
        self._twins = {name for name in names if names.count(name) > 1}

    def section(self, shown: tuple[type, ...]) -> str:
        return "".join(self._one(kind) for kind in shown)

    def name(self, kind: type) -> str:
        name = kind.__name__
        return f"{name} of {kind.__module__.rsplit('.')[-1]}" if name in self._twins else name

    def _one(self, kind: type) -> str:
        said = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(kind.__doc__ or ""))
        lines = [f"#### {self.name(kind)}", "", said, ""]
        if issubclass(kind, enum.Enum):
            docs = _attribute_docs(kind)
            rows = [f"| `{one.value}` | {docs.get(one.name, '')} |" for one in kind]
            return "\n".join([*lines, "| value | |", "|---|---|", *rows, "", ""])
        info = kinds.type_info(kind)
        assert isinstance(info, kinds.StructType | kinds.NamedTupleType)
        tag = info.tag if isinstance(info, kinds.StructType) else None
        how = [] if tag is None else [f"`{info.tag_field}`: `{tag}`."]
        if isinstance(info, kinds.NamedTupleType) or info.array_like:
            how.append("An array of its fields, in this order.")
        lines += [" ".join(how), ""] if how else []
        if not info.fields:
            return "\n".join(lines) + "\n"
        docs = _attribute_docs(kind)
        rows = [
            f"| `{field.encode_name}` | {self._text(field.type)} | {_default(field)} |"
            + (f" {docs.get(field.name, '')} |" if docs else "")
            for field in info.fields
        ]
        head = "| field | type | without it |"
        rule = "|---|---|---|"
        if docs:
            head, rule = head + " |", rule + "---|"
        return "\n".join([*lines, head, rule, *rows, "", ""])

    def _text(self, kind: kinds.Type) -> str:
        if isinstance(kind, kinds.Metadata):
            return self._text(kind.type)
        for simple, name in _SIMPLE.items():
            if isinstance(kind, simple):
                return name
        if isinstance(kind, kinds.IntType | kinds.FloatType):
            name = "integer" if isinstance(kind, kinds.IntType) else "number"
            return name + _bounds({"≥": kind.ge, ">": kind.gt, "≤": kind.le, "<": kind.lt})
        if isinstance(kind, kinds.StrType):
            pattern = f" `{kind.pattern.replace('|', chr(92) + '|')}`" if kind.pattern else ""
            return "string" + _bounds({"length ≥": kind.min_length, "≤": kind.max_length}) + pattern
        if isinstance(kind, kinds.LiteralType):
            return " or ".join(f'`"{value}"`' for value in kind.values)
        if isinstance(kind, kinds.DictType):
            longest = _bounds({"at most": kind.max_length})
            return f"object: {self._text(kind.key_type)} → {self._text(kind.value_type)}{longest}"
        if isinstance(kind, kinds.TupleType):
            return "[" + ", ".join(self._text(one) for one in kind.item_types) + "]"
        if isinstance(kind, kinds.VarTupleType | kinds.ListType | kinds.FrozenSetType):
            return f"array of {self._text(kind.item_type)}" + _bounds({"at most": kind.max_length})
        if isinstance(kind, kinds.UnionType):
            return " or ".join(self._text(one) for one in kind.types)
        if isinstance(kind, kinds.StructType | kinds.EnumType | kinds.NamedTupleType):
            name = self.name(kind.cls)
            return f"[{name}](#{name.lower().replace(' ', '-')})"
        raise NotImplementedError(f"{kind}: say how it is written")


def _bounds(of: dict[str, typing.Any]) -> str:
    said = ", ".join(f"{sign} {value:,}" for sign, value in of.items() if value is not None)
    return f" ({said})" if said else ""


def _default(field: kinds.Field) -> str:
    if field.required:
        return "must be there"
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        value = field.default
    return f"`{msgspec.json.encode(value).decode()}`"


def _attribute_docs(kind: type) -> dict[str, str]:
    """What stands below a field or a member, as text."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            continue
        target = before.target if isinstance(before, ast.AnnAssign) else None
        if isinstance(before, ast.Assign):
            target = before.targets[0]
        if isinstance(target, ast.Name):
            found[target.id] = inspect.cleandoc(str(after.value.value)).replace("\n", " ")
    return found


def _below(told: typing.Iterable[type]) -> Iterator[type]:
    """All structures and enumerations that these are made of, in the order of the tables."""
    seen = set(told)
    waiting = list(told)
    while waiting:
        kind = waiting.pop(0)
        if issubclass(kind, enum.Enum):
            continue
        for below in _named_in(kinds.type_info(kind)):
            if below not in seen:
                seen.add(below)
                waiting.append(below)
                yield below


def _named_in(kind: typing.Any) -> Iterator[type]:
    if isinstance(kind, kinds.StructType | kinds.NamedTupleType):
        for field in kind.fields:
            yield from _classes(field.type)


def _classes(kind: kinds.Type) -> Iterator[type]:
    if isinstance(kind, kinds.StructType | kinds.EnumType | kinds.NamedTupleType):
        yield kind.cls
        return
    for name in ("type", "key_type", "value_type", "item_type"):
        if isinstance(below := getattr(kind, name, None), kinds.Type):
            yield from _classes(below)
    for name in ("types", "item_types"):
        for below in getattr(kind, name, ()):
            yield from _classes(below)


def main() -> int:
    """The exit status: 1 where a page is out of date."""
    late = 0
    for name in PAGES:
        page = DOCS / name
        text = page.read_text()
        if filled(text) != text:
            late = 1
            if "--write" in sys.argv[1:]:
                page.write_text(filled(text))
    return 0 if "--write" in sys.argv[1:] else late


if __name__ == "__main__":
    sys.exit(main())
