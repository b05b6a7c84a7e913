"""Linear systems of chains, solved without a subtraction where they are small and by sparse factors where not."""

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.pairs import Numbers, row_sums, zeros

DENSE_STATES = 500
"""Systems of up to this size are eliminated state by state, larger ones by SuperLU."""


class TransientSystem:
    """(D - Q) x = b for the rates Q [n, n] among states that are all left for good, D their total rates.

    Small systems are eliminated as Grassmann, Taksar and Heyman (1985) do for stationary distributions: the total rate
    of a state is the sum of what is left of its rates, never 1 less something. The factors, and solutions for b >= 0,
    then have a small relative error in every entry, however rarely some states are left.

    :param row: states that entries leave, with ``column`` where they lead and ``rate`` > 0
    :param leak: [n] rates that lead out
    """

    def __init__(self, row: npt.NDArray[np.int64], column: npt.NDArray[np.int64], rate: Numbers, leak: Numbers) -> None:
        self.size, self.exact = len(leak), rate.dtype == object or leak.dtype == object
        self._sparse = self.size > DENSE_STATES and not self.exact
        if self._sparse:
            from scipy.sparse import coo_array  # slow to import
            from scipy.sparse.linalg import splu

            total = row_sums(row, rate, self.size) + leak
            own = np.arange(self.size)
            places = (np.concatenate([row, own]), np.concatenate([column, own]))
            matrix = coo_array((np.concatenate([-rate, total]), places), shape=(self.size, self.size)).tocsc()
            options = {"SymmetricMode": True}
            self._factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
            return
        dense = zeros(self.size * self.size, self.exact).reshape(self.size, self.size)
        np.add.at(dense, (row, column), rate)
        left, total = leak.copy(), zeros(self.size, self.exact)
        for last in range(self.size - 1, -1, -1):
            total[last] = left[last] + dense[last, :last].sum()
            into = np.flatnonzero(dense[:last, last])
            share = dense[into, last] / total[last]
            dense[into, last] = share
            if self.exact:
                out = np.flatnonzero(dense[last, :last])
                if len(into) and len(out):
                    dense[np.ix_(into, out)] += np.outer(share, dense[last, out])
            else:
                dense[into, :last] += np.outer(share, dense[last, :last])
            left[into] += share * left[last]
        self._dense, self._total = dense, total

    def solve(self, source: Numbers) -> Numbers:
        """x [n] for b = ``source`` [n]: what is collected until the states are left, b / D a visit."""
        if self._sparse:
            return np.asarray(self._factors.solve(source))
        found = source.copy()
        for last in range(self.size - 1, -1, -1):
            found[:last] += self._dense[:last, last] * found[last]
        for state in range(self.size):
            found[state] = (found[state] + self._dense[state, :state].dot(found[:state])) / self._total[state]
        return found

    def flow(self, source: Numbers) -> Numbers:
        """x [n] with x (D - Q) = ``source`` [n]: expected time in each state of what comes in at these rates."""
        if self._sparse:
            return np.asarray(self._factors.solve(source, trans="T"))
        found = source.copy()
        for last in range(self.size - 1, -1, -1):
            found[last] = found[last] / self._total[last]
            found[:last] += self._dense[last, :last] * found[last]
        for state in range(1, self.size):
            found[state] += self._dense[:state, state].dot(found[:state])
        return found
