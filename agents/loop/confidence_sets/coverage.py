"""Whether the true process is in an agent's confidence set, if the environment knows its exact process."""

from typing import Any, NamedTuple

import numpy as np

from rlopt.agents.loop.confidence_sets.anytime import AnytimeSet
from rlopt.agents.loop.confidence_sets.barrier import log_likelihood, most_likely
from rlopt.agents.loop.confidence_sets.likelihood import TabularLikelihood, divergence
from rlopt.agents.loop.confidence_sets.linear import LinearSet
from rlopt.agents.loop.confidence_sets.mixture import MixtureLikelihood
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.loop.losses import pair_errors, tabular_discrepancy
from rlopt.average_reward.mdp import FiniteMDP
from rlopt.errors import ConfigError


class Coverage(NamedTuple):
    """Where the truth lies."""

    covered: bool
    discrepancy: float
    """The true hypothesis's: L_D(f*, f*) - min_g L_D(f*, g), or how far its log likelihood is below the largest; with
    LOOP's procedure anytime the largest share of its radius that a pair is at."""
    beta: float


def coverage(agent: Any, mdp: FiniteMDP) -> Coverage:
    """Whether f* is in the confidence set of an agent of :class:`rlopt.LOOP`, ``LinearLOOP``, FOPO or ``MLELOOP``.

    :param mdp: the exact process, over the same states
    :raises ConfigError: an agent that has learnt nothing yet, or without a confidence set
    """
    data = getattr(agent, "data", None)
    if isinstance(data, AnytimeSet):
        values = mdp.solution.values
        apart = data.divergence(values + mdp.gain, values.max(axis=1))
        found = float((apart / data.radii).max())
    elif isinstance(data, TabularSet):
        targets, values = mdp.solution.values + mdp.gain, mdp.solution.values.max(axis=1)
        errors = pair_errors(targets, data.counts, data.reward_sums, data.transitions, values)
        found = tabular_discrepancy(errors, data.counts)
    elif isinstance(data, LinearSet):
        found = _linear(agent, data, mdp)
    elif isinstance(data, TabularLikelihood):
        seen = data.model.counts > 0
        found = float(np.sum(data.model.counts[seen] * divergence(data.model.kernel()[seen], mdp.P[seen])))
    elif isinstance(data, MixtureLikelihood):
        densities, counts = data.transition_densities()
        start = np.full(data.dimension, 1.0 / data.dimension)
        largest = log_likelihood(most_likely(start, densities, counts, 1e-6), densities, counts)
        truth = getattr(mdp, "weights", None)
        if truth is None or len(truth) != data.dimension:
            raise ConfigError("the process has no weights of these kernels: give a LinearMixtureMDP of them")
        found = largest - log_likelihood(truth, densities, counts)
    else:
        raise ConfigError(f"a {type(agent).__name__} has no confidence set, or has not learnt yet")
    return Coverage(found <= agent.beta, found, agent.beta)


def _linear(agent: Any, data: LinearSet, mdp: FiniteMDP) -> float:
    """The squared distance of Q* + J* on the data from the regression of r + V*(s')."""
    state_of = np.empty(data.n_states, np.int64)
    for state, row in agent._rows.items():
        state_of[row] = state
    log = data.log()
    values = mdp.solution.values
    targets = (values + mdp.gain)[state_of[log.start], log.actions]
    regressand = log.rewards + values.max(axis=1)[state_of[log.end]]
    gram = log.features.T @ log.features + data.ridge * np.eye(data.dimension)
    fitted = log.features @ np.linalg.solve(gram, log.features.T @ regressand)
    return float(np.sum((targets - fitted) ** 2))
