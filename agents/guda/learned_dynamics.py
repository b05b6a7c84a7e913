"""A baseline with learned dynamics: states and actions put together from independent parts, successors from a model.

In the spirit of MoCoDA (Pitis et al., NeurIPS 2022), whose local factors are learned there and given by the domain
here, but not that code. Unlike GuDA's, its transitions are only as good as the model.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rlopt.agents.guda.augmentations import Augmentation, Parameters
from rlopt.agents.guda.batch import Batch
from rlopt.agents.guda.domains import Domain
from rlopt.agents.guda.generation import augment
from rlopt.agents.guda.losses import bounded_log_std, gaussian_loss
from rlopt.data.dataset import Dataset
from rlopt.errors import AugmentationError, ConfigError, NonFiniteError
from rlopt.nn.stacked import Layer, mlp

LAYERS: list[Layer] = [None, nn.SiLU(), None, nn.SiLU(), None]
MIN_TRANSITIONS = 32
"""Fewer usable transitions are no basis for a model."""


@dataclass(frozen=True)
class ModelSettings:
    """How the model is fitted."""

    members: int = 5
    """Networks of the ensemble, from 2."""
    width: int = 64
    """Units of the two hidden layers, from 1."""
    steps: int = 3000
    """Gradient steps (Adam), from 1."""
    batch_size: int = 256
    """Transitions of a step, drawn for each member, from 1."""
    learning_rate: float = 1e-3
    """Adam's step size, above 0; it falls linearly to 0."""
    action_noise: float = 0.1
    """Standard deviation of the noise on augmented actions, in units of the action, >= 0."""
    disagreement: float = 0.99
    """Predictions are kept if the members disagree no more than they do on that share of the data, in (0, 1]."""

    def __post_init__(self) -> None:
        lowest = {"members": 2, "width": 1, "steps": 1, "batch_size": 1, "learning_rate": 0, "action_noise": 0}
        for name, bound in lowest.items():
            if not getattr(self, name) >= bound:
                raise ConfigError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        if not 0 < self.disagreement <= 1:
            raise ConfigError(f"disagreement must be in (0, 1], got {self.disagreement}")


