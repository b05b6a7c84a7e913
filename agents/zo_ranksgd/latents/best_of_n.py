"""The baseline of a latent search: the best of N random latents, chosen by the same oracle."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd import saving
from rlopt.agents.zo_ranksgd.latents.geometry import Array, LatentSpace
from rlopt.agents.zo_ranksgd.optimizer import Query
from rlopt.errors import AnswerError, CheckpointError, ConfigError
from rlopt.feedback.ranking import Ranking, total_weights
from rlopt.state.generator import capture, restore


class BestOfN:
    """Keeps the best latent so far, and asks for the best of it and of ``n`` new ones; asked and told as the search is.

    :param space: where latents are drawn, and their norm
    :param n: new latents a query
    """

    def __init__(self, space: LatentSpace, *, n: int = 8, seed: int = 0) -> None:
        if n < 1:
            raise ConfigError(f"n is {n}: draw 1 or more latents a query")
        self._space = space
        self._n = n
        self._rng = np.random.default_rng([seed, 3])
        self._best: Array | None = None
        self._query: Query | None = None
        self.iteration = 0
        self.drawn = 0
        """N: latents drawn in all queries answered."""

    @property
    def dimension(self) -> int:
        """``d``, the size of a latent."""
        return self._space.size

    @property
    def point(self) -> Array:
        """The best ``[d]`` so far, the start before the first answer."""
        return self._space.origin.copy() if self._best is None else self._best.copy()

    def ask(self, n: int | None = None) -> Query:
        """The open query, or a new one: the best so far, from the second query on, and ``n`` new latents ``[., d]``.

        :param n: in place of the constructor's, for a new query
        """
        if self._query is None:
            new = self._space.draw(n or self._n, self._rng)
            candidates = new if self._best is None else np.vstack([self._best, new])
            self._query = Query("line_search", self.iteration, candidates, 1, None if self._best is None else 0)
        return self._query

    def tell(self, answer: Ranking | Sequence[Ranking]) -> None:
        """Takes the answer: the candidate best by the sum of edges stays; the earlier one of equal ones.

        :raises rlopt.errors.AnswerError: nothing was asked, or it does not fit
        """
        if self._query is None:
            raise AnswerError("nothing was asked: call ask() first")
        weights, edges = total_weights(answer, len(self._query.candidates))
        if edges or self._best is None:
            self._best = self._query.candidates[int(np.argmin(weights))].copy()
        self.drawn += len(self._query.candidates) - (self._query.current is not None)
        self.iteration += 1
        self._query = None

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that :meth:`load_state_dict` needs to continue exactly: plain JSON, and arrays."""
        state = {"iteration": self.iteration, "drawn": self.drawn, "random": capture(self._rng)}
        state["known"] = self._best is not None
        state["query"] = None if self._query is None else self._query.current is not None
        arrays = {"best": self.point}
        if self._query is not None:
            arrays["candidates"] = self._query.candidates.copy()
        return state, arrays

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Takes what :meth:`state_dict` gave; raises :class:`rlopt.errors.CheckpointError` for anything else."""
        try:
            best = np.array(arrays["best"], np.float64)
            candidates = None if state["query"] is None else np.array(arrays["candidates"], np.float64)
            if best.shape != (self.dimension,) or (candidates is not None and candidates.shape[1:] != best.shape):
                raise ValueError(f"latents of size {best.shape}, not {self.dimension}")
            iteration, drawn, known = int(state["iteration"]), int(state["drawn"]), bool(state["known"])
            restore(self._rng, state["random"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"no state of a best-of-N search ({error}): start it anew") from error
        self.iteration, self.drawn, self._best = iteration, drawn, best if known else None
        self._query = None
        if candidates is not None:
            self._query = Query("line_search", iteration, candidates, 1, 0 if state["query"] else None)

    def digest(self) -> str:
        """SHA-256, in hex, of the whole state."""
        return saving.digest(*self.state_dict())
