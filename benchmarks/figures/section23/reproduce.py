"""Section 2.3 by equation (2): the line that a large prefill cluster fills."""

from __future__ import annotations

from benchmarks.figures.cells import Cell, Reproduction, printed

from prfaas.core.units import parse_tokens
from prfaas.models.geometry.models import load_model
from prfaas.models.profiles import load_profile
from prfaas.planner.equations import required_egress


def reproduce() -> Reproduction:
    cells = []
    for name, gpus, tokens, gbps, digits in printed("section23")["rows"]:
        profile = load_profile(name)
        assert profile.model is not None
        length = parse_tokens(tokens)
        size = load_model(profile.model).kv_size(state_dtype="float32").bytes(length)
        seconds = profile.prefill_or_refuse.seconds(length)
        egress = required_egress(gpus / profile.gpus, size, seconds) * 8 / 1e9
        cells.append(
            Cell(f"{profile.model}, {gpus} GPUs, {tokens}, Gbps", gbps, egress, 0.02, digits)
        )
    return Reproduction(
        "section23",
        "Section 2.3: egress of a prefill cluster",
        "Equation (2) with the profiles of Table 3. The paper prints two digits (170 Gbps for "
        "165.8): a value that rounds to the printed one is in tolerance.",
        cells,
    )
