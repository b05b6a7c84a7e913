"""Demonstrations of the small goal task by an expert that goes straight there, and learners with small networks."""

from typing import Any

import gymnasium
import numpy as np
from offline_data import recorded
from reach import SMALL, Reach, assert_same, vec_env

from rlopt.agents.imitation.airl import AIRL
from rlopt.agents.imitation.gail import GAIL
from rlopt.agents.imitation.iq_learn import IQLearn
from rlopt.agents.imitation.sqil import SQIL
from rlopt.agents.imitation.value_dice import ValueDICE
from rlopt.data.demonstrations import Demonstrations

CLASSES: dict[str, Any] = {"sqil": SQIL, "iq_learn": IQLearn, "value_dice": ValueDICE, "gail": GAIL, "airl": AIRL}
ON_POLICY = ("gail", "airl")
TASK = "rlopt/RandomTarget-v0"
SMALL_GAIL = {
    "n_steps": 16,
    "batch_size": None,
    "discriminator_net_arch": (8,),
    "discriminator_batch_size": 8,
    "discriminator_steps": 2,
}


class Hold(Reach):
    """The same task without true ends: every episode is cut after 15 steps."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class Near(Reach):
    """An episode also ends where the point is high up: often, whatever the policy."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated or bool(self.point[1] > 1.0), truncated, info


def straight(observation: np.ndarray, _: Any = None) -> np.ndarray:
    """As far towards the origin as the bounds allow."""
    return np.clip(-10 * observation, Reach.action_space.low, Reach.action_space.high).astype(np.float32)


def demonstrations(steps: int = 60, env: type[Reach] = Reach, seed: int = 0) -> Demonstrations:
    dataset = recorded(env(), f"tests/{env.__name__}", steps, straight, seed)
    return Demonstrations.from_dataset(dataset, deterministic=True)


def options(name: str) -> dict[str, Any]:
    return {"device": "cpu", **SMALL_GAIL} if name in ON_POLICY else dict(SMALL)


def target_demonstrations() -> Demonstrations:
    """Of :data:`TASK`, whose environments repeat exactly."""
    import rlopt.envs.tasks.toy  # noqa: F401 - registers it

    data = recorded(gymnasium.make(TASK), TASK, 40, lambda observation, _: observation[:1].astype(np.float32))
    return Demonstrations.from_dataset(data)


def make(name: str, env: Any = None, shown: Any = None, **changes: Any) -> Any:
    env = vec_env() if env is None else env
    shown = demonstrations() if shown is None else shown
    return CLASSES[name]("MlpPolicy", env, shown, **{"seed": 5, **options(name), **changes})


def assert_alike(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    """:func:`reach.assert_same`, but for the last bias of ValueDICE's nu, which its objective does not see."""
    for model in (first, second):
        if isinstance(model, ValueDICE):
            model.critic.q_networks[0][-1].bias.data.zero_()
    assert_same(first, second, tolerance)
