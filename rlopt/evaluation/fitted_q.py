"""Fitted Q evaluation: what a policy is worth, from recorded data alone (Le et al., arXiv 1903.08738).

Q^pi is fitted to r + gamma Q'(s', pi(s')) on the data; its mean over the states that episodes began in estimates the
policy's discounted return. Gradient steps alone would need about 1 / (tau (1 - gamma)) steps to find the level of Q, so
now and then the level is solved for: a constant is added to Q that makes the mean of r + gamma Q(s', pi(s')) - Q(s, a)
over the data 0, as it is at the solution. The estimate ranks checkpoints of offline learners without an environment
(Paine et al., arXiv 2007.09055): its order is worth more than its numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from torch import Tensor, nn

from rlopt.console.progress import Progress, say
from rlopt.data.checks import check_spaces
from rlopt.data.columns import scaled_actions
from rlopt.data.dataset import Dataset, Observations
from rlopt.data.returns import discounted_returns, first_rows
from rlopt.errors import ConfigError, NonFiniteError, SpaceError
from rlopt.evaluation.evaluate import Predictor
from rlopt.nn.stacked import mlp, mlp_layers

_BATCH = 4096
_LEVELS = 8
"""How often the level of Q is solved for in the first four fifths of the steps."""
_LEVEL_ROWS = 65_536
"""Rows that all but the last solution take; the last takes all, as its error is divided by 1 - gamma."""
_NEAR = 0.1
"""In standard deviations of the data's returns: an estimate that is nearer to where it goes has converged."""


@dataclass(frozen=True)
class FittedValue:
    """An estimate of fitted Q evaluation."""

    value: float
    """Mean of Q(s, pi(s)) over the first states of the data's episodes: the estimated discounted return."""
    spread: float
    """Standard deviation of the same mean among the networks: how far fitting alone moves it."""
    q_value: float
    """Mean of Q(s, a) over the data."""
    data_return: float
    """Mean discounted return of the data from the same first states; of episodes that were cut, as far as recorded."""
    remaining: float
    """How far ``value`` would still move with more steps, extrapolated from the last fifth as the slowest error, which
    decays by tau (1 - gamma) a step, as the target networks follow."""
    converged: bool
    """Whether that is below a tenth of the standard deviation of the data's returns."""
    loss: float
    """Mean squared error of the last tenth of the steps, in units of the data's returns squared."""
    gamma: float
    steps: int

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return asdict(self)


