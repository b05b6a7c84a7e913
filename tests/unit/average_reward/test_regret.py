"""Regret tools: the optimal policy's noise against simulation, slopes, callback, coverage by brute force."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from transitions import Recorder

import rlopt
import rlopt.envs.tasks.own_tasks
from rlopt.agents.loop.baselines.fopo import FOPO
from rlopt.agents.loop.baselines.q_learning import DifferentialQ
from rlopt.agents.loop.confidence_sets.coverage import coverage
from rlopt.average_reward import (
    FiniteMDP,
    log_log_slope,
    noise_band,
    optimism_gaps,
    optimistic_share,
    regret_curve,
    regret_variance,
    switch_times,
)
from rlopt.average_reward.callbacks import RewardRateCallback
from rlopt.envs.average_reward import FiniteEnv, GapRecorder
from rlopt.errors import ConfigError, NonFiniteError


def env(name: str = "RiverSwim", **kwargs: Any) -> Any:
    return gymnasium.make(f"rlopt/{name}-v0", **kwargs).unwrapped


def test_variance_by_hand() -> None:
    # Two states, each followed by either alike; reward 1 in state 0: a fair coin, variance 1/4 a step.
    coin = FiniteMDP(np.full((2, 1, 2), 0.5), [[1.0], [0.0]])
    assert regret_variance(coin) == pytest.approx(0.25)
    # One state, the reward 0 or 1 by the action alone: again a fair coin.
    actions = FiniteMDP(np.ones((1, 2, 1)), [[0.0, 1.0]])
    assert regret_variance(actions, [[0.5, 0.5]]) == pytest.approx(0.25)
    assert regret_variance(actions) == 0.0
    np.testing.assert_allclose(noise_band(coin, [100, 400]), 1.96 * np.sqrt([25.0, 100.0]))


def test_noise_band_holds_95_percent_of_simulated_regrets() -> None:
    mdp, rng, copies, steps = env().mdp, np.random.default_rng(0), 3000, 4000
    chain, rewards = mdp.chain(mdp.solution.policy)
    cumulative = chain.cumsum(axis=1)
    states = rng.choice(6, size=copies, p=mdp.solution.stationary_distribution)
    sums = np.zeros(copies)
    for _ in range(steps):
        sums += rewards[states]
        states = np.minimum((rng.random(copies)[:, None] > cumulative[states]).sum(axis=1), 5)
    inside = np.abs(mdp.gain * steps - sums) <= noise_band(mdp, steps)
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("kernel", ["osband", "gentle", "strehl_littman"])
def test_noise_band_holds_95_percent_of_runs_whose_rewards_have_noise_too(kernel: str) -> None:
    river, rng, copies, steps = env(kernel=kernel), np.random.default_rng(0), 4000, 1500
    mdp, states = river.mdp, None
    rows = [mdp.outcomes[state][int(action)] for state, action in enumerate(mdp.solution.policy)]
    width = max(map(len, rows))
    table = np.array([[*row, *[(0.0, 0, 0.0)] * (width - len(row))] for row in rows])
    borders, targets, rewards = table[:, :, 0].cumsum(axis=1), table[:, :, 1].astype(int), table[:, :, 2]
    states = rng.choice(mdp.n_states, size=copies, p=mdp.solution.stationary_distribution)
    sums = np.zeros(copies)
    for _ in range(steps):
        drawn = np.minimum((rng.random(copies)[:, None] > borders[states]).sum(axis=1), width - 1)
        sums += rewards[states, drawn]
        states = targets[states, drawn]
    inside = np.abs(mdp.gain * steps - sums) <= noise_band(mdp, steps)
    assert inside.mean() == pytest.approx(0.95, abs=0.015)


def test_variance_of_a_bernoulli_arm_is_that_of_the_coin() -> None:
    arm = FiniteEnv([[[(0.4, 0, 1.0), (0.6, 0, 0.0)]]]).mdp
    assert regret_variance(arm) == pytest.approx(0.24) and regret_variance(FiniteMDP(arm.P, arm.r)) == 0.0
    mixed = FiniteEnv([[[(1.0, 0, 1.0)], [(1.0, 0, 0.0)]]]).mdp
    assert regret_variance(mixed, [[0.5, 0.5]]) == pytest.approx(0.25)


def test_regret_curve() -> None:
    mdp = env().mdp
    steps = np.array([10, 20, 40, 80, 160]) * 10_000
    sums = np.stack([mdp.gain * steps - 60 * np.sqrt(steps) - shift for shift in (-10.0, 0.0, 10.0)])
    curve = regret_curve(mdp, steps, sums)
    np.testing.assert_allclose(curve.mean, 60 * np.sqrt(steps))
    np.testing.assert_allclose(curve.final, 60 * math.sqrt(1_600_000) + np.array([-10.0, 0.0, 10.0]))
    assert curve.slope == pytest.approx(0.5, abs=1e-6)
    assert np.all(curve.low <= curve.mean) and np.all(curve.high >= curve.mean) and curve.high[-1] > curve.low[-1]
    assert math.isnan(regret_curve(mdp, steps, mdp.gain * steps - 1.0).slope), "within the noise"
    with pytest.raises(ConfigError, match="increasing"):
        regret_curve(mdp, [3, 2], [[1.0, 2.0]])
    with pytest.raises(ConfigError, match=r"\[seeds, 2\]"):
        regret_curve(mdp, [2, 3], [[1.0, 2.0, 3.0]])
    with pytest.raises(NonFiniteError):
        regret_curve(mdp, [2, 3], [[1.0, math.nan]])


def test_slopes() -> None:
    steps = np.arange(1, 1001)
    assert log_log_slope(steps, 3.0 * steps) == pytest.approx(1)
    # Linear at first, flat later: the first tenth is left out.
    assert log_log_slope(steps, np.minimum(steps, 100.0)) == pytest.approx(0, abs=1e-9)
    assert math.isnan(log_log_slope(steps, -np.ones(1000)))
    with pytest.raises(ConfigError, match="from_share"):
        log_log_slope(steps, steps, from_share=1.0)


def test_callback_keeps_rates_and_traces_of_an_agent() -> None:
    callback = RewardRateCallback(every=250)
    model = rlopt.LOOP(env(), seed=0).learn(2000, callback=callback)
    np.testing.assert_array_equal(callback.steps, np.arange(250, 2001, 250))
    assert callback.reward_sums[-1] == pytest.approx(model.reward_sum)
    assert callback.trace("discrepancy")[-1] == model.discrepancy
    assert callback.trace("threshold")[-1] == model.threshold and callback.trace("gain")[-1] == model.gain
    assert np.all(callback.trace("discrepancy") < callback.trace("threshold"))
    times = switch_times(model)
    assert len(times) == model.n_switches and np.all(np.diff(times) > 0)
    with pytest.raises(ConfigError, match="no trace 'gian'"):
        callback.trace("gian")


def test_callback_counts_all_copies_of_a_deep_agent() -> None:
    vec_env = rlopt.make_env("rlopt/RiverSwim-v0", n_envs=2)
    callback = RewardRateCallback(every=100)
    PPO("MlpPolicy", vec_env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(512, callback=callback)
    np.testing.assert_array_equal(callback.steps, [100, 200, 300, 400, 500])
    assert np.all(np.isnan(callback.trace("discrepancy"))) and np.all(np.diff(callback.reward_sums) >= 0)


def test_optimism() -> None:
    river = env()
    agents = [rlopt.LOOP(env(), seed=seed).learn(2000) for seed in range(2)]
    gaps = optimism_gaps(agents[0], river.mdp)
    assert len(gaps) == len(agents[0].plans) and gaps[0] == pytest.approx(1 - river.mdp.gain)
    expected = [all(plan.gain >= river.mdp.gain - 1e-6 for plan in agent.plans) for agent in agents]
    assert optimistic_share(agents, river.mdp) == np.mean(expected)


def test_coverage_by_brute_force() -> None:
    kept = Recorder(env())
    mdp = kept.unwrapped.mdp  # type: ignore[attr-defined]
    model = rlopt.LOOP(kept, procedure="paper", seed=0).learn(1500)
    Q, V = mdp.solution.values, mdp.solution.values.max(axis=1)
    brute = 0.0
    for s in range(6):
        for a in range(2):
            regressand = [r + V[t] for i, j, r, t in kept.seen if (i, j) == (s, a)]
            if regressand:
                brute += sum((Q[s, a] + mdp.gain - y) ** 2 - (np.mean(regressand) - y) ** 2 for y in regressand)
    found = coverage(model, mdp)
    assert found.discrepancy == pytest.approx(brute, rel=1e-6) and found.beta == model.beta
    assert found.covered == (brute <= model.beta)
    likely = rlopt.MLELOOP(Recorder(env()), seed=0).learn(1500)
    counts = likely.data.model.transitions  # type: ignore[union-attr]
    kernel = likely.data.model.kernel()  # type: ignore[union-attr]
    positive = counts > 0
    brute = float(np.sum(counts[positive] * np.log(kernel[positive] / mdp.P[positive])))
    assert coverage(likely, mdp).discrepancy == pytest.approx(brute)


def test_truth_is_covered_at_scale_one() -> None:
    for agent, name in (
        (rlopt.LOOP, "RiverSwim"),
        (rlopt.LinearLOOP, "AggregatedRiverSwim"),
        (FOPO, "AggregatedRiverSwim"),
    ):
        process = env(name)
        found = coverage(agent(process, seed=0, beta_scale=1.0).learn(400), process.mdp)
        assert found.covered and found.discrepancy >= 0
    process = env("MixtureRiverSwim")
    found = coverage(rlopt.MLELOOP(process, seed=0, beta_scale=1.0).learn(400), process.mdp)
    assert found.covered and found.discrepancy >= -1e-6
    with pytest.raises(ConfigError, match="no confidence set"):
        coverage(DifferentialQ(env(), seed=0).learn(10), env().mdp)


def test_the_costs_of_actions_are_the_regret_without_the_noise() -> None:
    """T g - sum r = sum Delta + h(s_T) - h(s_0) + sum [E h(s_{t+1}) - h(s_{t+1})] holds on every single path."""
    recorded = GapRecorder(env())
    mdp = recorded.unwrapped.mdp
    rng = np.random.default_rng(0)
    first, _ = recorded.reset(seed=0)
    state, rewards, noise = first, 0.0, 0.0
    for _ in range(500):
        action = int(rng.integers(2))
        following, reward, *_ = recorded.step(action)
        noise += mdp.P[state, action] @ mdp.bias - mdp.bias[following]
        state, rewards = following, rewards + float(reward)
    regret = 500 * mdp.gain - rewards
    assert regret == pytest.approx(recorded.losses.sum() + mdp.bias[state] - mdp.bias[first] + noise, abs=1e-8)
    assert len(recorded.losses) == 500 and recorded.losses.min() == 0 < recorded.losses.max()


def test_only_finite_processes_have_costs() -> None:
    with pytest.raises(ConfigError, match="knows no exact process"):
        GapRecorder(gymnasium.make("CartPole-v1"))
