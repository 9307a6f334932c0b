"""Groups of engines that hold their KV cache alike, and which of them do not pair."""

from __future__ import annotations

import msgspec

from prfaas.core.deployment import parse_deployment
from prfaas.core.layout import MAX_LAYOUT_BYTES, KvLayout
from prfaas.gateway.endpoints import Endpoints, resolve
from prfaas.gateway.layouts import Layouts, named
from prfaas.gateway.registered_ranks import RegisteredRank
from prfaas.testing.mock_deployment import mock_layout

OLD, NEW = mock_layout(), mock_layout(page_bytes=128)


def endpoints() -> Endpoints:
    """Two PrfaaS machines, a PD cluster of two machines, and one that nobody has a link to."""

    def machine(name: str, **engines: str) -> str:
        written = ", ".join(
            f'{{name: {e}, role: {role}, url: "http://{e}:1"}}' for e, role in engines.items()
        )
        return (
            f'{{name: {name}, agent: {{name: {name}-a, admin: "{name}:2"}}, engines: [{written}]}}'
        )

    text = f"""
clusters:
  - name: east
    kind: prfaas
    machines: [{machine("e1", p1="prefill")}, {machine("e2", p2="prefill", p3="prefill")}]
  - name: west
    kind: pd
    machines: [{machine("w1", q1="prefill", d1="decode")}, {machine("w2", d2="decode")}]
  - name: south
    kind: pd
    machines: [{machine("s1", d3="decode")}]
links: [{{from: east, to: west}}]
"""
    return resolve(parse_deployment(text, source="test"), source="test")


class Told:
    """Layouts, and what they have told."""

    def __init__(self) -> None:
        self.known: list[tuple[str, tuple[str, ...]]] = []
        self.unfit: list[tuple[tuple[str, str], ...]] = []
        self.endpoints = endpoints()

        def on_known(layout: KvLayout, engines: tuple[str, ...]) -> None:
            self.known.append((layout.fingerprint(), engines))

        self.layouts = Layouts(self.endpoints, on_known=on_known, on_pairing=self.unfit.append)

    def register(self, agent: str, **engines: KvLayout) -> set[str] | None:
        ranks = [RegisteredRank(name, 1, layout) for name, layout in engines.items()]
        return self.layouts.registered(agent, ranks)

    def why(self, engine: str) -> str | None:
        return self.layouts.why_unpaired(self.endpoints.engines[engine])


def test_every_group_is_told_and_what_grows_it() -> None:
    told = Told()
    assert told.register("e2-a", p2=OLD, p3=NEW) == set()
    assert told.register("e2-a", p2=OLD, p3=NEW) is None
    told.register("w1-a", q1=OLD, d1=OLD)
    assert sorted(told.known) == sorted(
        [(OLD.fingerprint(), ("p2",)), (NEW.fingerprint(), ("p3",)),
         (OLD.fingerprint(), ("d1", "q1"))]
    )  # fmt: skip
    assert told.layouts.alignment_tokens == dict.fromkeys(("p2", "p3", "q1", "d1"), 4)


def test_a_pair_of_groups_that_does_not_fit_is_told_once_and_named_by_its_engines() -> None:
    told = Told()
    told.register("e1-a", p1=OLD)
    told.register("e2-a", p2=OLD, p3=NEW)
    told.register("w1-a", q1=OLD, d1=OLD)
    told.register("w2-a", d2=NEW)
    old, new = OLD.fingerprint(), NEW.fingerprint()
    assert told.unfit == [((new, old),), tuple(sorted(((new, old), (old, new))))]
    found = {(m.prefill, m.decode) for m in told.layouts.mismatches()}
    assert found == {(("p3",), ("d1",)), (("p1", "p2", "q1"), ("d2",))}
    assert (told.why("p1"), told.why("p3")) == (None, None)  # Each has someone.
    told.register("w2-a")
    assert "page_bytes differs: 128 and 64" in (told.why("p3") or "")
    assert told.unfit[-1] == ((new, old),)


def test_engines_without_a_line_between_them_need_not_fit() -> None:
    told = Told()
    told.register("e1-a", p1=OLD)
    told.register("s1-a", d3=NEW)
    assert told.unfit == []
    assert told.why("p1") is None