def fitted_q_evaluation(
    policy: Predictor,
    data: Dataset,
    *,
    gamma: float = 0.99,
    steps: int = 10_000,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    tau: float = 0.005,
    net_arch: tuple[int, ...] = (256, 256),
    n_networks: int = 2,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> FittedValue:
    """Fits Q of ``policy``, which takes its most likely actions, on ``data``.

    :param policy: any Stable-Baselines3 model, with its ``observation_space`` and ``action_space``
    :param gamma: discount factor, in [0, 1)
    :param steps: gradient steps
    :param tau: part of the way that the target networks move a step
    :param net_arch: hidden layers, with layer normalisation
    :param n_networks: networks fitted from different initial weights, whose mean is the estimate
    :param progress: show on the console how far it is
    :raises rlopt.errors.ConfigError: gamma out of range
    :raises rlopt.errors.DataError: data of other spaces
    :raises rlopt.errors.SpaceError: images, or actions that are neither a vector nor a choice
    :raises rlopt.errors.NonFiniteError: the fit diverged
    """
    if not 0 <= gamma < 1:
        raise ConfigError(f"gamma is {gamma}: fitted Q evaluation needs one in [0, 1), as its value has no bound else")
    observation_space, action_space = policy.observation_space, policy.action_space  # type: ignore[attr-defined]
    check_spaces(data, observation_space, action_space, "the policy's environment")
    if progress:
        say(f"fitting Q of the policy to {len(data):,} transitions, {steps:,} gradient steps")
    columns = _Columns(policy, data, observation_space, action_space, gamma, device)
    fit = _Fit(columns.inputs, net_arch, n_networks, learning_rate, seed, device)
    shown = Progress(steps, unit="gradient steps") if progress else None
    generator = torch.Generator().manual_seed(seed)
    losses, before = [], np.zeros(n_networks)
    last_fifth = steps - max(steps // 5, 1)
    levels = {last_fifth * (index + 1) // _LEVELS for index in range(_LEVELS)}
    for step in range(steps):
        if step in levels:
            some = None
            if step < last_fifth and len(data) > _LEVEL_ROWS:
                some = torch.randperm(len(data), generator=generator)[:_LEVEL_ROWS].to(device)
            # Of the targets, which are smoother.
            fit.add(columns.missing_level(fit.target_values, gamma, some))
        if step == last_fifth:
            before = columns.means(columns.first, fit.values)
        rows = torch.randint(len(data), (batch_size,), generator=generator).to(device)
        with torch.no_grad():
            goal = columns.rewards[rows] + gamma * columns.discounts[rows] * fit.target_values(columns.after[rows])
        loss = fit.step(columns.here[rows], goal, tau)
        if step >= steps - max(steps // 10, 1):
            losses.append(loss)
        if shown is not None:
            shown.update(step + 1, lambda: None)
    if shown is not None:
        shown.finish(None)
    begins, everywhere = (columns.means(rows, fit.values) for rows in (columns.first, columns.here))
    if not np.isfinite(begins).all():
        raise NonFiniteError("fitted Q evaluation diverged: lower the learning rate or gamma")
    left = np.exp(-tau * (1 - gamma) * max(steps // 5, 1))
    remaining = float(abs(begins.mean() - before.mean()) * left / (1 - left)) if left < 1 else np.inf
    return FittedValue(
        value=float(begins.mean()),
        spread=float(begins.std()),
        q_value=float(everywhere.mean()),
        data_return=columns.data_return,
        remaining=remaining,
        converged=bool(remaining <= _NEAR * columns.scale),
        loss=float(torch.stack(losses).mean()),
        gamma=gamma,
        steps=steps,
    )


class _Fit:
    """Several networks that are fitted side by side from different weights, and their target networks."""

    def __init__(
        self, inputs: int, net_arch: tuple[int, ...], count: int, learning_rate: float, seed: int, device: str
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            members = [_network(inputs, net_arch) for _ in range(count)]
        stacked = zip(*(member.parameters() for member in members), strict=True)
        self._layers, self._count = mlp_layers(members[0]), count
        self._networks = [torch.stack(tensors).detach().to(device).requires_grad_() for tensors in stacked]
        self._targets = [tensor.detach().clone() for tensor in self._networks]
        self._optimizer = torch.optim.Adam(self._networks, lr=learning_rate)

    def _outputs(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        assert self._layers is not None
        return mlp(self._layers, parameters, inputs.expand(self._count, *inputs.shape))

    def values(self, inputs: Tensor) -> Tensor:
        """(n, B, 1) from (B, I)."""
        return self._outputs(self._networks, inputs)

    def target_values(self, inputs: Tensor) -> Tensor:
        """The same of the target networks."""
        return self._outputs(self._targets, inputs)

    def step(self, inputs: Tensor, goal: Tensor, tau: float) -> Tensor:
        """One gradient step of each network towards ``goal`` (n, B, 1); their mean loss, a scalar."""
        loss = (self.values(inputs) - goal).square().mean(dim=(1, 2)).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._targets, self._networks, tau)
        return loss.detach() / self._count

    def add(self, level: Tensor) -> None:
        """Adds ``level`` (n, 1) to what networks and targets put out."""
        for parameters in (self._networks, self._targets):
            parameters[-1].data += level.to(parameters[-1])


class _Columns:
    """The data as networks take them; values in units of ``scale`` around ``shift``, the data's own mean return."""

    def __init__(
        self, policy: Predictor, data: Dataset, observation_space: Any, action_space: Any, gamma: float, device: str
    ) -> None:
        self.begins = first_rows(data)
        self.device = device
        returns, whole = discounted_returns(data, gamma)
        known = returns[whole] if whole.any() else returns
        self.data_return = float(returns[self.begins].mean())
        self.shift = float(known.mean())
        self.scale = max(float(known.std()), 1e-6 * max(1.0, abs(self.shift)))
        here, after = (_flat(column, observation_space) for column in (data.observations, data.next_observations))
        mean, std = here.mean(dim=0), here.std(dim=0, correction=0) + 1e-3
        first = _rows(data.observations, self.begins)
        chosen = [_acts(policy, observations) for observations in (data.next_observations, first)]
        actions = [_encoded(part, action_space) for part in (data.actions, *chosen)]
        here, after = (here - mean) / std, (after - mean) / std
        self.first = torch.cat([here[torch.from_numpy(self.begins)], actions[2]], dim=1).to(device)
        self.here = torch.cat([here, actions[0]], dim=1).to(device)
        self.after = torch.cat([after, actions[1]], dim=1).to(device)
        self.inputs = self.here.shape[1]
        discounts = torch.from_numpy(data.discounts).unsqueeze(1).to(device)
        rewards = torch.from_numpy(data.rewards).unsqueeze(1).to(device)
        # Q = shift + scale f, so that f's target is (r + gamma d (shift + scale f') - shift) / scale.
        self.rewards = (rewards + (gamma * discounts - 1) * self.shift) / self.scale
        self.discounts = discounts

    @torch.no_grad()
    def missing_level(self, values: Callable[[Tensor], Tensor], gamma: float, rows: Tensor | None = None) -> Tensor:
        """What has to be added to each of n networks, (n, 1), so that its mean Bellman error over the rows is 0.

        :param rows: indices; default is all
        """
        columns = (self.here, self.after, self.rewards, self.discounts)
        if rows is not None:
            columns = tuple(column[rows] for column in columns)  # type: ignore[assignment]
        error = torch.zeros((), device=self.device, dtype=torch.float64)
        for here, after, rewards, discounts in zip(*(column.split(_BATCH) for column in columns), strict=True):
            errors = rewards + gamma * discounts * values(after) - values(here)
            error = error + errors.double().sum(dim=1) / len(columns[0])
        return error / (1 - gamma * columns[3].double().mean())

    @torch.no_grad()
    def means(self, inputs: Tensor, values: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Mean value of each network over rows of :attr:`first` or :attr:`here`."""
        sums = sum(values(part).double().sum(dim=(1, 2)) for part in inputs.split(_BATCH))
        assert isinstance(sums, Tensor)
        means: np.ndarray = self.shift + self.scale * sums.cpu().numpy() / len(inputs)
        return means


def _network(inputs: int, net_arch: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
        inputs = width
    last = nn.Linear(inputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def _rows(observations: Observations, rows: np.ndarray) -> Observations:
    if isinstance(observations, dict):
        return {key: part[rows] for key, part in observations.items()}
    return observations[rows]


def _acts(policy: Predictor, observations: Observations) -> np.ndarray:
    length = len(next(iter(observations.values()))) if isinstance(observations, dict) else len(observations)
    batches = np.array_split(np.arange(length), -(-length // _BATCH))
    return np.concatenate([policy.predict(_rows(observations, rows), deterministic=True)[0] for rows in batches])


def _flat(observations: Observations, space: spaces.Space) -> Tensor:
    kinds = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(len(part.shape or ()) == 3 for part in kinds):
        raise SpaceError("fitted Q evaluation takes no images: give it features instead")
    as_tensors: Any = (
        {key: torch.from_numpy(part) for key, part in observations.items()}
        if isinstance(observations, dict)
        else torch.from_numpy(observations)
    )
    prepared = preprocess_obs(as_tensors, space, normalize_images=False)
    parts = [prepared[key] for key in sorted(prepared)] if isinstance(prepared, dict) else [prepared]
    flat = torch.cat([part.float().flatten(1) for part in parts], dim=1)
    assert flat.shape[1] == get_flattened_obs_dim(space)
    return flat


def _encoded(actions: np.ndarray, space: spaces.Space) -> Tensor:
    if isinstance(space, spaces.Discrete):
        return nn.functional.one_hot(torch.from_numpy(actions - space.start).long(), int(space.n)).float()
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return torch.from_numpy(scaled_actions(actions.astype(np.float32), space))
    raise SpaceError(f"fitted Q evaluation takes actions that are a vector or one choice, not {space}")
