"""Differential DQN: the loss by hand, a ring whose gain and values are known, ends, images, and every mode."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlopt
from rlopt.agents.differential_dqn.losses import differential_q_loss
from rlopt.average_reward import policy_iteration
from rlopt.envs.average_reward import FiniteEnv
from rlopt.errors import ConfigError, SpaceError
from rlopt.optim.lockstep import Lockstep

RING = [
    [[(1.0, (state + 1) % 4, 2.0 if state == 3 else 0.0)], [(1.0, state, 0.3 if state == 0 else 0.0)]]
    for state in range(4)
]
"""Four states. Going on pays 2 where it closes the ring, staying .3 in the first: gains .5 and .3."""
SMALL: dict[str, Any] = {
    "learning_starts": 20, "buffer_size": 500, "batch_size": 16, "seed": 0, "device": "cpu", "compile": "off",
    "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip


class Sees(gymnasium.Env[Any, Any]):
    """Random observations of a space; with ``ends`` an episode terminates every so many steps."""

    action_space = spaces.Discrete(3)

    def __init__(self, space: spaces.Space[Any], ends: int | None = None) -> None:
        self.observation_space, self.ends, self.steps = space, ends, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        ended = self.ends is not None and self.steps % self.ends == 0
        return self.observation_space.sample(), float(action == 1), ended, False, {}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rvi", [False, True])
def test_the_loss_is_that_of_the_equations(double: bool, rvi: bool) -> None:
    rng = np.random.default_rng(0)
    q, target, online = rng.normal(size=(3, 5, 4))
    actions, rewards, gain = rng.integers(0, 4, (5, 1)), rng.normal(size=(5, 1)), 0.4
    values, following = q[np.arange(5), actions[:, 0]], []
    for row in range(5):
        best = int((online if double else target)[row].argmax())
        following.append(target[row, best])
    errors = rewards[:, 0] - gain + np.array(following) - values
    huber = np.where(np.abs(errors) < 1, 0.5 * errors**2, np.abs(errors) - 0.5).mean()
    tensors = [torch.as_tensor(x) for x in (q, actions.astype(np.float32), rewards, target)]
    second = torch.as_tensor(online) if double else None
    loss, info = differential_q_loss(*tensors, second, torch.tensor([gain], dtype=torch.float64), rvi=rvi)
    assert loss.item() == pytest.approx(huber)
    expected = np.mean(following) if rvi else gain + errors.mean()
    assert info["gain_estimate"].item() == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ["rvi", "td"])
def test_it_finds_gain_and_differential_values_of_a_ring(estimator: str) -> None:
    exact = policy_iteration(FiniteEnv(RING).mdp)
    assert exact.gain == pytest.approx(0.5)
    options = {"gain_estimator": estimator, "gain_rate": 0.02, "tau": 0.05, "learning_rate": 5e-3}
    exploration = {"exploration_fraction": 0.5, "exploration_final_eps": 0.3}
    policy = {"policy_kwargs": {"net_arch": []}}  # a table
    model: Any = rlopt.DifferentialDQN("MlpPolicy", FiniteEnv(RING), **{**SMALL, **options, **exploration, **policy})
    model._mode = lambda parts: "eager"
    model.learn(1500)
    assert model.predict(np.arange(4), deterministic=True)[0].tolist() == [0, 0, 0, 0]
    assert model.gain.item() == pytest.approx(0.5, abs=0.05)
    with torch.no_grad():
        values = model.q_net(torch.arange(4)).numpy().max(axis=1)
    np.testing.assert_allclose(values - values[0], exact.bias - exact.bias[0], atol=0.15)


def test_an_end_is_refused_or_leads_on_at_its_price() -> None:
    space = spaces.Box(-1, 1, (2,))
    with pytest.raises(ConfigError, match=r'terminated at step 3.*on_termination="reset"'):
        rlopt.DifferentialDQN("MlpPolicy", Sees(space, ends=3), **SMALL).learn(8)
    model: Any = rlopt.DifferentialDQN(
        "MlpPolicy", Sees(space, ends=3), **SMALL, on_termination="reset", reset_cost=2.0
    )
    model.learn(10)
    buffer = model.replay_buffer
    assert np.flatnonzero(buffer.dones[:10]).tolist() == [2, 5, 8]
    # The observation behind an end is the next episode's first.
    np.testing.assert_array_equal(buffer.next_observations[2], buffer.observations[3])
    batch = model.read_batch({"rows": torch.tensor([2, 3])})
    seen = {}

    def loss(q: Any, actions: Any, rewards: Any, *args: Any, **options: Any) -> Any:
        seen["rewards"] = rewards
        return differential_q_loss(q, actions, rewards, *args, **options)

    from rlopt.agents.differential_dqn import losses
    from rlopt.optim.descent import OwnNetworks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "differential_q_loss", loss)
        model.gradient_step(OwnNetworks(model.networks(), model._check_loss), batch, {}, model.scalars(), True)
    assert seen["rewards"].flatten().tolist() == [buffer.rewards[2, 0] - 2.0, buffer.rewards[3, 0]]


def test_steps_as_one_function_and_of_several_seeds_are_those_steps() -> None:
    def job(seed: int, mode: str | None) -> Any:
        def run() -> Any:
            options = {**SMALL, "seed": seed, "max_grad_norm": 0.05}
            model: Any = rlopt.DifferentialDQN("MlpPolicy", Sees(spaces.Box(-1, 1, (2,))), **options)
            if mode is not None:
                model._mode = lambda parts: mode
            return model.learn(60)

        return run

    together = Lockstep([job(seed, "eager") for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        for alone in (job(seed, None)(), job(seed, "eager")()):
            torch.testing.assert_close(model.gain, alone.gain, rtol=1e-4, atol=1e-6)
            for name in ("q_net", "q_net_target"):
                pairs = zip(getattr(model, name).parameters(), getattr(alone, name).parameters(), strict=True)
                for one, other in pairs:
                    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_images_and_dicts_are_seen() -> None:
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    model = rlopt.DifferentialDQN("CnnPolicy", Sees(image), **{**SMALL, "policy_kwargs": None}).learn(23)
    assert model.predict(image.sample(), deterministic=True)[0] in range(3)
    several = spaces.Dict({"image": image, "speed": spaces.Box(-1, 1, (1,))})
    rlopt.DifferentialDQN("MultiInputPolicy", Sees(several), **SMALL).learn(23)


def test_each_environment_explores_by_itself() -> None:
    env = DummyVecEnv([lambda: Sees(spaces.Box(-1, 1, (2,)))] * 64)  # type: ignore[list-item]
    options = {"exploration_initial_eps": 0.5, "exploration_final_eps": 0.5}
    model: Any = rlopt.DifferentialDQN("MlpPolicy", env, **{**SMALL, "learning_starts": 0, **options})
    model.learn(64)
    np.random.seed(0)
    greedy = model.predict(model._last_obs, deterministic=True)[0]
    explored = np.mean([(model._sample_action(0, None, 64)[0] != greedy).mean() for _ in range(20)])
    assert explored == pytest.approx(0.5 * 2 / 3, abs=0.06)  # a random action is the greedy one in a third


def test_what_it_cannot_learn_is_refused_in_one_line() -> None:
    with pytest.raises(SpaceError, match="needs a Discrete action space"):
        rlopt.DifferentialDQN("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ConfigError, match=r"gamma.*nothing is discounted"):
        rlopt.DifferentialDQN("MlpPolicy", "CartPole-v1", gamma=0.9)
    with pytest.raises(ConfigError, match="norm_reward"):
        rlopt.DifferentialDQN("MlpPolicy", VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])))


def test_gain_and_exploration_are_saved(tmp_path: Path) -> None:
    model = rlopt.DifferentialDQN("MlpPolicy", FiniteEnv(RING), **SMALL).learn(40)
    model.save(tmp_path / "model.zip")
    loaded = rlopt.DifferentialDQN.load(tmp_path / "model.zip", FiniteEnv(RING), device="cpu")
    assert torch.equal(loaded.gain, model.gain) and loaded.exploration_rate == model.exploration_rate > 0
