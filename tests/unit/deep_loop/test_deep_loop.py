"""DeepLOOP: the tabular discrepancy and switches through the deep code, RVI-SAC by hand, dual, resume, bad input."""

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import as_function, needs_compiler
from runs import leaves
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.nn import functional as F

import rlopt
from rlopt.agents.deep_loop import losses
from rlopt.agents.deep_loop.algorithm import DeepLOOP
from rlopt.agents.deep_loop.bonus import Evidence, FourierFeatures, switch_threshold
from rlopt.agents.loop.confidence_sets.planner import Problem
from rlopt.agents.loop.confidence_sets.tabular import TabularSet
from rlopt.agents.sac.batch import Batch, Step
from rlopt.agents.sac.differential import moved_gain
from rlopt.average_reward.mdp import FiniteMDP
from rlopt.average_reward.solution import evaluate_policy
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.envs.average_reward import ContinuingWrapper
from rlopt.envs.average_reward.river_swim import RiverSwim
from rlopt.errors import ConfigError, SpaceError, UnknownNameError
from rlopt.optim.descent import OwnNetworks
from rlopt.optim.lockstep import Lockstep

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    "batch_size": 8,
    "learning_starts": 10,
    "buffer_size": 1000,
    "lazy": True,
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
        super().__init__(RiverSwim())
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


def step_of(model: DeepLOOP, batch: Any, noise: torch.Tensor, next_noise: torch.Tensor) -> Step:
    """What a gradient step by torch's optimisers on a replay buffer's ``batch`` is computed from."""
    given = Batch(batch.observations, batch.actions, batch.next_observations, batch.rewards, 1 - batch.dones)
    networks = OwnNetworks(model.networks(), model._check_loss)
    drawn = {"noise": noise, "next_noise": next_noise}
    return Step(networks, given, given, drawn, model.scalars(), model._ent_coef(networks))


def take(model: DeepLOOP, step: Step, move_targets: bool = False) -> dict[str, torch.Tensor]:
    return model.gradient_step(step.networks, step.batch, step.drawn, step.scalars, move_targets)


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the gate: RiverSwim with one-hot features is tabular ---


class TabularPlan(torch.nn.Module):
    """A hypothesis of tabular LOOP in the place of frozen networks."""

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.table = TabularSet(n_states, 2, Problem(0.0, 0.0, 0.0, 0.0, 0))

    def residuals(self, batch: Any) -> torch.Tensor:
        states, following = batch.observations.argmax(dim=1), batch.next_observations.argmax(dim=1)
        swims_right = (batch.actions[:, 0] >= 0).long()
        targets = torch.from_numpy(self.table.targets)[states, swims_right]
        values = torch.from_numpy(self.table.state_values)[following]
        return (batch.rewards[:, 0].double() + values - targets).unsqueeze(1)

    def act(self, observations: torch.Tensor) -> torch.Tensor:
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

    def residuals(self, plan: Any, batch: Any) -> torch.Tensor:
        found: torch.Tensor = plan.residuals(batch)
        return found

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
        self._take_stock(self.evidence)  # type: ignore[arg-type]
        table = self.plan.table  # type: ignore[union-attr]
        for row in [] if self.switch_steps[-1] == self.n_collected else [self.n_collected - 1]:
            one = self.replay_buffer.transitions(torch.tensor([row]))
            action = int(one.actions[0, 0] >= 0)
            table.add(int(one.observations.argmax()), action, float(one.rewards), int(one.next_observations.argmax()))
        self.expected.append(table.discrepancy)
        self.measured.append(self.discrepancy)


def test_one_hot_river_swim_gives_the_tabular_discrepancy_and_switches() -> None:
    steps, scale = 1000, 1e-3
    reference = rlopt.LOOP(
        RiverSwim(), procedure="paper", span=RiverSwim().mdp.span, seed=3, beta_scale=scale, horizon=steps
    )
    reference.learn(steps)
    settings = SMALL | {"n_features": 12, "ridge": 1e-7, "learning_starts": 0, "buffer_size": steps}
    model = TabularDeepLOOP(
        "MlpPolicy",
        DummyVecEnv([OneHotRiver]),
        **settings | {"seed": 3, "min_interval": 1, "max_interval": 10**9, "bonus": False},
    )
    model.adopt(reference.data.problem, reference.beta)
    model.expected, model.measured = [], []  # type: ignore[attr-defined]
    model._begin_phase(model.evidence)  # type: ignore[arg-type]
    model.learn(steps)
    switches = [plan.step for plan in reference.plans]
    assert len(switches) > 5
    assert model.switch_steps == switches
    assert np.allclose(model.measured, model.expected, rtol=1e-5, atol=1e-7)  # type: ignore[attr-defined]


