"""The search rule, by name or chosen by the number of dimensions and the noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd import parallel
from rlopt.agents.zo_ranksgd.bayes import PreferentialBO
from rlopt.agents.zo_ranksgd.evolution import (
    ElitistCMAES,
    EvolutionStrategy,
    MirroredCMAES,
    OnePlusLambda,
    RankedCMAES,
)
from rlopt.agents.zo_ranksgd.optimizer import ZORankSGD
from rlopt.agents.zo_ranksgd.parallel import ParallelSearch

RankedSearch = ZORankSGD | EvolutionStrategy
_STRATEGIES: dict[str, type[EvolutionStrategy]] = {
    kind.method: kind for kind in (RankedCMAES, MirroredCMAES, ElitistCMAES, OnePlusLambda, PreferentialBO)
}
TITLES = {
    "zo_ranksgd": "ZO-RankSGD",
    "cmaes": "CMA-ES",
    "mirrored_cmaes": "mirrored CMA-ES",
    "elitist_cmaes": "elitist mirrored CMA-ES",
    "one_plus_lambda": "the (1 + lambda)-ES",
    "bayes": "preferential Bayesian optimisation",
}
MOST_OF_CMAES = 2000
"""Dimensions up to which CMA-ES is chosen for exact rankings; with more the two have not been compared."""
MOST_OF_CMAES_FOR_PEOPLE = 100
"""The same for answers that err, of which there are few: see docs/results/searches.md."""
MOST_WITH_ELITE, LEAST_WITH_ELITE = 10, 6
"""Dimensions up to which, and candidates from which on, two of the candidates are the mean and the elite, if
rankings are exact."""


def choose(dimension: int, noisy: bool, m: int) -> tuple[str, str]:
    """The search rule for this number of dimensions, and the reason.

    :param dimension: number of searched dimensions
    :param noisy: whether answers may err, as a person's do
    :param m: candidates of a query
    """
    answers = "answers of people" if noisy else "exact rankings"
    if dimension > (MOST_OF_CMAES_FOR_PEOPLE if noisy else MOST_OF_CMAES):
        name = "zo_ranksgd"
    elif noisy or dimension > MOST_WITH_ELITE or m < LEAST_WITH_ELITE:
        name = "mirrored_cmaes"
    else:
        name = "elitist_cmaes"
    return name, f"{TITLES[name]}, for {dimension} dimensions and {answers}"


def make_search(
    name: str, initial: np.ndarray, settings: dict[str, Any], *, seed: int | None, noisy: bool = False
) -> tuple[RankedSearch, str]:
    """A search, and a few words on which it is.

    :param name: zo_ranksgd, a strategy's ``method``, or auto for :func:`choose`
    :param settings: settings of :class:`rlopt.agents.zo_ranksgd.config.SearchConfig`; evolution strategies take ``m``,
        ``k``, ``smoothing`` and ``subspace`` of them
    :param noisy: see :func:`choose`
    """
    words = TITLES.get(name, name)
    if name == "auto":
        subspace = settings["subspace"]
        dimension = len(initial) if subspace is None else int(np.atleast_2d(subspace).shape[-1])
        name, words = choose(subspace if isinstance(subspace, int) else dimension, noisy, settings["m"])
    if name == "zo_ranksgd":
        return ZORankSGD(initial, seed=seed, **settings), words
    own = {key: settings[key] for key in ("m", "k", "smoothing", "subspace")}
    return _STRATEGIES[name](initial, seed=seed, **own), words


def search_of_state(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> RankedSearch | ParallelSearch:
    """A new search with the settings that a state was saved with.

    :raises KeyError: it is malformed, as for ``TypeError`` and ``ValueError``
    """
    if state.get("format") == parallel.FORMAT:
        prefix = "search."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        inner: Any = search_of_state(state["search"], own)
        return ParallelSearch(inner, state["rounds"], state["ahead"])
    settings = dict(state["settings"])
    dimension, subspace = settings.pop("dimension"), settings.pop("subspace")
    basis = None if subspace is None else np.asarray(arrays["basis"], np.float64)
    kind: Any = ZORankSGD if "method" not in state else _STRATEGIES[state["method"]]
    made: RankedSearch = kind(np.zeros(int(dimension)), subspace=basis, **settings)
    return made
