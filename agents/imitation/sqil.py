"""SQIL: soft Q-learning where demonstrations have reward 1 and everything else has reward 0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy

from rlopt.agents.imitation.base import check_n_demonstrations
from rlopt.agents.imitation.config import SQILConfig
from rlopt.agents.imitation.mixed_replay import NOT_TAKEN, FromMixedBatches
from rlopt.agents.sac.algorithm import SAC
from rlopt.algorithms.resumable import with_settings_of

if TYPE_CHECKING:
    from rlopt.data.demonstrations import Demonstrations


class SQIL(FromMixedBatches):
    """Soft Q imitation learning (Reddy, Dragan and Levine, arXiv 1905.11108, algorithm 1).

    Half of every batch is demonstrations with reward 1, half is replay with reward 0; the environment's rewards are
    never read. The learner is :class:`rlopt.SAC`, whose settings are taken but for ``replay_buffer_class`` and
    ``n_steps``; they are declared and explained in :class:`rlopt.agents.imitation.config.SQILConfig`.

    :param demonstrations: of this environment, or a path or name of some; see :meth:`set_demonstrations`
    :param n_demonstrations: learn from the first so many episodes; None for all
    :param absorbing: an episode that truly ends goes on for ever in an absorbing state, where the expert has reward 1
        and the policy 0, which is e / (e + p) on average with e and p the shares of true ends among their transitions
        (:class:`~rlopt.agents.imitation.mixed_replay.FromMixedBatches`). False gives every end the value 0. Where no
        demonstration truly ends it is the same
    :raises rlopt.errors.ConfigError: for a setting out of range, or from ``learn`` without demonstrations
    :raises rlopt.errors.DataError: for demonstrations that do not fit, or fewer than asked for
    """

    expert_reward = 1.0
    absorbing: bool

    @with_settings_of(SAC, *NOT_TAKEN, config=SQILConfig)
    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | str | Path | None = None,
        *,
        n_demonstrations: int | None = None,
        absorbing: bool = SQILConfig.absorbing,
        **settings: Any,
    ) -> None:
        check_n_demonstrations(n_demonstrations)
        self.n_demonstrations, self.absorbing = n_demonstrations, absorbing
        super().__init__(policy, env, **settings)
        own = {"n_demonstrations": n_demonstrations, "absorbing": absorbing}
        self._begin(demonstrations, own, without=NOT_TAKEN)

    def absorbing_reward(self, expert_ends: float, policy_ends: float) -> float:
        """The mean of 1 at the expert's rows of the absorbing state and 0 at the policy's; 0 where there are none."""
        total = expert_ends + policy_ends
        return expert_ends / total if total else 0.0