# --- the gain ---

# Two states, P = [[3/4, 1/4], [1/2, 1/2]] as multiplicities of a batch: its long-run frequencies are 2/3 and 1/3.
PAIRS = [(0, 0)] * 6 + [(0, 1)] * 2 + [(1, 0)] * 2 + [(1, 1)] * 2
UNIFORM = PAIRS + [(1, 0)] * 2 + [(1, 1)] * 2
REWARDS = torch.tensor([1.0, 4.0])


def learned_values(pairs: list[tuple[int, int]], estimator: str) -> tuple[float, torch.Tensor]:
    """The gain and the table Q (2,) after full-batch gradient descent through the differential loss."""
    state, following = (torch.tensor(column) for column in zip(*pairs, strict=True))
    table, slow, gain = torch.zeros(2, requires_grad=True), torch.zeros(2), torch.zeros(())
    for _ in range(4000):
        next_q = slow[following].unsqueeze(1)
        q_values = table[state].unsqueeze(1)
        rewards = REWARDS[state].unsqueeze(1)
        loss, info = losses.differential_loss(
            [q_values], rewards, next_q, next_q, gain, gain_estimator=estimator,  # type: ignore[arg-type]
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, table)
        with torch.no_grad():
            table -= 0.3 * gradient
            slow += 0.1 * (table - slow)
        gain = moved_gain(gain, info["gain_estimate"], 0.05)
    return float(gain), table.detach()


@pytest.mark.parametrize(
    ("pairs", "estimator"), [(PAIRS, "rvi"), (UNIFORM, "rvi"), (PAIRS, "td"), (UNIFORM, "td"), (PAIRS, "centring")]
)
def test_every_estimate_of_the_gain_converges_to_the_exact_one(pairs: list[tuple[int, int]], estimator: str) -> None:
    chain = FiniteMDP(np.array([[[0.75, 0.25]], [[0.5, 0.5]]]), REWARDS.numpy()[:, None].astype(float))
    exact = evaluate_policy(chain, [0, 0])
    gain, values = learned_values(pairs, estimator)
    assert gain == pytest.approx(2.0, abs=1e-3) == exact.gain  # 2/3 * 1 + 1/3 * 4
    assert float(values[0] - values[1]) == pytest.approx(-4.0, abs=1e-2)  # from h0 - h1 = 1 - 4 + (h0 - h1) / 4
    assert float(values[0] - values[1]) == pytest.approx(exact.bias[0] - exact.bias[1], abs=1e-2)


def test_rvi_pins_the_constant_of_the_values_to_the_gain() -> None:
    gain, values = learned_values(PAIRS, "rvi")
    _, following = zip(*PAIRS, strict=True)
    assert float(values[list(following)].mean()) == pytest.approx(gain, abs=1e-3)


def test_centring_follows_the_distribution_of_the_batch() -> None:
    gain, _ = learned_values(UNIFORM, "centring")
    assert gain == pytest.approx(2.5, abs=1e-3)  # the mean of the rewards 1 and 4, which is not the gain


# --- bonus and discrepancy ---


def test_the_bonus_is_that_of_the_inverse_and_meets_the_set() -> None:
    generator, ridge, beta = np.random.default_rng(0), 0.5, 3.0
    psi = generator.normal(size=(2600, 8))
    evidence = Evidence(8, ridge)
    for rows in (psi[:1], psi[1:4], psi[4:1500], *np.split(psi[1500:], 1100)):
        evidence.add(torch.from_numpy(rows))
    inverse = np.linalg.inv(ridge * np.eye(8) + psi.T @ psi)
    widths = np.sqrt(np.einsum("id,de,ie->i", psi, inverse, psi))
    expected = np.sqrt(beta) * widths / np.sqrt(np.sum(widths**2))
    bonus = evidence.bonus(torch.from_numpy(psi), beta, 1e9).squeeze(1).numpy()
    assert np.allclose(evidence.inverse.numpy(), inverse, rtol=1e-9, atol=1e-14)
    assert np.allclose(bonus, expected, rtol=1e-9)
    assert np.sum(bonus**2) == pytest.approx(beta)
    largest = float(np.median(expected))
    assert np.allclose(evidence.bonus(torch.from_numpy(psi), beta, largest)[:, 0], np.minimum(expected, largest))


