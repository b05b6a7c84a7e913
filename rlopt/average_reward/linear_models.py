"""Finite processes with linear structure: linear (features of pairs) and linear mixture (weights of kernels)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlopt.average_reward.mdp import Array, FiniteMDP
from rlopt.errors import ModelError

MAX_FEATURE_NORM = float(np.sqrt(2))
"""Largest Euclidean norm of a feature vector (Wei, Jafarnia-Jahromi, Luo and Jain 2021, assumption 1)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMDP(FiniteMDP):
    """P(t | s, a) = features(s, a) . measures(:, t) and r(s, a) = features(s, a) . reward_weights."""

    features: Array
    """[S, A, d], each of norm at most sqrt 2."""
    measures: Array
    """[d, S]."""
    reward_weights: Array
    """[d]."""

    @classmethod
    def of(
        cls,
        features: npt.ArrayLike,
        measures: npt.ArrayLike,
        reward_weights: npt.ArrayLike,
        reward_range: tuple[float, float] | None = None,
    ) -> LinearMDP:
        """Multiplies the process out.

        :raises ModelError: shapes that do not fit, a feature vector of norm above sqrt 2, or a product that is none
        """
        phi, mu, theta = (np.array(array, np.float64) for array in (features, measures, reward_weights))
        if phi.ndim != 3 or mu.shape != (phi.shape[2], phi.shape[0]) or theta.shape != (phi.shape[2],):
            raise ModelError(
                f"features {phi.shape}, measures {mu.shape} and reward_weights {theta.shape} do not fit: give "
                "[S, A, d], [d, S] and [d]"
            )
        check_feature_norms(phi)
        for array in (phi, mu, theta):
            array.setflags(write=False)
        return cls(phi @ mu, phi @ theta, reward_range, features=phi, measures=mu, reward_weights=theta)


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMixtureMDP(FiniteMDP):
    """P = sum_k weights(k) kernels(k), with known kernels and unknown weights (Wu, Zhou and Gu 2022)."""

    kernels: Array
    """[d, S, A, S], each a transition kernel."""
    weights: Array
    """[d] >= 0, summing up to 1."""

    @classmethod
    def of(
        cls,
        kernels: npt.ArrayLike,
        weights: npt.ArrayLike,
        rewards: npt.ArrayLike,
        reward_range: tuple[float, float] | None = None,
    ) -> LinearMixtureMDP:
        """Mixes the kernels.

        :raises ModelError: shapes that do not fit, a kernel that is none, or weights that are not a distribution
        """
        bases, shares = np.array(kernels, np.float64), np.array(weights, np.float64)
        if bases.ndim != 4 or shares.shape != (len(bases),):
            raise ModelError(f"kernels {bases.shape} and weights {shares.shape} do not fit: give [d, S, A, S] and [d]")
        if shares.min() < 0 or abs(shares.sum() - 1) > 1e-9:
            raise ModelError(f"the weights {shares} are not a distribution: make them at least 0 with the sum 1")
        for base in bases:
            FiniteMDP(base, rewards, reward_range)  # type: ignore[arg-type]
        for array in (bases, shares):
            array.setflags(write=False)
        mixed = np.tensordot(shares, bases, 1)
        return cls(mixed, rewards, reward_range, kernels=bases, weights=shares)  # type: ignore[arg-type]


def check_feature_norms(features: Array) -> None:
    """Raises :class:`rlopt.errors.ModelError` for a feature vector (last axis) that is not finite or too long."""
    if not np.all(np.isfinite(features)):
        raise ModelError("the features hold a NaN or an infinity: correct the feature map")
    norm = float(np.linalg.norm(features, axis=-1).max())
    if norm > MAX_FEATURE_NORM * (1 + 1e-9):
        raise ModelError(
            f"a feature vector has norm {norm:.4g}, above sqrt 2: divide the features by {norm / MAX_FEATURE_NORM:.4g} "
            "or more"
        )
