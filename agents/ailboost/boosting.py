"""Weak learners: snapshots of the policy at the end of each round, and the mixture of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlopt.errors import CheckpointError
from rlopt.storage.tree import Tree


class WeakLearners:
    """Deep copies of an actor's parameters and buffers, in host memory, by the learner's id."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def add(self, learner: int, actor: nn.Module) -> None:
        """Keeps what ``actor`` is now; later updates of it do not change the copy."""
        self._states[learner] = {name: value.detach().cpu().clone() for name, value in actor.state_dict().items()}

    def keep(self, learners: Iterable[int]) -> None:
        """Drops all but these."""
        wanted = set(learners)
        self._states = {learner: state for learner, state in self._states.items() if learner in wanted}

    def parameters(self, learner: int) -> dict[str, Tensor]:
        """The tensors of a learner by name, not to be written to."""
        return self._states[learner]

    @torch.no_grad()
    def act(self, learner: int, actor: nn.Module, observations: Tensor, deterministic: bool) -> Tensor:
        """The learner's actions (N, A) in [-1, 1] for observations (N, ...), on their device.

        :param actor: gives the architecture; it is not changed
        """
        state = {name: value.to(observations.device) for name, value in self._states[learner].items()}
        actions: Tensor = functional_call(actor, state, (observations, deterministic))
        return actions

    def get_state(self) -> dict[str, Tree]:
        """All tensors as numpy arrays, by learner and name."""
        return {
            str(learner): {name: value.numpy() for name, value in state.items()}
            for learner, state in self._states.items()
        }

    def check_state(self, state: Tree, learners: Iterable[int], actor: nn.Module) -> None:
        """Raises :class:`rlopt.errors.CheckpointError` unless ``state`` holds these learners, of networks like this."""
        own = {name: (tuple(value.shape), value.cpu().numpy().dtype) for name, value in actor.state_dict().items()}
        valid = isinstance(state, Mapping) and set(state) == {str(learner) for learner in learners}
        for tensors in state.values() if valid else []:
            shapes = {name: (getattr(v, "shape", None), getattr(v, "dtype", None)) for name, v in tensors.items()}
            valid = valid and shapes == own and all(np.isfinite(v).all() for v in tensors.values())
        if not valid:
            raise CheckpointError("the checkpoint's weak learners are malformed: use an older checkpoint")

    def set_state(self, state: Tree) -> None:
        """Takes what :meth:`get_state` gave and :meth:`check_state` accepted."""
        self._states = {
            int(learner): {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
            for learner, tensors in state.items()
        }


class Mixture:
    """The boosted policy: one weak learner, drawn by weight at the start of an episode, acts to its end.

    It has what :func:`rlopt.evaluate` needs of a model.

    :param model: an :class:`rlopt.AILBoost`; the mixture follows its training
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.observation_space, self.action_space = model.observation_space, model.action_space
        self.policy = model.policy

    @property
    def env(self) -> Any:
        """The environment that the model is trained in, if any."""
        return self._model.env

    @property
    def wrapper_statistics(self) -> Any:
        """As the model's."""
        return self._model.wrapper_statistics

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As :meth:`rlopt.AILBoost.predict` with ``policy="mixture"``."""
        actions: tuple[np.ndarray, Any] = self._model.predict(
            observation, state, episode_start, deterministic, policy="mixture"
        )
        return actions


def draw_learners(
    learner_ids: list[int], weights: np.ndarray, running: np.ndarray | None, starts: np.ndarray
) -> np.ndarray:
    """Who acts in each of N environments, (N,) int64: drawn again by ``weights`` where ``starts``, as before elsewhere.

    Draws from numpy's global generator. A learner who was dropped in the middle of an episode is replaced.

    :param running: (N,) ids so far, or None to draw all
    """
    drawn = np.array(learner_ids)[np.random.choice(len(learner_ids), size=len(starts), p=weights)]
    if running is None or len(running) != len(starts):
        return drawn
    return np.where(starts | ~np.isin(running, learner_ids), drawn, running)


def tensors_of(tree: Tree) -> Any:
    """``tree`` with tensors in place of arrays, as torch reads them back without unpickling objects."""
    if isinstance(tree, Mapping):
        return {name: tensors_of(part) for name, part in tree.items()}
    return torch.from_numpy(tree.copy()) if isinstance(tree, np.ndarray) else tree


def arrays_of(tree: Any) -> Tree:
    """The inverse of :func:`tensors_of`."""
    if isinstance(tree, Mapping):
        return {name: arrays_of(part) for name, part in tree.items()}
    return tree.cpu().numpy() if isinstance(tree, Tensor) else tree