def test_the_discrepancy_is_the_loss_less_that_of_the_best_fit() -> None:
    generator, ridge = np.random.default_rng(1), 0.3
    psi, residuals = generator.normal(size=(300, 6)), generator.normal(size=300)
    residuals += psi @ generator.normal(size=6)
    evidence = Evidence(6, ridge)
    for rows in np.array_split(np.arange(300), 70):
        evidence.add(torch.from_numpy(psi[rows]), torch.from_numpy(residuals[rows, None]))
    rows, target = np.vstack([psi, np.sqrt(ridge) * np.eye(6)]), np.append(residuals, np.zeros(6))
    fit = np.linalg.lstsq(rows, target, rcond=None)[0]
    assert evidence.discrepancy() == pytest.approx(np.sum(residuals**2) - np.sum((target - rows @ fit) ** 2))
    evidence.clear()
    assert evidence.discrepancy() == 0 and torch.equal(evidence.inverse, torch.eye(6).double() / ridge)


def test_fourier_features_are_a_gaussian_kernel_of_normalised_inputs() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(50, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    features = FourierFeatures(3, 20_000, 0.7)
    features.fit(inputs)
    normal = (inputs - inputs.mean(0)) / inputs.std(0, unbiased=False)
    squares = ((normal[:, None] - normal[None]) ** 2).sum(-1)
    kernel = torch.exp(-squares / (2 * 3 * 0.7**2))
    psi = features(inputs)
    assert torch.allclose(psi @ psi.mT, kernel, atol=0.06)


@pytest.mark.parametrize(
    ("at_switch", "expected"),
    [(0.0, 8.0), (2.0, 8.0), (2.5, 8.5), (100.0, 106.0)],  # beta 2: 4 beta, or what the start outside adds to 3 beta
)
def test_the_threshold_is_four_beta_or_three_more_than_at_the_start(at_switch: float, expected: float) -> None:
    assert switch_threshold(at_switch, 2.0, 4.0) == expected


def test_the_behaviour_is_frozen_between_switches_and_intervals_are_kept() -> None:
    model = make(min_interval=20, max_interval=50, beta=1e9)  # never by the discrepancy
    frozen: list[list[torch.Tensor]] = []
    switches: list[int] = []

    def look(local: Any, _: Any) -> bool:
        frozen.append([value.clone() for value in model.plan.actor.state_dict().values()])  # type: ignore[union-attr]
        switches.append(model.n_switches)
        return True

    model.learn(180, callback=look)
    changed = [step for step in range(1, 180) if not equal(frozen[step - 1], frozen[step])]
    assert changed == [11, 61, 111, 161]  # learning starts after step 10; then every 50 steps
    assert model.n_switches == 4 and model.n_switches_by_interval == 3
    eager = make(min_interval=20, max_interval=10**6, beta=1e-9)  # at every chance
    eager.learn(100)
    assert eager.n_switches == 5 and eager.n_switches_by_interval == 0


# --- the update ---


def test_without_bonus_laziness_and_gain_it_is_undiscounted_sac_bit_for_bit() -> None:
    settings = {key: SMALL[key] for key in ("policy_kwargs", "batch_size", "learning_starts", "buffer_size", "seed")}
    settings |= {"device": "cpu", "compile": "off"}
    env = "Pendulum-v1"  # truncated after 200 steps
    own = DeepLOOP("MlpPolicy", env, gain_rate=0.0, **RVI_SAC, **settings).learn(250)
    sac = rlopt.SAC("MlpPolicy", env, gamma=1.0, **settings).learn(250)
    assert equal(weights(own), weights(sac))
    moving = DeepLOOP("MlpPolicy", env, **RVI_SAC, **settings).learn(250)
    assert not equal(weights(moving), weights(sac))


def rvi_sac_step(model: DeepLOOP, batch: Any, noise: torch.Tensor, next_noise: torch.Tensor) -> dict[str, Any]:
    """One step of RVI-SAC as one would write it down, on copies of the model's networks."""
    policy = copy.deepcopy(model.policy)
    actor, critic, slow = policy.actor, policy.critic, policy.critic_target
    log_alpha = model.log_ent_coef.detach().clone().requires_grad_()  # type: ignore[union-attr]
    gain, rate = model.gain.clone(), model.gain_rate

    def act(observations: torch.Tensor, normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std, _ = actor.get_action_dist_params(observations)
        u = mean + log_std.exp() * normal
        density = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        return torch.tanh(u), (density - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)).sum(dim=1, keepdim=True)

    alpha = log_alpha.detach().exp()
    actions, log_prob = act(batch.observations, noise)
    with torch.no_grad():
        next_actions, next_log_prob = act(batch.next_observations, next_noise)
        next_value = torch.minimum(*slow(batch.next_observations, next_actions)) - alpha * next_log_prob
        target = batch.rewards - model.reset_price * batch.dones - gain + next_value
    q_loss = 0.5 * sum(F.mse_loss(q, target) for q in critic(batch.observations, batch.actions))
    critic.optimizer.zero_grad()
    q_loss.backward()
    critic.optimizer.step()
    gain = (1 - rate) * gain + rate * next_value.mean()
    pi_loss = (alpha * log_prob - torch.minimum(*critic(batch.observations, actions))).mean()
    actor.optimizer.zero_grad()
    pi_loss.backward()
    actor.optimizer.step()
    return {"policy": policy, "gain": gain, "alpha": alpha}


@pytest.mark.parametrize("bonus", [False, True])
def test_it_is_rvi_sac_of_the_rewards_with_bonus(bonus: bool) -> None:
    settings = {"on_termination": "reset", "reset_cost": 2.0, "gain_rate": 0.1, "batch_size": 32}
    model = falling(bonus=bonus, lazy=False, **settings).learn(100)
    assert model.gain != 0
    batch = model.replay_buffer.sample(32)
    assert batch.dones.sum() > 0
    noise, next_noise = torch.randn(32, 1), torch.randn(32, 1)
    # deepcopy parts optimisers from parameters, so their own are made anew, for both
    for part in (model.actor, model.critic):
        part.optimizer = torch.optim.Adam(part.parameters(), lr=3e-3)
    step = step_of(model, batch, noise, next_noise)
    optimistic = batch._replace(rewards=batch.rewards + model.bonus_of(step)) if bonus else batch
    expected = rvi_sac_step(model, optimistic, noise, next_noise)
    before = weights(model)
    take(model, step)
    assert not equal(before, weights(model))
    for own, other in zip(weights(model), expected["policy"].state_dict().values(), strict=True):
        assert torch.allclose(own, other, atol=1e-6)
    assert float(model.gain) == pytest.approx(float(expected["gain"]), rel=1e-5)


SETTINGS: list[dict[str, Any]] = [
    {"gain_estimator": estimator, "lazy": lazy, "bonus": bonus, "reset_cost": 1.0}
    for estimator in ("rvi", "td", "centring")
    for lazy in (False, True)
    for bonus in (False, True)
]


@pytest.mark.parametrize("settings", [*SETTINGS, {"reset_cost": "auto", "allowed_resets": 0.0}])
def test_the_function_of_tensors_is_the_step(settings: dict[str, Any]) -> None:
    models = []
    for function in (False, True):
        model = falling(**settings, on_termination="reset", compile="off", learning_starts=100).learn(100)
        model.reset_price.fill_(1.0)
        if function:
            as_function(model)
        torch.manual_seed(1)
        np.random.seed(1)
        for _ in range(5):  # the evidence moves in between
            model.n_seen -= 1
            model.train(10, batch_size=16)
        assert (model.update is not None) == function
        models.append(model)
    for own, other in zip(*map(weights, models), strict=True):
        assert torch.allclose(own, other, atol=1e-5)
    logged = [model.logger.name_to_value for model in models]
    assert logged[1] == pytest.approx(logged[0], rel=1e-3, abs=1e-5)
    assert ("train/bonus" in logged[1]) == settings.get("bonus", True)
    assert float(models[0].gain) == pytest.approx(float(models[1].gain), rel=1e-4) and models[0].gain != 0
    assert float(models[0].reset_price) == pytest.approx(float(models[1].reset_price), rel=1e-4) != 0
    if settings["reset_cost"] == "auto":
        assert float(models[0].reset_price) != 1.0
        critics = [list(model.reset_critic.state_dict().values()) for model in models]
        for own, other in zip(*critics, strict=True):
            assert torch.allclose(own, other, atol=1e-5)


class Seven(DeepLOOP):
    """With a bonus of its own."""

    def bonus_of(self, step: Step) -> torch.Tensor:
        return torch.full_like(step.batch.rewards, 7.0)


@pytest.mark.parametrize("mode", ["optimisers", "function", pytest.param("compiled", marks=needs_compiler)])
def test_a_bonus_of_ones_own_holds_however_the_step_is_taken(mode: str) -> None:
    model = Seven("MlpPolicy", make().env, **{**SMALL, "compile": "on" if mode == "compiled" else "off"})
    (as_function(model) if mode == "function" else model).learn(20)
    assert (model.update is None) == (mode == "optimisers")
    assert model.logger.name_to_value["train/bonus"] == pytest.approx(7.0)


def test_features_of_ones_own_are_taken_up() -> None:
    model = as_function(make()).learn(20)
    before = model.update
    model.features = FourierFeatures(4, 16, 0.01)
    torch.manual_seed(1)
    np.random.seed(1)
    model.train(1, 16)
    assert model.update is not None and model.update is not before
    torch.manual_seed(1)
    np.random.seed(1)
    batch = model.read_batch(model.draw(16))
    psi = model.features(torch.cat([batch.observations, batch.actions], dim=1))
    bonus = model.evidence.bonus(psi, model.beta, model.max_bonus).mean()  # type: ignore[union-attr]
    assert model.logger.name_to_value["train/bonus"] == pytest.approx(float(bonus), rel=1e-4)


@pytest.mark.kernels
@pytest.mark.slow
@needs_compiler
def test_the_compiled_step_is_the_step() -> None:
    models = [make(compile=choice).learn(90) for choice in ("off", "on")]
    assert models[0].update is None and models[1].update is not None and models[1].update.step.mode == "compiled"
    assert models[0].n_switches == models[1].n_switches > 2
    for own, other in zip(*map(weights, models), strict=True):
        assert torch.allclose(own, other, atol=1e-4)
    assert float(models[0].gain) == pytest.approx(float(models[1].gain), rel=1e-3) and float(models[0].gain) != 0
    models[1].beta = models[0].beta = 40.0  # what the bonus depends on is not kept as it was
    bonuses = []
    for model in models:
        torch.manual_seed(1)
        np.random.seed(1)
        model.train(1, batch_size=16)
        bonuses.append(model.logger.name_to_value["train/bonus"])
    assert bonuses[1] == pytest.approx(bonuses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("estimator", "bonus", "cost"), [("rvi", False, 1.0), ("td", False, 1.0), ("rvi", True, 1.0), ("rvi", True, "auto")]
)
def test_stacked_seeds_are_the_seeds_trained_alone(estimator: str, bonus: bool, cost: Any) -> None:
    def job(seed: int, stacked: bool) -> Any:
        def learn() -> DeepLOOP:
            model = falling(
                bonus=bonus, gain_estimator=estimator, on_termination="reset", reset_cost=cost, compile="off",
            )  # fmt: skip
            model.set_random_seed(seed)
            return (as_function(model) if stacked else model).learn(60)

        return learn

    together = Lockstep([job(seed, True) for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        alone = job(seed, False)()
        for own, other in zip(weights(model), weights(alone), strict=True):
            assert torch.allclose(own, other, atol=1e-4)
        assert float(model.gain) == pytest.approx(float(alone.gain), rel=1e-3)
    assert float(together[0].gain) != float(together[1].gain)


def test_the_bonus_is_logged_and_several_critics_say_their_minimum() -> None:
    model = make(gain_rate=0.0).learn(60)
    batch = model.replay_buffer.sample(64)
    step = step_of(model, batch, torch.randn(64, 1), torch.randn(64, 1))
    bonus = model.bonus_of(step)
    assert bonus.shape == (64, 1) and bool((bonus > 0).all())
    assert float(take(model, step)["bonus"]) == pytest.approx(float(bonus.mean()), rel=1e-4)
    q_values = torch.tensor([[1.0, 3.0], [5.0, 4.0]])
    assert losses.smallest(q_values).flatten().tolist() == [1.0, 4.0]


def test_the_critic_of_the_resets_takes_the_step_of_its_own_reward() -> None:
    model = falling(on_termination="reset", gain_rate=0.2, tau=0.25, reset_cost_rate=0.5, allowed_resets=0.1)
    head = model.reset_critic
    assert head is not None
    head.gain.fill_(0.3)
    own = copy.deepcopy(head.critic)
    head.optimizer = torch.optim.SGD(head.critic.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    observations, following = torch.randn(2, 6, 1)
    actions, noise, next_noise = torch.randn(3, 6, 1)
    resets = torch.tensor([[0.0], [1.0], [0.0], [0.0], [1.0], [0.0]])
    mean, log_std, _ = model.actor.get_action_dist_params(following)
    next_actions = torch.tanh(mean + log_std.exp() * next_noise).detach()
    (values,) = head.critic_target(following, next_actions)
    (q_values,) = own(observations, actions)
    loss = 0.5 * ((q_values - (resets - 0.3 + values.detach())) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    before = [value.clone() for value in head.critic_target.parameters()]
    batch = ReplayBufferSamples(observations, actions, following, resets, torch.zeros(6, 1))
    info = take(model, step_of(model, batch, noise, next_noise), move_targets=True)
    assert float(info["reset_critic_loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for parameter, expected in zip(head.critic.parameters(), own.parameters(), strict=True):
        assert torch.allclose(parameter, expected, atol=1e-6)
    rate = 0.8 * 0.3 + 0.2 * float(values.mean())
    assert float(head.gain) == pytest.approx(rate, rel=1e-5)
    assert float(model.reset_price) == pytest.approx(max(0.0, 0.5 * (rate - 0.1)), rel=1e-5)
    for slow, was, fast in zip(head.critic_target.parameters(), before, head.critic.parameters(), strict=True):
        assert torch.allclose(slow, 0.75 * was + 0.25 * fast, atol=1e-6)


# --- resets ---


def test_a_terminating_episode_is_refused_or_becomes_a_reset() -> None:
    with pytest.raises(ConfigError, match=r"terminated at step \d+.*on_termination=.*ContinuingWrapper"):
        falling().learn(200)
    model = falling(on_termination="reset", reset_cost=3.0).learn(200)
    rows = model.replay_buffer.transitions(torch.arange(200))
    resets = rows.dones[:, 0] == 1
    assert 0 < int(resets.sum()) < 200
    assert bool((rows.next_observations[resets] == 0).all())  # the state after the reset, not the fallen one
    assert bool((rows.rewards[resets] > 1).all())  # the stored reward is the environment's: the price can change


def test_a_time_limit_is_passed_over() -> None:
    model = make(DummyVecEnv([lambda: Falls(limit=7)])).learn(50)
    rows = model.replay_buffer.transitions(torch.arange(50))
    assert float(rows.dones.sum()) == 0
    cut = rows.next_observations[6::7]
    assert bool((cut[:, 0] != 0).all())  # the last state of the episode, not the first of the next


def test_resets_inside_a_continuing_wrapper_have_the_price() -> None:
    model = make(DummyVecEnv([lambda: ContinuingWrapper(Falls())]), on_termination="reset", reset_cost=1.0).learn(100)
    assert float(model.replay_buffer.transitions(torch.arange(100)).dones.sum()) > 0
    plain = make(DummyVecEnv([lambda: ContinuingWrapper(Falls())])).learn(100)
    assert float(plain.replay_buffer.transitions(torch.arange(100)).dones.sum()) == 0


def test_the_price_of_a_reset_rises_while_they_are_too_frequent_and_falls_to_zero() -> None:
    settings = {"on_termination": "reset", "gain_rate": 0.05, "reset_cost_rate": 0.5, "learning_rate": 3e-3}
    frequent = falling(**settings, learning_starts=400).learn(400)  # nothing is learned yet: the actor walks at random
    frequent.tau = 0.05
    gains = []
    for _ in range(1000):
        batch = frequent.replay_buffer.sample(64)
        step = step_of(frequent, batch, torch.randn(64, 1), torch.randn(64, 1))
        frequent._price_resets(step)
        frequent.move_targets(step)
        gains.append(float(frequent.reset_critic.gain))  # type: ignore[union-attr]
    share = float(frequent.replay_buffer.transitions(torch.arange(400)).dones.mean())
    # The mean of its second half: one value of a critic that still moves says little.
    assert share / 3 < np.mean(gains[500:]) < 3 * share
    assert float(frequent.reset_price) > 0
    rare = falling(**settings, allowed_resets=1.0).learn(100)
    assert float(rare.reset_price) == 0
    cost, step = torch.tensor(1.0), 0.5
    assert float(losses.dual_step(cost, torch.tensor(0.2), 0.1, step)) == pytest.approx(1.05)
    assert float(losses.dual_step(cost, torch.tensor(0.0), 0.1, step)) == pytest.approx(0.95)
    assert float(losses.dual_step(torch.tensor(0.0), torch.tensor(0.0), 0.1, step)) == 0


# --- saving ---


@pytest.mark.parametrize(
    "settings",
    [
        {},
        RVI_SAC,
        {"bonus": False},
        {"lazy": False},
        {"on_termination": "reset"},
        pytest.param({"compile": "on"}, marks=[pytest.mark.slow, needs_compiler]),
    ],
    ids=["whole", "rvi_sac", "lazy", "bonus", "resets", "compiled"],
)
def test_a_run_goes_on_bit_for_bit(settings: dict[str, Any]) -> None:
    def small() -> DeepLOOP:
        if "on_termination" in settings:
            return make(rlopt.make_env("rlopt/Continuing-v0", env_kwargs={"env": "Pendulum-v1"}), **settings)
        return make(**settings)

    whole = small().learn(130)
    stopped = small()
    stopped.boundary_hook = lambda model: model.num_timesteps < 67
    stopped.learn(130)
    trees = capture_state(stopped)
    resumed = small()
    learn_from(resumed, trees, 130)
    one, other = leaves(capture_state(whole)), leaves(capture_state(resumed))
    assert one == other and whole.num_timesteps == 130


def test_sb3_zip_round_trip_keeps_gain_plan_and_evidence(tmp_path: Path) -> None:
    model = make().learn(80)
    model.save(tmp_path / "model.zip")
    loaded = DeepLOOP.load(tmp_path / "model.zip")
    assert float(loaded.gain) == float(model.gain) != 0
    assert loaded.discrepancy == model.discrepancy != 0
    assert loaded.n_switches == model.n_switches
    assert equal(list(loaded.plan.state_dict().values()), list(model.plan.state_dict().values()))


def test_a_checkpoint_rebuilds_the_model(tmp_path: Path) -> None:
    model = make(beta=2.0, max_bonus=0.5).learn(80)
    path = save_checkpoint(model, tmp_path)
    loaded = rlopt.load(path, device="cpu")
    assert isinstance(loaded, DeepLOOP) and (loaded.beta, loaded.max_bonus, loaded.gamma) == (2.0, 0.5, 1.0)
    assert equal(weights(loaded), weights(model)) and float(loaded.gain) == float(model.gain) != 0
    observation = np.zeros(3, np.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]


# --- bad input ---


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("gain_rate", -0.1),
        ("gain_rate", 1.1),
        ("beta", 0),
        ("beta", math.nan),
        ("max_bonus", 0.0),
        ("n_features", 0),
        ("n_features", 1.5),
        ("ridge", 0.0),
        ("length_scale", -1.0),
        ("switch_multiplier", 1.0),
        ("min_interval", 0),
        ("min_interval", 50),
        ("bonus", 1),
        ("lazy", "yes"),
        ("reset_cost", -1.0),
        ("reset_cost", "learned"),
        ("allowed_resets", 2),
        ("reset_cost_rate", math.inf),
        ("centring_coef", -1),
        ("gamma", 0.9),
        ("n_steps", 3),
        ("use_sde", True),
        ("batch_size", 0),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting) as caught:
        make(**{setting: value})
    assert "\n" not in str(caught.value)


def test_misspelt_choices_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="rvi"):
        make(gain_estimator="rvj")
    with pytest.raises(UnknownNameError, match="reset"):
        make(on_termination="resets")


def test_environments_that_it_cannot_learn_from_are_refused() -> None:
    with pytest.raises(ConfigError, match="VecNormalize"):
        make(VecNormalize(DummyVecEnv([Falls])))
    goals = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32)})

    class Goals(Falls):
        observation_space = goals  # type: ignore[assignment]

    with pytest.raises(SpaceError, match="bonus and lazy need flat Box"):
        DeepLOOP("MultiInputPolicy", DummyVecEnv([Goals]), **SMALL)
