"""SQIL: soft Q-learning where demonstrations have reward 1 and everything else has reward 0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor

from rlopt.agents.imitation.base import ExpertRows, FromDemonstrations, check_n_demonstrations, with_settings_of
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.errors import ConfigError
from rlopt.replay_normalization import normalize_observations
from rlopt.resumable import require

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations

_NOT_TAKEN = ("replay_buffer_class", "n_steps")


class MixedReplayBuffer(DeviceReplayBuffer):
    """A replay buffer whose batches are half its own transitions, with reward 0, and half an expert's, with reward 1.

    In a batch of B the own transitions come first, ``B - B // 2`` of them. The rewards that were stored are not read.
    """

    _expert: ExpertRows | None = None
    _terminal_reward = 1.0
    _mixes = 0

    @property
    def storage_version(self) -> int:
        """Changes when rows move in memory, or when other demonstrations are mixed in."""
        return super().storage_version + self._mixes

    def mix_in(self, expert: ExpertRows, terminal_reward: float = 1.0) -> None:
        """Half of every batch comes from ``expert`` from now on.

        :param terminal_reward: of a demonstration's transition that truly ends its episode
        """
        if expert is not self._expert or terminal_reward != self._terminal_reward:
            self._expert, self._terminal_reward = expert, terminal_reward
            self._mixes += 1

    def sample_rows(self, batch_size: int) -> Tensor:
        """Rows (B,) int64: first those of this buffer, then those of the demonstrations; each drawn uniformly."""
        expert = self._require_expert()
        n_expert = batch_size // 2
        return torch.cat([super().sample_rows(batch_size - n_expert), expert.sample_rows(n_expert)])

    def gather(self, rows: Tensor, env: VecNormalize | None = None) -> Any:
        """The mixed batch at ``rows`` of :meth:`sample_rows`; the rewards are SQIL's, never normalised."""
        expert = self._require_expert()
        n_expert = len(rows) // 2
        n_own = len(rows) - n_expert
        own, shown = super().gather(rows[:n_own], env), expert.gather(rows[n_own:])
        rewards = torch.where(shown.discounts > 0, 1.0, self._terminal_reward)
        return own._replace(
            observations=_joined(own.observations, normalize_observations(shown.observations, env)),
            actions=torch.cat([own.actions, shown.actions]),
            next_observations=_joined(own.next_observations, normalize_observations(shown.next_observations, env)),
            dones=torch.cat([own.dones, 1 - shown.discounts]),
            rewards=torch.cat([torch.zeros_like(own.rewards), rewards]),
        )

    def _require_expert(self) -> ExpertRows:
        if self._expert is None:
            raise ConfigError("the replay buffer has no demonstrations to mix in: call the model's set_demonstrations")
        return self._expert

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_expert", None)
        return state


class MixedDictReplayBuffer(MixedReplayBuffer, DeviceDictReplayBuffer):
    """The same for Dict observations."""


class SQIL(FromDemonstrations, OffPolicyMDPO):
    """Soft Q imitation learning (Reddy, Dragan and Levine, arXiv 1905.11108, algorithm 1).

    Half of every batch is demonstrations with reward 1, half is replay with reward 0; the environment's rewards are
    never read. The learner is :class:`rlopt.OffPolicyMDPO`, whose settings are taken but for ``replay_buffer_class``
    and ``n_steps``; with the default ``kl_coef=0`` it is soft actor-critic, as in the paper.

    :param demonstrations: of this environment, or a path or name of some; see :meth:`set_demonstrations`
    :param n_demonstrations: learn from the first so many episodes; None for all
    :param absorbing: an episode that truly ends goes on for ever in an absorbing state, where the expert has reward 1
        and the policy 0: a demonstration's last transition then has the reward ``1 / (1 - gamma)``, in closed form.
        False gives the value 0 to every end, as the paper does. Without true ends in the demonstrations it is the same
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    """

    absorbing: bool

    @with_settings_of(OffPolicyMDPO, *_NOT_TAKEN, kl_coef=0.0)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        n_demonstrations: int | None = None,
        absorbing: bool = True,
        **settings: Any,
    ) -> None:
        check_n_demonstrations(n_demonstrations)
        require(type(absorbing) is bool, f"absorbing is {absorbing!r}: give True or False")
        require(settings.get("batch_size", 2) != 1, "batch_size is 1: half of it are demonstrations, give at least 2")
        if absorbing and settings.get("gamma") == 1:
            raise ConfigError("with gamma=1 an absorbing state has no finite value: give absorbing=False or gamma < 1")
        self.n_demonstrations, self.absorbing = n_demonstrations, absorbing
        super().__init__(policy, env, **settings)
        own = {"n_demonstrations": n_demonstrations, "absorbing": absorbing}
        self._begin(demonstrations, own, without=_NOT_TAKEN)

    def _setup_model(self) -> None:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        self.replay_buffer_class = MixedDictReplayBuffer if is_dict else MixedReplayBuffer
        super()._setup_model()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Takes ``gradient_steps`` gradient steps on batches of which half are demonstrations."""
        # Here, because load_replay_buffer brings a buffer that knows none.
        if self.expert is not None:
            assert isinstance(self.replay_buffer, MixedReplayBuffer)
            self.replay_buffer.mix_in(self.expert, 1 / (1 - self.gamma) if self.absorbing else 1.0)
        super().train(gradient_steps, batch_size)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SQIL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {key: torch.cat([part, second[key]]) for key, part in first.items()}
    return torch.cat([first, second])