def test_an_engine_counts_once_all_its_ranks_are_there() -> None:
    told = Told()
    first = msgspec.structs.replace(OLD, tp_size=2)
    second = msgspec.structs.replace(first, tp_rank=1)
    told.layouts.registered("w2-a", [RegisteredRank("d2", 1, first)])
    assert not told.layouts.is_whole("d2")
    assert told.layouts.parts("d2") == 2
    both = [RegisteredRank("d2", 1, first), RegisteredRank("d2", 2, second)]
    told.layouts.registered("w2-a", both)
    assert told.layouts.is_whole("d2")
    assert told.layouts.any_decodes()
    told.layouts.registered("w2-a", both[1:])
    assert not told.layouts.is_whole("d2")


def test_an_engine_that_another_agent_claims_is_not_taken_from_its_own() -> None:
    told = Told()
    told.register("w1-a", d2=NEW)
    assert not told.layouts.is_whole("d2")


def test_many_engines_are_named_in_few_words() -> None:
    assert named(("a", "b")) == "a, b"
    assert named(tuple("abcdef")) == "a, b, c, d and 2 more"


def test_an_agent_takes_no_engine_from_another() -> None:
    told = Told()
    told.register("w2-a", d2=OLD)
    told.register("w1-a", q1=OLD, d1=OLD)
    lie = [RegisteredRank("d2", pid, NEW) for pid in (7, 8)]
    assert told.layouts.registered("e1-a", [RegisteredRank("p1", 1, OLD), lie[0]]) == set()
    assert told.layouts.registered("e1-a", [RegisteredRank("p1", 1, OLD), lie[1]]) == set()
    told.register("e1-a", p1=OLD)
    assert told.layouts.is_whole("d2")
    assert told.layouts.layout("d2") == OLD


def test_ranks_that_are_not_one_engines_are_not_taken_for_its() -> None:
    told = Told()
    four = msgspec.structs.replace(OLD, tp_size=4)
    beyond = msgspec.structs.replace(OLD, tp_rank=1)
    ranks = [RegisteredRank("d2", 1, layout) for layout in (OLD, four, beyond)]
    told.layouts.registered("w2-a", ranks)
    assert told.layouts.is_whole("d2")
    assert told.layouts.parts("d2") == 1


def test_a_layout_larger_than_any_models_is_none() -> None:
    told = Told()
    told.register("w2-a", d2=msgspec.structs.replace(OLD, model="m" * MAX_LAYOUT_BYTES))
    assert not told.layouts.is_whole("d2")
    assert not told.known
    told.register("w2-a", d2=OLD)
    assert told.layouts.is_whole("d2")


def test_an_engine_that_moves_to_another_machine_is_its_agents() -> None:
    told = Told()
    told.register("w1-a", q1=OLD, d1=OLD)
    told.register("w2-a", d2=OLD, d1=NEW)
    clusters = [
        msgspec.structs.replace(
            cluster,
            engines=tuple(
                msgspec.structs.replace(engine, agent="w2-a", machine="w2")
                if engine.name == "d1"
                else engine
                for engine in cluster.engines
            ),
        )
        for cluster in told.endpoints.clusters
    ]
    told.endpoints.become(Endpoints(tuple(clusters), told.endpoints.lines))
    told.layouts.reshaped()
    assert told.layouts.layout("d1") == NEW
    told.register("w1-a", q1=OLD)
    assert told.layouts.layout("d1") == NEW


def test_of_layouts_that_are_gone_nothing_is_kept() -> None:
    told = Told()
    told.register("w1-a", d1=OLD)
    for size in range(1, 50):
        told.register("e1-a", p1=mock_layout(page_bytes=64 * size))
    assert len(told.layouts._compared) == 1


def test_what_differs_is_told_in_few_words() -> None:
    told = Told()
    told.register("w1-a", d1=OLD)
    told.register("e1-a", p1=msgspec.structs.replace(OLD, model="m" * 100_000))
    (mismatch,) = told.layouts.mismatches()
    assert len(str(mismatch)) < 1200
