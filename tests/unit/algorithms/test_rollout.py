"""On-policy collection against Stable-Baselines3's own loop: same seeds, same rollout to float tolerance."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.agents.ppo import on_policy
from rlopt.agents.ppo.heads import DistributionHead, GaussianHead, action_head, value_function
from rlopt.algorithms.rollout import advantage_estimates, can_collect

COLUMNS = ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


class Walk(gymnasium.Env):
    """Random observations and rewards; an episode is terminated at random, or cut after ``limit`` steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, limit: int) -> None:
        self.observation_space, self.action_space, self.limit, self.t = observation_space, action_space, limit, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        reward = float(self.np_random.normal() + np.sum(action))
        terminated = bool(self.np_random.random() < 0.1)
        cut = self.t >= self.limit
        info = {"is_success": terminated} if terminated or cut else {}
        return self.observation_space.sample(), reward, terminated, cut, info


class Rollouts(BaseCallback):
    """Copies of the buffer at the end of every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, np.ndarray]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        assert buffer.full and buffer.pos == buffer.buffer_size
        copies = {name: getattr(buffer, name).copy() for name in COLUMNS}
        parts = buffer.observations if isinstance(buffer.observations, dict) else {"": buffer.observations}
        self.seen.append({**copies, **{f"observations {key}": part.copy() for key, part in parts.items()}})


BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = spaces.Box(np.float32([-0.2, -3.0]), np.float32([0.1, 2.0]))  # narrow, so that clipping shows


def environment(observation_space: spaces.Space = BOX, action_space: spaces.Space = ACTIONS) -> VecEnv:
    env: VecEnv = DummyVecEnv([lambda n=n: Walk(observation_space, action_space, 4 + n) for n in range(3)])
    env.seed(7)
    env = VecMonitor(env)
    normalisable = isinstance(observation_space, spaces.Box)
    return VecNormalize(env, norm_obs=normalisable, gamma=0.9)


def model(env: VecEnv, **kwargs: Any) -> MDPO:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    settings = {"n_steps": 16, "gamma": 0.9, "n_epochs": 3, "value_batch_size": 16, "seed": 3, "device": "cpu"}
    return MDPO(policy, env, **{**settings, **kwargs})  # type: ignore[arg-type]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "box": ({}, {}),
    "box-minibatches-tsallis": ({}, {"batch_size": 16, "tsallis_q": 1.5, "ent_coef": 0.01}),
    "separate-relu-networks": (
        {},
        {"policy_kwargs": {"share_features_extractor": False, "net_arch": [8], "activation_fn": "relu"}},
    ),
    "discrete": ({"action_space": spaces.Discrete(4)}, {}),
    "multi-discrete": ({"action_space": spaces.MultiDiscrete([2, 3])}, {}),
    "multi-binary": ({"action_space": spaces.MultiBinary(3)}, {}),
    "discrete-observation": ({"observation_space": spaces.Discrete(5)}, {}),
    "dict-observation": (
        {"observation_space": spaces.Dict({"a": spaces.Box(-1, 1, (2, 2), np.float32), "b": spaces.Discrete(3)})},
        {},
    ),
    "gsde": ({}, {"use_sde": True, "sde_sample_freq": 4}),
    "gsde-squashed": ({}, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "no-layers": ({}, {"policy_kwargs": {"net_arch": []}}),
}


def trained(case: str) -> tuple[MDPO, list[dict[str, np.ndarray]]]:
    spaces_, settings = CASES[case]
    algorithm, rollouts = model(environment(**spaces_), **settings), Rollouts()
    algorithm.learn(3 * 16 * 3, callback=rollouts)
    assert len(rollouts.seen) == 3
    return algorithm, rollouts.seen


@pytest.mark.parametrize("case", CASES)
def test_rollouts_updates_and_statistics_equal_those_of_stable_baselines3(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rollouts with updates between: an early difference would grow."""
    ours, rollouts = trained(case)
    assert can_collect(ours.policy, ours.rollout_buffer)
    monkeypatch.setattr(on_policy, "can_collect", lambda *args: False)
    for agent in ("ppo", "mdpo"):
        monkeypatch.setattr(f"rlopt.agents.{agent}.on_policy.action_head", DistributionHead)
    monkeypatch.setattr(
        "rlopt.agents.mdpo.on_policy.value_function", lambda policy, train_shared: policy.predict_values
    )
    monkeypatch.setattr("rlopt.optim.clipped_step._is_plain_fused_adam", lambda *args: False)
    theirs, expected = trained(case)
    cut = [info["l"] for info in ours.ep_info_buffer or []]
    assert min(cut) < 4 < max(cut), "the test needs both terminated and truncated episodes"
    for number, (rollout, reference) in enumerate(zip(rollouts, expected, strict=True)):
        for name, values in reference.items():
            assert rollout[name].dtype == values.dtype
            np.testing.assert_allclose(rollout[name], values, rtol=2e-4, atol=2e-5, err_msg=f"{name}, {number}")
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=2e-4, atol=2e-5)
    assert ours.num_timesteps == theirs.num_timesteps
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)  # type: ignore[arg-type]
    assert list(ours.ep_success_buffer or []) == list(theirs.ep_success_buffer or [])
    episodes, others = ([info["r"] for info in m.ep_info_buffer or []] for m in (ours, theirs))
    np.testing.assert_allclose(episodes, others, rtol=1e-4, atol=1e-4)


