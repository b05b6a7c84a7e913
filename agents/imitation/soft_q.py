"""SQIL and IQ-Learn for Discrete actions: soft Q-learning with one Q network and no actor."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from rlopt.agents.imitation.config import DiscreteIQLearnConfig, DiscreteSQILConfig
from rlopt.agents.imitation.iq_learn import ImplicitRewards
from rlopt.agents.imitation.losses import boltzmann_value
from rlopt.agents.imitation.mixed_replay import NOT_TAKEN, FromMixedBatches
from rlopt.agents.imitation.sqil import ConstantRewards
from rlopt.agents.sac import losses
from rlopt.agents.sac.batch import Batch
from rlopt.agents.sac.losses import Info
from rlopt.agents.sac.q_learning import QLearning
from rlopt.algorithms.demonstrations import check_n_demonstrations
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations
from rlopt.optim.descent import Network, Networks

_NOT_OF_DQN: dict[str, Any] = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, "max_grad_norm": None}
"""Arguments of Stable-Baselines3's DQN that are not settings here."""


class _Boltzmann(stable_baselines3.DQN):
    """Acts by pi(a|s) proportional to exp(Q(s, a) / lambda), or where it is to be deterministic, by the largest Q."""

    ent_coef: float

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        if deterministic:
            return self.policy.predict(observation, state, episode_start, deterministic)
        self.policy.set_training_mode(False)
        shown, batched = self.policy.obs_to_tensor(observation)
        with torch.no_grad():
            chances = torch.softmax(self.q_net(shown) / self.ent_coef, dim=1)
            actions = torch.multinomial(chances, 1)[:, 0].cpu().numpy()
        return actions if batched else actions[0], state


class SoftQImitation(FromMixedBatches, QLearning, _Boltzmann):
    """What both have: the policy is the Boltzmann distribution of Q at temperature ``ent_coef``, lambda."""

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        check_n_demonstrations(self.n_demonstrations)
        super().__init__(policy, env, **settings, **_NOT_OF_DQN)
        if demonstrations is not None:
            self.set_demonstrations(demonstrations)

    def soft_values(self, q_net: Network, observations: Any) -> Tensor:
        """V(s), (B, 1), as :func:`rlopt.agents.imitation.losses.boltzmann_value` gives it."""
        return boltzmann_value(q_net(observations), temperature=self.ent_coef)


class DiscreteSQIL(ConstantRewards, SoftQImitation):
    """Soft Q imitation learning (Reddy, Dragan and Levine, arXiv 1905.11108, algorithm 1) for Discrete actions.

    It is :class:`rlopt.SQIL` with a Q network in place of actor and critics. The squared error moves Q(s, a) to r +
    gamma V(s'), where V comes from the target network.
    :class:`rlopt.agents.imitation.config.DiscreteSQILConfig` declares and explains the settings.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a :class:`DQNPolicy` class
    :param env: an environment, a VecEnv or an id, with a Discrete action space
    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    :raises rlopt.errors.SpaceError: for spaces that cannot be used
    """

    for_real_actions: ClassVar[str] = "rlopt.SQIL"

    @with_settings_of(QLearning, *NOT_TAKEN, *_NOT_OF_DQN, config=DiscreteSQILConfig)
    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations, **settings)

    def q_objective(self, q_net: Network, networks: Networks, batch: Batch) -> tuple[Tensor, Info]:
        """Half the mean squared error of Q, a scalar."""
        with torch.no_grad():
            next_values = self.soft_values(networks["q_net_target"], batch.next_observations)
        targets = losses.td_target(batch.rewards, batch.discounts, next_values)
        values = q_net(batch.observations).gather(1, batch.actions.long())
        loss, _ = losses.critic_loss([values], targets)
        return loss, {"loss": loss.detach(), "mean_q": values.detach().mean()}


class DiscreteIQLearn(ImplicitRewards, SoftQImitation):
    """Inverse soft-Q learning (Garg et al., arXiv 2106.12142), online, with the chi-square regulariser, for Discrete
    actions.

    It is :class:`rlopt.IQLearn` with a Q network in place of actor and critics, so that V(s) is exact.
    :class:`rlopt.agents.imitation.config.DiscreteIQLearnConfig` declares and explains the settings; the other arguments
    and the errors are those of :class:`rlopt.DiscreteSQIL`.
    """

    for_real_actions: ClassVar[str] = "rlopt.IQLearn"

    @with_settings_of(QLearning, *NOT_TAKEN, *_NOT_OF_DQN, config=DiscreteIQLearnConfig)
    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations, **settings)

    def q_objective(self, q_net: Network, networks: Networks, batch: Batch) -> tuple[Tensor, Info]:
        """IQ-Learn's loss on the mixed batch, a scalar."""
        all_values = q_net(batch.observations)
        following = networks["q_net_target"] if self.use_target else q_net
        next_values = self.soft_values(following, batch.next_observations)
        return self.implicit_loss(
            [all_values.gather(1, batch.actions.long())],
            boltzmann_value(all_values, temperature=self.ent_coef),
            next_values.detach() if self.use_target else next_values,
            batch,
        )
