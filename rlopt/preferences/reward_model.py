"""An ensemble of reward models, fitted to preferences by their Plackett-Luce likelihood."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from rlopt.data.columns import scaled_actions
from rlopt.envs.flat import flat_size
from rlopt.errors import CheckpointError, NonFiniteError, SpaceError
from rlopt.nn.stacked import Layer, mlp
from rlopt.preferences.fragments import ABSENT, WORST, Fragments, Preferences


def plackett_luce_loss(scores: Tensor, places: Tensor) -> Tensor:
    """Mean over questions of the negative log-likelihood of their answers, (...,).

    The best fragment is chosen with probability proportional to exp(score), then the best of the rest, and so on over
    the given places. Fragments of one place tie: each is chosen among them and all worse ones (Breslow 1974). For two
    fragments, one better, this is the Bradley-Terry loss -log sigmoid(score - score'); for two that tie, it is twice
    the cross-entropy with one half.

    :param scores: (..., Q, n) of the fragments of Q questions
    :param places: (Q, n) or (..., Q, n) int64: 0 for the best, the same for those that tie; or :data:`WORST`,
        :data:`ABSENT`
    """
    present = places != ABSENT
    beside = present.unsqueeze(-2) & (places.unsqueeze(-2) >= places.unsqueeze(-1))
    rivals = scores.unsqueeze(-2).masked_fill(~beside, -torch.inf)
    chosen = present & (places != WORST)
    # What is not chosen has a rival too, itself, so that no gradient is NaN.
    own = torch.eye(places.shape[-1], dtype=torch.bool, device=scores.device)
    rivals = torch.where(own & ~chosen.unsqueeze(-1), torch.zeros_like(rivals), rivals)
    log_likelihood = torch.where(chosen, scores - rivals.logsumexp(dim=-1), torch.zeros_like(scores))
    return -log_likelihood.sum(dim=-1).mean(dim=-1)


def agreement(scores: Tensor, places: Tensor) -> Tensor:
    """Share of the ordered pairs of all answers that ``scores`` put in the same order, (...,); NaN without any.

    :param scores: as for :func:`plackett_luce_loss`, and so are ``places``
    """
    present = places != ABSENT
    better = present.unsqueeze(-1) & present.unsqueeze(-2) & (places.unsqueeze(-1) < places.unsqueeze(-2))
    right = better & (scores.unsqueeze(-1) > scores.unsqueeze(-2))
    return right.sum(dim=(-3, -2, -1)) / better.sum(dim=(-3, -2, -1))


_LAYERS: Layer = nn.ReLU()
_ROWS = 4096
"""Rows of a pass that needs no gradient."""


class RewardEnsemble:
    """r(s, a): perceptrons of a flat observation and an action, whose mean is the reward.

    Preferences do not determine a reward's unit, so it is scaled to a standard deviation of 1 over the fragments. They
    do not determine its zero either, unless episodes truly end, because later rewards are 0. In that case the zero is
    kept; otherwise the mean over the fragments becomes 0.

    :param observation_space: Box (no images), Discrete, MultiDiscrete, MultiBinary, or a Dict of those
    :param action_space: Box with finite bounds, or Discrete
    :param ensemble: models, E
    :param rng: draws their first weights
    :raises rlopt.errors.SpaceError: for other spaces
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        ensemble: int,
        net_arch: Sequence[int],
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        check_spaces(observation_space, action_space)
        self.observation_size = flat_size(observation_space)
        self.action_space, self.device, self.ensemble = action_space, torch.device(device), ensemble
        widths = (self.observation_size + action_size(action_space), *net_arch)
        self.layers: list[Layer] = [layer for _ in net_arch for layer in (None, _LAYERS)] + [None]
        self.parameters: list[nn.Parameter] = []
        for inputs, outputs in zip(widths, (*net_arch, 1), strict=True):
            bound = 1 / math.sqrt(inputs)  # as torch.nn.Linear
            for shape in ((ensemble, outputs, inputs), (ensemble, outputs)):
                drawn = torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32))
                self.parameters.append(nn.Parameter(drawn.to(self.device)))
        self.mean, self.deviation = (
            torch.zeros(widths[0], device=self.device),
            torch.ones(widths[0], device=self.device),
        )
        self.shift, self.scale = 0.0, 1.0
        self.fits = 0
        """Times that it was fitted; before the first, rewards are 0."""

    # ---- rewards

    def rewards(self, observations: Tensor, actions: Tensor) -> Tensor:
        """(N,) float32, of flat observations (N, O) and actions as :meth:`encoded` gives them."""
        if not self.fits:
            return torch.zeros(len(observations), device=self.device)
        with torch.no_grad():
            parts = zip(observations.split(_ROWS), actions.split(_ROWS), strict=True)
            found = [self._outputs(self._inputs(*part)).mean(dim=0) for part in parts]
        return (torch.cat(found) - self.shift) / self.scale if found else torch.zeros(0, device=self.device)

    def encoded(self, actions: np.ndarray) -> Tensor:
        """(N, A) float32 from actions (N, ...) in the environment's units: in [-1, 1], or one-hot."""
        return torch.from_numpy(encoded_actions(actions, self.action_space)).to(self.device)

    def member_returns(self, fragments: Fragments) -> np.ndarray:
        """(E, F) float32: what each model says that the rewards of each fragment sum to, in no unit."""
        with torch.no_grad():
            found = [self._scores(*self._columns(fragments.take(part))) for part in _parts(fragments)]
        return torch.cat(found, dim=1).cpu().numpy() if found else np.zeros((self.ensemble, 0), np.float32)

    # ---- fitting

    def fit(
        self,
        preferences: Preferences,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Continues from the weights that there are, with a new Adam; every model draws answers of its own.

        :returns: ``loss``, that of the last steps, and ``agreement``, the share of the ordered pairs that the mean of
            the models orders as they were answered
        :raises rlopt.errors.NonFiniteError: the loss is not finite; the model is then as it was
        """
        if not len(preferences):
            return {}
        before = [parameter.detach().clone() for parameter in self.parameters]
        self._look_at(preferences.fragments)
        inputs, steps_there = self._columns(preferences.fragments)
        questions = torch.from_numpy(preferences.questions).to(self.device)
        places = torch.from_numpy(preferences.places).to(self.device)
        optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay)
        recent: list[float] = []
        for _ in range(steps):
            size = (self.ensemble, min(batch_size, len(preferences)))
            rows = torch.from_numpy(rng.integers(len(preferences), size=size)).to(self.device)
            shown = questions[rows].clamp(min=0)  # (E, B, n); what is absent is masked by its place
            chosen = shown.flatten(1)
            scores = self._scores(inputs[chosen], steps_there[chosen]).view(shown.shape)
            loss = plackett_luce_loss(scores, places[rows])
            value = loss.detach().mean().item()
            if not math.isfinite(value):
                for parameter, former in zip(self.parameters, before, strict=True):
                    parameter.data.copy_(former)
                raise NonFiniteError("the reward model's loss is NaN or infinite: lower reward_learning_rate")
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            recent = [*recent[-9:], value]
        self.fits += 1
        self._rescale(inputs, steps_there, bool((preferences.fragments.lengths < steps_there.shape[1]).any()))
        with torch.no_grad():
            means = torch.from_numpy(self.member_returns(preferences.fragments)).to(self.device).mean(dim=0)
            share = agreement(means[questions.clamp(min=0)], places).item()
        return {"loss": float(np.mean(recent)), "agreement": share}

    def _look_at(self, fragments: Fragments) -> None:
        """Inputs are normalised by the fragments of the first fit, for which the weights have learned."""
        if self.fits:
            return
        inputs, there = self._raw(fragments), torch.from_numpy(fragments.steps).to(self.device)
        rows = inputs[there].double()
        self.mean = rows.mean(dim=0).float()
        deviation = rows.std(dim=0, correction=0).float()
        self.deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))

    def _rescale(self, inputs: Tensor, there: Tensor, has_ends: bool) -> None:
        with torch.no_grad():
            rows = inputs[there].split(_ROWS)
            outputs = torch.cat([self._outputs(part).mean(dim=0) for part in rows]).double()
        spread = float(outputs.std(correction=0))
        self.shift = 0.0 if has_ends else float(outputs.mean())
        self.scale = spread if spread > 1e-8 else 1.0

    def _columns(self, fragments: Fragments) -> tuple[Tensor, Tensor]:
        """Normalised inputs (F, L, I), and which steps there are (F, L)."""
        return self._normalized(self._raw(fragments)), torch.from_numpy(fragments.steps).to(self.device)

    def _raw(self, fragments: Fragments) -> Tensor:
        count, length = fragments.observations.shape[:2]
        actions = self.encoded(fragments.actions.reshape(count * length, *fragments.actions.shape[2:]))
        observations = torch.from_numpy(fragments.observations).to(self.device)
        return torch.cat([observations, actions.view(count, length, -1)], dim=-1)

    def _inputs(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self._normalized(torch.cat([observations, actions], dim=1))

    def _normalized(self, inputs: Tensor) -> Tensor:
        return ((inputs - self.mean) / self.deviation).clamp(-10.0, 10.0)

    def _outputs(self, inputs: Tensor) -> Tensor:
        """(E, N) of normalised inputs (N, I), the same for all models, or (E, N, I)."""
        stacked = inputs if inputs.dim() == 3 else inputs.expand(self.ensemble, *inputs.shape)
        return mlp(self.layers, self.parameters, stacked).squeeze(-1)

    def _scores(self, inputs: Tensor, there: Tensor) -> Tensor:
        """(E, F) sums over the steps of fragments, of inputs (F, L, I) and steps (F, L), or (E, F, L, I), (E, F, L)."""
        rows = inputs.flatten(-3, -2)
        outputs = self._outputs(rows).view(self.ensemble, *inputs.shape[-3:-1])
        return torch.where(there, outputs, torch.zeros_like(outputs)).sum(dim=-1)

    # ---- state

    def tree(self) -> dict[str, Any]:
        """The whole model, for :mod:`rlopt.storage`; copies."""
        return {
            "parameters": [parameter.detach().cpu().clone() for parameter in self.parameters],
            "mean": self.mean.cpu().clone(),
            "deviation": self.deviation.cpu().clone(),
            "shift": self.shift,
            "scale": self.scale,
            "fits": self.fits,
        }

    def restore(self, tree: Any) -> None:
        """Takes what :meth:`tree` gave.

        :raises rlopt.errors.CheckpointError: it is of other networks, or malformed; nothing changes then
        """
        own = [*self.parameters, self.mean, self.deviation]
        given = [*tree["parameters"], tree["mean"], tree["deviation"]]
        if [part.shape for part in own] != [getattr(part, "shape", None) for part in given]:
            raise CheckpointError("the reward model has other networks, observations or actions: use the same settings")
        numbers = (tree["shift"], tree["scale"])
        if not all(type(number) is float and math.isfinite(number) for number in numbers) or tree["scale"] <= 0:
            raise CheckpointError("the reward model is malformed")
        if type(tree["fits"]) is not int or tree["fits"] < 0 or not all(bool(part.isfinite().all()) for part in given):
            raise CheckpointError("the reward model is malformed")
        with torch.no_grad():
            for parameter, saved in zip(own, given, strict=True):
                parameter.copy_(saved)
        self.shift, self.scale, self.fits = tree["shift"], tree["scale"], tree["fits"]


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for spaces that no reward model can be learned on."""
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for part in parts:
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise SpaceError(f"observations of {part} are not vectors, which a reward model needs: encode them")
        if is_image_space(part):
            raise SpaceError("observations are images, which a reward model does not encode: give it features instead")
    bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
    if not (bounded or isinstance(action_space, spaces.Discrete)):
        raise SpaceError(f"a reward model takes actions of a Box with finite bounds, or Discrete, not {action_space}")


def action_size(space: spaces.Space[Any]) -> int:
    """Numbers of an encoded action."""
    return spaces.flatdim(space)


def encoded_actions(actions: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """(N, A) float32 from actions (N, ...) in the environment's units: in [-1, 1], or one-hot."""
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[actions.reshape(-1).astype(np.int64) - int(space.start)]
    return scaled_actions(actions.reshape(len(actions), -1), space)


def _parts(fragments: Fragments) -> list[slice]:
    """Of few fragments each, so that a pass takes little memory."""
    each = max(1, _ROWS // fragments.observations.shape[1])
    return [slice(first, first + each) for first in range(0, len(fragments), each)]