def test_first_rollout_draws_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any update the actions are the same bit for bit, and so is the generator afterwards."""

    def first(use_ours: bool) -> tuple[np.ndarray, torch.Tensor]:
        monkeypatch.setattr(on_policy, "can_collect", lambda *args: use_ours)
        algorithm, rollouts = model(environment()), Rollouts()
        monkeypatch.setattr(algorithm, "train", lambda: None)
        algorithm.learn(48, callback=rollouts)
        return rollouts.seen[0]["actions"], torch.get_rng_state()

    (ours, state), (theirs, expected) = first(True), first(False)
    np.testing.assert_array_equal(ours, theirs)
    assert torch.equal(state, expected)


def test_advantages_are_those_of_the_definition() -> None:
    """A_t = sum_l (gamma lambda)^l delta_(t+l) up to the episode's end, summed term by term; and SB3's, bit for bit."""
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, 9, 4)).astype(np.float32)
    last = generator.normal(size=4).astype(np.float32)
    ended = (generator.random((9, 4)) < 0.3).astype(np.float32)
    result = advantage_estimates(rewards, values, last, ended, gamma=0.9, gae_lambda=0.8)
    following = np.concatenate([values[1:], last[None]])
    for t in range(9):
        for n in range(4):
            total = 0.0
            for later in range(t, 9):
                delta = rewards[later, n] + 0.9 * following[later, n] * (1 - ended[later, n]) - values[later, n]
                total += (0.9 * 0.8) ** (later - t) * delta
                if ended[later, n]:
                    break
            assert result[t, n] == pytest.approx(total, abs=1e-5)
    buffer = RolloutBuffer(9, BOX, ACTIONS, "cpu", gae_lambda=0.8, gamma=0.9, n_envs=4)
    buffer.rewards, buffer.values = rewards, values
    buffer.episode_starts = np.concatenate([np.zeros((1, 4), np.float32), ended[:-1]])
    buffer.compute_returns_and_advantage(torch.as_tensor(last), ended[-1].astype(bool))
    np.testing.assert_array_equal(result, buffer.advantages)


def test_callback_sees_each_step_and_can_stop() -> None:
    class Stop(BaseCallback):
        names = ("actions", "clipped_actions", "new_obs", "rewards", "dones", "infos", "obs_tensor", "rollout_buffer")

        def _on_step(self) -> bool:
            for name in self.names:
                assert name in self.locals, name
            assert self.locals["n_steps"] == self.n_calls - 1
            assert self.locals["self"] is self.model
            return self.n_calls < 5

    algorithm = model(environment())
    algorithm.learn(96, callback=Stop())
    assert algorithm.num_timesteps == 15
    assert algorithm.rollout_buffer.pos == 4, "the step at which the callback stops is not stored, as in SB3"


class OwnBuffer(RolloutBuffer):
    adds = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.adds += 1
        super().add(*args, **kwargs)


class OwnForward(ActorCriticPolicy):
    def forward(self, obs: Any, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _, values, log_prob = super().forward(obs, deterministic)
        return torch.zeros(len(values), 2), values, log_prob


class OwnValues(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> torch.Tensor:
        return super().predict_values(obs) + 1.0


def test_what_users_bring_is_used() -> None:
    algorithm = model(environment(), rollout_buffer_class=OwnBuffer).learn(48)
    assert algorithm.rollout_buffer.adds == 16  # type: ignore[attr-defined]

    algorithm = MDPO(OwnForward, environment(), n_steps=16, seed=0, device="cpu").learn(48)
    assert not algorithm.rollout_buffer.actions.any()

    algorithm = MDPO(OwnValues, environment(), n_steps=16, seed=0, device="cpu")
    observations = torch.randn(4, 3)
    with torch.no_grad():
        plain = ActorCriticPolicy.predict_values(algorithm.policy, observations)
        assert torch.equal(value_function(algorithm.policy, train_shared=False)(observations), plain + 1.0)


def test_forward_hooks_still_run() -> None:
    algorithm = model(environment())
    calls: list[int] = []
    algorithm.policy.mlp_extractor.policy_net.register_forward_hook(lambda *args: calls.append(1))
    algorithm.policy.value_net.register_forward_pre_hook(lambda *args: calls.append(2))
    head = action_head(algorithm.policy)
    assert isinstance(head, GaussianHead)
    head.sample(torch.zeros(2, 3))
    value_function(algorithm.policy, train_shared=False)(torch.zeros(2, 3))
    assert calls == [1, 2]


def test_shared_image_features_are_computed_once_a_step() -> None:
    env = DummyVecEnv([lambda: Walk(spaces.Box(0, 255, (36, 36, 1), np.uint8), ACTIONS, 5)])
    shared = {"share_features_extractor": True}
    algorithm = MDPO("CnnPolicy", env, n_steps=8, n_epochs=1, seed=0, device="cpu", policy_kwargs=shared)
    assert not can_collect(algorithm.policy, algorithm.rollout_buffer)
    algorithm.learn(8)


def test_rollouts_longer_than_one_evaluation_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = trained("box")
    monkeypatch.setattr("rlopt.algorithms.rollout.EVALUATION_ROWS", 5)
    _, parts = trained("box")
    for rollout, reference in zip(parts, whole, strict=True):
        for name, values in reference.items():
            np.testing.assert_allclose(rollout[name], values, rtol=2e-4, atol=2e-5, err_msg=name)


class Silent(VecEnvWrapper):
    """Tells nothing of environments while no episode ends."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards, dones, infos if dones.any() else []


def test_a_vec_env_may_leave_infos_out() -> None:
    single = DummyVecEnv([lambda n=n: Walk(BOX, ACTIONS, 4 + n) for n in range(3)])
    assert model(Silent(single)).learn(48).num_timesteps == 48
