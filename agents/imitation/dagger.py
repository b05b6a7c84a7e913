"""DAgger: cloning of an expert who is asked what it would do in the states that the learner reaches."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.imitation.config import DAggerConfig
from rlopt.agents.sac.algorithm import SAC
from rlopt.agents.sac.batch import Batch, Drawn
from rlopt.agents.sac.losses import Info
from rlopt.algorithms.resumable import with_settings_of
from rlopt.errors import ConfigError, SpaceError, require
from rlopt.optim.descent import Network, Networks, Part, Scalar

Expert = Callable[[Any], Any]
"""Actions (N, ...) in the environment's units from observations (N, ...), as the environment gives them."""
_NOT_TAKEN = (
    "action_noise",
    "actor_starts",
    "cloning_coef",
    "centring_rate",
    "cloning_steps",
    "ent_coef",
    "gamma",
    "n_steps",
    "policy_delay",
    "reward_centring",
    "sde_sample_freq",
    "target_entropy",
    "target_update_interval",
    "tau",
    "use_sde",
    "use_sde_at_warmup",
)
"""Settings of SAC that concern critics and exploration."""


class DAgger(SAC):
    """DAgger (Ross, Gordon and Bagnell, arXiv 1011.0686), online.

    At each step the expert chooses an action, which the replay buffer stores. The expert acts with probability beta,
    which falls linearly from 1 to 0 over ``beta_steps`` steps of the environment; otherwise the learner acts. The actor
    minimises the mean squared distance from the expert's actions; there are no rewards. With ``demonstrations``, a
    share of each batch is drawn from those.
    :class:`rlopt.agents.imitation.config.DAggerConfig` declares and explains the settings.

    :param expert: the expert, or None to give one later: a model with ``predict``, a function of observations (N, ...)
        that returns actions (N, ...), a run folder of rlopt, or a zip of Stable-Baselines3; see
        :meth:`set_expert`
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without an expert
    :raises rlopt.errors.SpaceError: for an expert of other spaces, or actions that it cannot have
    """

    acts_on_mean = True
    reads_no_rewards: ClassVar[bool] = True
    for_discrete_actions: ClassVar[str] = "rlopt.GAIL or rlopt.BC, which learn them from demonstrations"
    state_attributes: ClassVar[tuple[str, ...]] = (*SAC.state_attributes, "expert_fingerprint")
    unsaved: ClassVar[tuple[str, ...]] = ("asked", "_asked_fingerprint")
    beta_steps: int
    asked: Expert | None = None
    """The expert."""
    expert_fingerprint: str = ""
    """Of the expert's networks in the training so far; part of the training state."""
    _asked_fingerprint: str = ""

    @with_settings_of(SAC, *_NOT_TAKEN, config=DAggerConfig)
    def __init__(
        self, policy: str | type[SACPolicy], env: GymEnv | str | None, expert: Any = None, **settings: Any
    ) -> None:
        super().__init__(policy, env, ent_coef=0.0, cloning_coef=0.0, **settings)
        if expert is not None:
            self.set_expert(expert)

    def set_expert(self, expert: Any) -> None:
        """Asks ``expert`` from now on, for its deterministic actions.

        :param expert: see the class; a zip is read without its pickles and must not have been trained in a
            VecNormalize
        :raises rlopt.errors.SpaceError: it has other spaces
        :raises rlopt.errors.CheckpointError: its file cannot be read
        """
        if isinstance(expert, str | Path):
            expert = self._read_expert(Path(expert))
        for name in ("observation_space", "action_space"):
            theirs = getattr(expert, name, None)
            if theirs is not None and theirs != getattr(self, name):
                raise SpaceError(f"the expert has the {name} {theirs}, not {getattr(self, name)}: give another one")
        predict = getattr(expert, "predict", None)
        if predict is None and not callable(expert):
            raise ConfigError("the expert has no predict and is not a function of observations: give one that has")
        self.asked = expert if predict is None else lambda observations: predict(observations, deterministic=True)[0]
        networks = getattr(expert, "policy", None)
        self._asked_fingerprint = fingerprint(networks) if isinstance(networks, torch.nn.Module) else "a function"
        self.expert_fingerprint = self._asked_fingerprint

    def _read_expert(self, path: Path) -> Any:
        if path.suffix == ".zip":
            from rlopt.checkpoint.sb3_zip import read_policy

            return read_policy(path, self.observation_space, self.action_space, str(self.device))
        from rlopt.checkpoint.load import load

        return load(path, device=str(self.device))

    def at_boundary(self) -> bool:
        """As :meth:`SAC.at_boundary`, once there is an expert, who is still the one of before."""
        require(self.asked is not None, "DAgger asks an expert and has none: give expert=..., or call set_expert")
        same = self.expert_fingerprint == self._asked_fingerprint
        require(same, "the run asked another expert: give the one it started with")
        return super().at_boundary()

    # ---- acting

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is done, and what the expert would do, in [-1, 1]: that is stored."""
        assert self.asked is not None
        own, _ = super()._sample_action(0, action_noise, n_envs)
        normalize = self.get_vec_normalize_env()
        seen = self._last_obs if normalize is None else normalize.get_original_obs()
        advice = np.asarray(self.asked(seen), dtype=own.dtype)
        if advice.shape != own.shape or not np.isfinite(advice).all():
            raise SpaceError(f"the expert's actions are {advice.shape} or not finite: {own.shape} numbers are needed")
        space: Any = self.action_space
        advice = np.clip(advice, space.low, space.high)
        beta = max(1 - self.num_timesteps / self.beta_steps, 0.0) if self.beta_steps else 0.0
        follows = (np.random.random_sample(n_envs) < beta).reshape(-1, *(1,) * (own.ndim - 1))
        self.logger.record("rollout/beta", beta)
        return np.where(follows, advice, own), self.policy.scale_action(advice)

    # ---- the gradient step

    def networks(self) -> dict[str, Part]:
        """The actor alone."""
        return {"actor": Part(self.actor, self.actor.optimizer)}

    def scalars(self) -> dict[str, float]:
        return {}

    def draw(self, batch_size: int) -> Drawn:
        """A batch alone."""
        return self._draw_batch(batch_size)

    def gradient_step(
        self,
        networks: Networks,
        batch: Batch,
        drawn: Mapping[str, Tensor],
        scalars: Mapping[str, Scalar],
        move_targets: bool,
    ) -> Info:
        """One step of the actor towards the expert's actions."""
        info: Info = networks.descend("actor", self.objective, batch)
        return info

    def objective(self, actor: Network, batch: Batch) -> tuple[Tensor, Info]:
        """The mean squared distance of the mean actions from the expert's, a scalar."""
        mean, _, _ = self.policy_outputs(actor, batch.observations)
        distance = (torch.tanh(mean) - batch.actions).square().mean()
        return distance, {"cloning_loss": distance.detach()}


def fingerprint(networks: torch.nn.Module) -> str:
    """Of the parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in networks.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
