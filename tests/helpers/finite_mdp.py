"""A finite MDP whose occupancies are known exactly, for every deterministic policy at once."""

import itertools

import numpy as np


class FiniteMDP:
    """Random transitions P[s, a, s'] and first states; a policy is (S, A) with rows that sum to 1."""

    def __init__(self, n_states: int, n_actions: int, discount: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.transitions = generator.dirichlet(np.ones(n_states), (n_states, n_actions))
        self.first = generator.dirichlet(np.ones(n_states))
        self.discount, self.shape = discount, (n_states, n_actions)
        choices = itertools.product(range(n_actions), repeat=n_states)
        self.deterministic = np.stack([self.occupancy(np.eye(n_actions)[list(choice)]) for choice in choices])
        """Occupancies of all A^S deterministic policies, (A^S, S A)."""

    def occupancy(self, policy: np.ndarray) -> np.ndarray:
        """d(s, a) = (1 - gamma) sum_t gamma^t P(s_t = s, a_t = a), (S A,), from d = (1 - gamma) first + gamma P' d."""
        n_states = self.shape[0]
        step = np.einsum("sa,sat->st", policy, self.transitions)
        states = np.linalg.solve(np.eye(n_states) - self.discount * step.T, (1 - self.discount) * self.first)
        return (states[:, None] * policy).reshape(-1)

    def best_response(self, reward: np.ndarray) -> np.ndarray:
        """The occupancy with the largest return of ``reward`` (S A,): some deterministic policy has it."""
        return self.deterministic[np.argmax(self.deterministic @ reward)]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats, all entries positive."""
    return float(np.sum(p * np.log(p / q)))
