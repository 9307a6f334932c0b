"""Table 5 by equation (1) from the built-in profile."""

from __future__ import annotations

from benchmarks.figures.cells import Cell, Reproduction, printed

from prfaas.core.units import MIB, parse_tokens
from prfaas.models.profiles import load_profile
from prfaas.planner.equations import kv_throughput


def reproduce() -> Reproduction:
    profile = load_profile("paper-1t-h200")
    assert profile.kv is not None
    cells = []
    for tokens, (size_mib, seconds, gbps) in printed("table5")["rows"].items():
        length = parse_tokens(tokens)
        size = profile.kv.bytes(length)
        prefill = profile.prefill_or_refuse.seconds(length)
        phi = kv_throughput(size, prefill) * 8 / 1e9
        cells.append(Cell(f"{tokens} S_kv, MiB", size_mib, size / MIB, 0.02, 1))
        cells.append(Cell(f"{tokens} T_prefill, s", seconds, prefill, 0.02))
        cells.append(Cell(f"{tokens} Phi_kv, Gbps", gbps, phi, 0.02))
    return Reproduction(
        "table5",
        "Table 5: KV throughput of the 1T hybrid model on 8 H200",
        "S_kv(l) = 172 MiB + 16.875 KiB l: 15 MLA layers of 1152 bytes a token, and a constant "
        "recurrent state chosen so that the largest deviation from the table is least. "
        "T_prefill is as printed, Phi_kv by equation (1).",
        cells,
    )
