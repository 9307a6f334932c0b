"""The linear program of a fluid optimum: how many requests of each bucket go over each route.

Theory of operation. Column b * R + r is the rate of bucket b on route r; the last column is
lambda. A route takes of a cluster or two and a line, so the matrix is sparse: three or four entries
a column. (Generating columns by their reduced costs was tried. A fleet's program needs half of them
and five to ten rounds, which takes longer than solving it once.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import OptimizeResult, linprog
from scipy.sparse import csr_array, hstack, vstack

from prfaas.core.errors import ConfigError
from prfaas.models.interpolation import FloatArray
from prfaas.planner.buckets import Buckets
from prfaas.planner.routes import Resource


class Program:
    """What is used and what must balance.

    Attributes:
        usage: share of each resource's capacity that a request per second of each column takes:
            shape (resources, columns); lambda takes nothing. Scaled to capacities of 1, because
            bytes and seconds differ by ten orders of magnitude.
        balance: every bucket's rates add up to its share of lambda: shape (buckets, columns), equal
            to 0.
    """

    def __init__(self, resources: Sequence[Resource], buckets: Buckets, route_count: int) -> None:
        self._shape = (buckets.share.size, route_count)
        self._resources = resources
        size = self.lambda_column
        self.usage = _usage(resources, buckets, route_count)
        bucket_of = np.repeat(np.arange(self._shape[0]), route_count)
        ones = csr_array((np.ones(size), (bucket_of, np.arange(size))))
        self.balance = hstack([ones, csr_array(-buckets.share[:, None])], format="csr")

    @property
    def lambda_column(self) -> int:
        """The last column."""
        return self._shape[0] * self._shape[1]

    def most(self) -> FloatArray:
        """Costs of the columns whose minimum is the largest lambda."""
        costs = np.zeros(self.lambda_column + 1)
        costs[-1] = -1.0
        return costs

    def solve(self) -> tuple[FloatArray, FloatArray]:
        """Requests per second by bucket and route, and the price of each resource's full capacity.

        Among the routings that reach the optimum, the one with the fewest bytes on lines.
        Raises ConfigError where the clusters cannot serve the demand.
        """
        limits, zeros = np.ones(len(self._resources)), np.zeros(self._shape[0])
        solved = _checked(
            linprog(self.most(), A_ub=self.usage, b_ub=limits, A_eq=self.balance, b_eq=zeros)
        )
        prices = np.maximum(-solved.ineqlin.marginals, 0.0)
        lines = [k for k, resource in enumerate(self._resources) if resource.is_line]
        if lines:
            rates = np.array([self._resources[k].capacity for k in lines])
            sent = self.usage[lines].T @ (rates / rates.max())
            as_many = csr_array(([1.0], ([0], [self.lambda_column])), shape=(1, sent.size))
            solved = _checked(
                linprog(
                    sent,
                    A_ub=vstack([self.usage, -as_many], format="csr"),
                    b_ub=np.concatenate((limits, [-solved.x[-1] * (1 - 1e-9)])),
                    A_eq=self.balance,
                    b_eq=zeros,
                )
            )
        return np.reshape(solved.x[:-1], self._shape), prices

    def used(self, rates: FloatArray) -> FloatArray:
        """Share of every resource that ``rates`` of shape (buckets, routes) use."""
        return np.asarray(self.usage @ np.append(rates.ravel(), 0.0))


def _usage(resources: Sequence[Resource], buckets: Buckets, route_count: int) -> csr_array:
    first_columns = np.arange(buckets.share.size) * route_count
    values, rows, columns = [], [], []
    for row, resource in enumerate(resources):
        for number, function in resource.use.items():
            values.append(buckets.mean(function) / resource.capacity)
            rows.append(np.full(first_columns.size, row))
            columns.append(first_columns + number)
    places = (np.concatenate(rows), np.concatenate(columns))
    shape = (len(resources), buckets.share.size * route_count + 1)
    return csr_array((np.concatenate(values), places), shape=shape)


def _checked(result: OptimizeResult) -> OptimizeResult:
    if not result.success:
        raise ConfigError(f"the clusters cannot serve this workload: {result.message}")
    return result