class DynamicsModel:
    """An ensemble of networks that predict how a state changes in one step.

    :param observations: [n, d] float32: the states fitted to
    :param actions: [n, a] float32
    :param next_observations: [n, d] float32
    :param columns: columns of the observation that the model predicts; the others do not change
    :param seed: seed of initial weights and batches
    :raises NonFiniteError: the fit diverged
    """

    def __init__(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        next_observations: np.ndarray,
        columns: list[int],
        settings: ModelSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.columns, self.settings, self.device = columns, settings, device
        self._generator = torch.Generator(device).manual_seed(seed)
        inputs = self._tensor(np.concatenate((observations[:, columns], actions), axis=1))
        change = self._tensor(next_observations[:, columns]) - self._tensor(observations[:, columns])
        self._input_mean, self._input_std = inputs.mean(dim=0), inputs.std(dim=0).clamp(min=1e-6)
        self._mean, self._std = change.mean(dim=0), change.std(dim=0).clamp(min=1e-6)
        self.parameters = self._initial(inputs.shape[1], 2 * len(columns))
        self._fit((inputs - self._input_mean) / self._input_std, (change - self._mean) / self._std)

    def predict(self, observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Successors and the members' disagreement about them.

        :returns: [n, d] like ``observations``: the members' mean; [n]: the largest standard deviation over the members
            of any column's normalised change
        """
        inputs = self._tensor(np.concatenate((observations[:, self.columns], actions), axis=1))
        with torch.no_grad():
            mean, _ = self._forward((inputs - self._input_mean) / self._input_std)
            change = (mean.mean(dim=0) * self._std + self._mean).cpu().numpy()
            spread = mean.std(dim=0).amax(dim=-1).cpu().numpy()
        following = observations.copy()
        following[:, self.columns] += change
        return following, spread

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(array, np.float32), device=self.device)

    def _initial(self, n_inputs: int, n_outputs: int) -> list[Tensor]:
        """Weights and biases of all members, uniform within 1 / sqrt(inputs) as torch's linear layers."""
        width = self.settings.width
        made: list[Tensor] = []
        for fan_in, fan_out in ((n_inputs, width), (width, width), (width, n_outputs)):
            for shape in ((fan_out, fan_in), (fan_out,)):
                draws = torch.rand(self.settings.members, *shape, generator=self._generator, device=self.device)
                made.append(((2 * draws - 1) / math.sqrt(fan_in)).requires_grad_())
        return made

    def _forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations [E, B, D] for inputs [B, I] or [E, B, I]."""
        if inputs.dim() == 2:
            inputs = inputs.expand(self.settings.members, *inputs.shape)
        mean, raw = mlp(LAYERS, self.parameters, inputs).chunk(2, dim=-1)
        return mean, bounded_log_std(raw)

    def _fit(self, inputs: Tensor, targets: Tensor) -> None:
        settings = self.settings
        optimizer = torch.optim.Adam(self.parameters, settings.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-2, settings.steps)
        shape = (settings.members, min(settings.batch_size, len(inputs)))
        for _ in range(settings.steps):
            rows = torch.randint(len(inputs), shape, generator=self._generator, device=self.device)
            loss, _ = gaussian_loss(*self._forward(inputs[rows]), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if not torch.isfinite(loss):
            raise NonFiniteError(
                "the dynamics model diverged: lower its learning rate, or look for outliers in the data"
            )


class LearnedDynamics(Augmentation):
    """An augmentation by a model fitted to a data set: recombined parts, noisy actions, predicted successors.

    For each new transition the first factor of the state and action comes from the row itself and every other one from
    another usable row, ``partner``; noise is added to the action; the model predicts the successor. Transitions that
    touch a wall, or on which the members disagree, are not valid.
    :func:`rlopt.agents.guda.dynamics_check.check_dynamics` measures the model's error in the simulator.

    :param dataset: data to which the model is fitted, and whose parts it recombines
    :param domain: one with ``factors``
    :raises AugmentationError: a domain without factors, or hardly any usable transition
    :raises NonFiniteError: the fit diverged
    """

    def __init__(
        self,
        dataset: Dataset,
        domain: Domain,
        settings: ModelSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if not domain.factors:
            raise AugmentationError(f"the domain {domain.name} names no independent parts to recombine: use guda")
        domain.check(dataset)
        self.domain, self.operations, self.anchor = domain, (), "first"
        self.settings = ModelSettings() if settings is None else settings
        flat = domain.flat(dataset.observations)
        following = domain.flat(dataset.next_observations)
        whole = Batch(flat, dataset.actions, dataset.rewards, following, dataset.discounts)
        rows = np.flatnonzero(domain.usable(whole))
        if len(rows) < MIN_TRANSITIONS:
            raise AugmentationError(
                f"{len(rows)} usable transitions are too few to fit a model ({MIN_TRANSITIONS} are needed): "
                f"{domain.unusable_because}"
            )
        self.rows, self._observations, self._actions = rows, flat, dataset.actions
        self._low, self._high = dataset.actions.min(axis=0), dataset.actions.max(axis=0)
        columns = sorted(column for factor in domain.factors for column in factor[0])
        self.model = DynamicsModel(
            flat[rows], dataset.actions[rows], following[rows], columns, self.settings, seed, device
        )
        spread = self.model.predict(flat[rows], dataset.actions[rows])[1]
        self._threshold = float(np.quantile(spread, self.settings.disagreement))

    def __str__(self) -> str:
        return f"{self.domain.name}: learned dynamics"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("partner", "action_noise")

    @property
    def inexact_because(self) -> str | None:
        return "a fitted model predicts the successors"

    def sample(self, batch: Batch, generator: np.random.Generator) -> Parameters:
        """Partner rows [S, factors - 1] int64 of the data set, and noise on the action [S, a] float32."""
        count = batch.n_segments
        which = generator.integers(0, len(self.rows), (count, len(self.domain.factors) - 1))
        noise = generator.standard_normal((count, batch.actions.shape[1]), dtype=np.float32)
        return {"partner": self.rows[which], "action_noise": noise * np.float32(self.settings.action_noise)}

    def apply(self, batch: Batch, parameters: Parameters) -> tuple[Batch, np.ndarray]:
        """Recombines and predicts; single transitions only."""
        self._check(batch, parameters)
        if batch.starts is not None:
            raise AugmentationError("the model predicts single transitions: use segment_length=1")
        observations, actions = batch.observations.copy(), batch.actions.copy()
        for index, (states, forces) in enumerate(self.domain.factors[1:]):
            partners = parameters["partner"][:, index]
            observations[:, list(states)] = self._observations[partners][:, list(states)]
            actions[:, list(forces)] = self._actions[partners][:, list(forces)]
        actions = np.clip(actions + parameters["action_noise"], self._low, self._high).astype(batch.actions.dtype)
        following, spread = self.model.predict(observations, actions)
        moved = Batch(observations, actions, batch.rewards, following, batch.discounts)
        moved.rewards, moved.discounts = self.domain.outcome(moved)
        return moved, self.domain.valid(moved) & (spread <= self._threshold)


def augment_with_model(
    dataset: Dataset,
    domain: Domain,
    n: int = 1_000_000,
    seed: int = 0,
    settings: ModelSettings | None = None,
    device: str = "cpu",
) -> Dataset:
    """Fits a model to a data set and makes ``n`` transitions with it; raises as :class:`LearnedDynamics` does."""
    return augment(dataset, LearnedDynamics(dataset, domain, settings, seed, device), None, n, seed)
