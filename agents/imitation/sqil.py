"""SQIL: soft Q-learning where demonstrations have reward 1 and everything else has reward 0."""

from pathlib import Path
from typing import Any, ClassVar

from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy

from rlopt.agents.imitation.config import SQILConfig
from rlopt.agents.imitation.mixed_replay import NOT_TAKEN, FromMixedBatches
from rlopt.agents.sac.algorithm import SAC
from rlopt.algorithms.demonstrations import NOT_CENTRED
from rlopt.algorithms.resumable import with_settings_of
from rlopt.data.demonstrations import Demonstrations


class ConstantRewards(FromMixedBatches):
    """Reward 1 for what the expert did and 0 for everything else."""

    expert_reward = 1.0

    def absorbing_reward(self, expert_ends: float, policy_ends: float) -> float:
        """The mean of 1 at the expert's rows of the absorbing state and 0 at the policy's; 0 where there are none."""
        total = expert_ends + policy_ends
        return expert_ends / total if total else 0.0


class SQIL(ConstantRewards, SAC):
    """Soft Q imitation learning (Reddy, Dragan and Levine, arXiv 1905.11108, algorithm 1).

    Half of every batch comes from the demonstrations with reward 1, half from the replay buffer with reward 0; the
    environment's rewards are never used. The learner is :class:`rlopt.SAC`, with the same settings except
    ``replay_buffer_class`` and ``n_steps``. :class:`rlopt.agents.imitation.config.SQILConfig` declares and explains
    them.

    :param demonstrations: demonstrations of this environment, or their path or name; see :meth:`set_demonstrations`
    :param n_demonstrations: number of episodes to learn from, the first ones; None for all
    :param absorbing: whether an episode that truly ends stays for ever in an absorbing state, where the expert has
        reward 1 and the policy 0. On average this is e / (e + p), where e and p are the shares of true ends among their
        transitions (:class:`~rlopt.agents.imitation.mixed_replay.FromMixedBatches`). False gives every end the value 0.
        If no demonstration truly ends, both are the same
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    """

    for_discrete_actions: ClassVar[str] = "rlopt.DiscreteSQIL"

    @with_settings_of(SAC, *NOT_TAKEN, *NOT_CENTRED, config=SQILConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, env, demonstrations=demonstrations, demo_fraction=0.0, **settings)
