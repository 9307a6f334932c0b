"""Beyond the paper: the fluid optimum when PD nodes share prefill and decode."""

from __future__ import annotations

from benchmarks.figures.cells import Cell, Reproduction
from benchmarks.figures.table6.reproduce import SCENARIO

from prfaas.planner.compare import elastic_bound, two_clusters
from prfaas.planner.scenario import load_scenario


def reproduce() -> Reproduction:
    scenario = load_scenario(SCENARIO)
    bound = elastic_bound(scenario)
    whole = two_clusters(scenario).best(4, 8, "exact")
    return Reproduction(
        "elastic_bound",
        "Elastic roles: the bound for every policy on the paper's hardware",
        "A linear program over length buckets in which a PD node may prefill and decode in any "
        "proportion, with exact expectations. 'Whole nodes' is the best "
        "split into prefill and decode nodes in the same model.",
        [
            Cell("Lambda_max, req/s", whole.lambda_max, bound.lambda_max, None),
            Cell("upper bound by weak duality, req/s", whole.lambda_max, bound.upper_bound, None),
            Cell("N_p of 8", whole.n_p, bound.prefill_nodes["west"], None, 0),
            Cell("t, tokens", whole.threshold_tokens or 0, bound.threshold_tokens or 0, None, -2),
        ],
        reference="whole nodes",
        remarks=[
            f"The routing collapses to one threshold at {bound.threshold_tokens:,.0f} tokens.",
            "The H20 profile is a fit.",
        ],
    )
