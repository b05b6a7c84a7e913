"""DeepLOOP: the tabular discrepancy and switches through the deep code, RVI-SAC by hand, dual, resume, bad input."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.nn import functional as F

import rlopt
from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.algorithm import DeepLOOP
from rlopt.agents.loop.losses import pair_errors, tabular_discrepancy
from rlopt.agents.loop.planner import Problem
from rlopt.agents.loop.tabular import TabularSet
from rlopt.envs.average_reward import ContinuingWrapper
from rlopt.errors import ConfigError, SpaceError, UnknownNameError
from rlopt.state import capture_state, learn_from

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "batch_size": 8,
    "learning_starts": 10,
    "buffer_size": 1000,
    "n_features": 16,
    "min_interval": 5,
    "max_interval": 40,
    "seed": 0,
    "device": "cpu",
}
RVI_SAC = {"bonus": False, "lazy": False}


class OneHotRiver(gymnasium.Wrapper):
    """RiverSwim with one-hot states, where a negative action swims left and another right."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        super().__init__(gymnasium.make("rlopt/RiverSwim-v0"))
        self.n_states = int(self.env.observation_space.n)
        self.observation_space = spaces.Box(0, 1, (self.n_states,), np.float32)

    def _one_hot(self, state: int) -> np.ndarray:
        return np.eye(self.n_states, dtype=np.float32)[state]

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        state, info = self.env.reset(**kwargs)
        return self._one_hot(state), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(int(action[0] >= 0))
        return self._one_hot(state), reward, terminated, truncated, info


class Falls(gymnasium.Env):
    """Walks up a line by the action, and falls, which ends the episode, beyond 1."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.steps = 0.0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = max(self.position + float(action[0]), -1.0)
        self.steps += 1
        fallen = self.position > 1 and self.limit is None
        cut = self.limit is not None and self.steps >= self.limit
        return np.full(1, self.position, np.float32), abs(self.position), fallen, cut, {}


def make(env: Any = None, **kwargs: Any) -> DeepLOOP:
    env = env or rlopt.make_env("rlopt/Continuing-v0", seed=0, env_kwargs={"env": "Pendulum-v1"})
    return DeepLOOP("MlpPolicy", env, **{**SMALL, **kwargs})


def falling(**kwargs: Any) -> DeepLOOP:
    return make(DummyVecEnv([Falls]), **kwargs)


def weights(model: DeepLOOP) -> list[torch.Tensor]:
    return [value.clone() for value in model.policy.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the gate: RiverSwim with one-hot features is tabular ---


class TabularPlan(torch.nn.Module):
    """A hypothesis of tabular LOOP in the place of frozen networks."""

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.table = TabularSet(n_states, 2, Problem(0.0, 0.0, 0.0, 0.0, 0))

    def residuals(self, batch: Any, objective: Any) -> torch.Tensor:
        states, following = batch.observations.argmax(dim=1), batch.next_observations.argmax(dim=1)
        swims_right = (batch.actions[:, 0] >= 0).long()
        targets = torch.from_numpy(self.table.targets)[states, swims_right]
        values = torch.from_numpy(self.table.state_values)[following]
        return (batch.rewards[:, 0].double() + values - targets).unsqueeze(1)

    def act(self, observations: torch.Tensor, deterministic: bool) -> torch.Tensor:
        policy = torch.tensor(self.table.policy)
        return (2.0 * policy[observations.argmax(dim=1)] - 1).unsqueeze(1)


class OneHotPairs(torch.nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        pairs = inputs[:, :-1].argmax(dim=1) * 2 + (inputs[:, -1] >= 0).long()
        return F.one_hot(pairs, 2 * (inputs.shape[1] - 1)).double()


class TabularDeepLOOP(DeepLOOP):
    """DeepLOOP with tabular plans: replay, evidence, threshold, switching and acting are its own."""

    def adopt(self, problem: Problem, beta: float) -> None:
        n_states = self.observation_space.shape[0]
        self.features, self.plan = OneHotPairs(), TabularPlan(n_states)  # type: ignore[assignment]
        self.problem, self.beta, self.switch_steps = problem, beta, []

    def _freeze(self, plan: Any) -> None:
        self.switch_steps.append(self.n_collected)
        plan.table = TabularSet(self.observation_space.shape[0], 2, self.problem)
        rows = torch.arange(self.replay_buffer.size())
        batch = self.replay_buffer.transitions(rows)
        pairs = zip(
            batch.observations.argmax(dim=1).tolist(),
            (batch.actions[:, 0] >= 0).long().tolist(),
            batch.rewards[:, 0].tolist(),
            batch.next_observations.argmax(dim=1).tolist(),
            strict=True,
        )
        for state, action, reward, following in pairs:
            plan.table.add(state, action, reward, following)
        plan.table.plan(self.beta, "bonus")

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        self._take_stock()
        table = self.plan.table  # type: ignore[union-attr]
        for row in [] if self.switch_steps[-1] == self.n_collected else [self.n_collected - 1]:
            one = self.replay_buffer.transitions(torch.tensor([row]))
            action = int(one.actions[0, 0] >= 0)
            table.add(int(one.observations.argmax()), action, float(one.rewards), int(one.next_observations.argmax()))
        self.expected.append(table.discrepancy)
        self.measured.append(self.discrepancy)


def test_one_hot_river_swim_gives_the_tabular_discrepancy_and_switches() -> None:
    steps, scale = 1000, 1e-3
    reference = rlopt.LOOP("rlopt/RiverSwim-v0", seed=3, beta_scale=scale, horizon=steps)
    reference.learn(steps)
    settings = SMALL | {"n_features": 12, "ridge": 1e-7, "learning_starts": 0, "buffer_size": steps}
    model = TabularDeepLOOP(
        "MlpPolicy",
        DummyVecEnv([OneHotRiver]),
        **settings | {"seed": 3, "min_interval": 1, "max_interval": 10**9, "bonus": False},
    )
    model.adopt(reference.data.problem, reference.beta)
    model.expected, model.measured = [], []  # type: ignore[attr-defined]
    model._begin_phase()
    model.learn(steps)
    switches = [plan.step for plan in reference.plans]
    assert len(switches) > 5
    assert model.switch_steps == switches
    assert np.allclose(model.measured, model.expected, rtol=1e-5, atol=1e-7)  # type: ignore[attr-defined]
