"""Policies as vectors: they act as Stable-Baselines3 says, many at once as well as one."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from rlopt.agents.zo_ranksgd.policies.observations import Normalizer, features
from rlopt.agents.zo_ranksgd.policies.sb3_policy import ModulePolicy, load_parameters, make_policy
from rlopt.agents.zo_ranksgd.policies.vector import LinearPolicy, NetworkPolicy, inputs_of
from rlopt.errors import ConfigError, SpaceError, UnknownNameError

BOX = spaces.Box(-np.inf, np.inf, (4,), np.float32)
TORQUES = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 3.0], np.float32))
IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
BOTH = spaces.Dict({"camera": IMAGES, "state": BOX})
PARTS = spaces.Dict({"b": spaces.Discrete(3), "a": BOX})


def made(policy: Any, observation_space: Any, action_space: Any, **kwargs: Any) -> tuple[Any, Any]:
    kwargs = {"bias": True, "policy_kwargs": None, "seed": 0, "device": "cpu", **kwargs}
    return make_policy(policy, observation_space, action_space, **kwargs)


@pytest.mark.parametrize(
    ("policy", "observation_space", "action_space", "kind"),
    [
        ("MlpPolicy", BOX, TORQUES, NetworkPolicy),
        ("MlpPolicy", BOX, spaces.Discrete(3), NetworkPolicy),
        ("MlpPolicy", spaces.Discrete(5), spaces.MultiDiscrete([2, 4]), NetworkPolicy),
        ("MlpPolicy", spaces.MultiBinary(6), spaces.MultiBinary(3), NetworkPolicy),
        ("MultiInputPolicy", PARTS, TORQUES, NetworkPolicy),
        ("CnnPolicy", IMAGES, TORQUES, ModulePolicy),
        ("MultiInputPolicy", BOTH, spaces.Discrete(3), ModulePolicy),
        (TD3Policy, BOX, TORQUES, NetworkPolicy),
        (SACPolicy, BOX, TORQUES, ModulePolicy),
        (DQNPolicy, BOX, spaces.Discrete(4), NetworkPolicy),
    ],
)
def test_many_at_once_act_as_stable_baselines3_does(
    policy: Any, observation_space: Any, action_space: Any, kind: type
) -> None:
    module, vector = made(policy, observation_space, action_space)
    assert type(vector) is kind
    rng = np.random.default_rng(0)
    points = vector.initial() + 0.3 * rng.standard_normal((5, vector.dimension))
    observation_space.seed(0)
    samples = [observation_space.sample() for _ in range(5)]
    many: Any = (
        {key: np.stack([sample[key] for sample in samples]) for key in observation_space.spaces}
        if isinstance(observation_space, spaces.Dict)
        else np.stack(samples)
    )
    actions = vector.act(vector.prepare(points), inputs_of(vector, observation_space, many))
    if isinstance(action_space, spaces.Box):
        actions = np.clip(actions, action_space.low, action_space.high)
    for index in range(5):
        load_parameters(module, points[index])
        expected, _ = module.predict(samples[index], deterministic=True)
        np.testing.assert_allclose(actions[index], expected, rtol=1e-4, atol=1e-5)
    assert len({action.tobytes() for action in actions}) > 1
    # One policy on several observations.
    batch = vector.act(vector.prepare(points[-1:]), inputs_of(vector, observation_space, many))
    expected, _ = module.predict(many, deterministic=True)
    if isinstance(action_space, spaces.Box):
        batch = np.clip(batch, action_space.low, action_space.high)
    np.testing.assert_allclose(batch, expected, rtol=1e-4, atol=1e-5)


def test_the_vector_is_that_of_torch_and_of_the_actor_alone() -> None:
    module, vector = made("MlpPolicy", BOX, TORQUES, policy_kwargs={"net_arch": [8, 6]})
    parts = [*module.mlp_extractor.policy_net.parameters(), *module.action_net.parameters()]
    expected = torch.nn.utils.parameters_to_vector(parts).detach().numpy()
    np.testing.assert_array_equal(vector.initial(), expected.astype(np.float64))
    assert vector.dimension == (4 * 8 + 8) + (8 * 6 + 6) + (6 * 2 + 2)
    before = module.value_net.weight.clone(), module.log_std.clone()
    load_parameters(module, np.arange(vector.dimension, dtype=np.float64))
    assert module.action_net.bias.tolist() == [vector.dimension - 2, vector.dimension - 1]
    assert torch.equal(module.value_net.weight, before[0]) and torch.equal(module.log_std, before[1])


def test_the_seed_makes_the_network_and_leaves_global_generators_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (made("MlpPolicy", BOX, TORQUES, seed=seed)[1].initial() for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_linear_policy_is_the_formula() -> None:
    policy = LinearPolicy(BOX, TORQUES)
    assert policy.dimension == 2 * (4 + 1) and not policy.initial().any()
    weights = np.array([[0.1, 0.2, 0.0, -0.1], [0.0, 0.0, 5.0, 0.0]])
    bias = np.array([0.05, -0.5])
    x = np.array([[1.0, 2.0, 0.3, 4.0], [0.0, 0.0, -9.0, 0.0]])
    actions = policy.act(policy.prepare(np.concatenate([weights.ravel(), bias])[None]), x)
    # Outputs .15 and 1 (clipped: the upper bound); then .05 and -1 (clipped: the lower bound).
    np.testing.assert_allclose(actions, [[0.3, 3.0], [0.1, 0.0]], atol=1e-12)
    unbounded = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    plain = LinearPolicy(BOX, unbounded, bias=False)
    assert plain.dimension == 4 and plain.act(plain.prepare(np.full((1, 4), 100.0)), np.ones((1, 4))).item() == 400.0


def test_linear_policy_of_finitely_many_actions() -> None:
    policy = LinearPolicy(spaces.Discrete(3, start=1), spaces.Discrete(2, start=5), bias=False)
    table = np.array([[1.0, 0.0, 3.0], [0.0, 2.0, 4.0]])
    inputs = features(policy.observation_space, np.array([1, 2, 3]))
    assert policy.act(policy.prepare(table.ravel()[None]), inputs).tolist() == [5, 6, 6]


def test_features_follow_stable_baselines3() -> None:
    observations = {"a": np.array([[1.0, 2, 3, 4]], np.float32), "b": np.array([2])}
    assert features(PARTS, observations).tolist() == [[1, 2, 3, 4, 0, 0, 1]]
    image = np.full((1, 3, 36, 36), 51, np.uint8)
    assert np.allclose(features(IMAGES, image), 0.2) and features(IMAGES, image).shape == (1, 3888)
    assert features(spaces.MultiDiscrete([2, 3]), np.array([[1, 0]])).tolist() == [[0, 1, 1, 0, 0]]


def test_running_statistics_are_those_of_all_observations() -> None:
    from rlopt.agents.zo_ranksgd.policies.observations import Moments

    rng = np.random.default_rng(0)
    everything = 1e6 + rng.standard_normal((300, 3)) * [1.0, 5.0, 0.0]
    normalizer = Normalizer(3)
    assert normalizer.apply(everything[:2]) is not None and np.array_equal(normalizer.apply(everything), everything)
    for part in (everything[:10], everything[10:200], everything[200:]):
        away = part - normalizer.mean
        normalizer.update(Moments(normalizer.mean.copy(), len(part), away.sum(axis=0), (away**2).sum(axis=0)))
    np.testing.assert_allclose(normalizer.mean, everything.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.variance[:2], everything.var(axis=0)[:2], rtol=1e-3)
    shown = normalizer.apply(everything)
    np.testing.assert_allclose(shown[:, :2].std(axis=0), 1.0, rtol=1e-3)
    assert np.abs(shown[:, 2]).max() < 1e-6 and np.abs(normalizer.apply(everything + 1e9)).max() == 10.0
    again = Normalizer(3)
    again.set_state(normalizer.get_state())
    assert np.array_equal(again.apply(everything), shown)
    with pytest.raises(ValueError, match="do not fit"):
        Normalizer(2).set_state(normalizer.get_state())


@pytest.mark.parametrize(
    ("policy", "observation_space", "action_space", "kwargs", "error", "message"),
    [
        ("LinerPolicy", BOX, TORQUES, {}, UnknownNameError, "did you mean 'LinearPolicy'"),
        ("LinearPolicy", BOX, TORQUES, {"policy_kwargs": {"net_arch": [4]}}, ConfigError, "for networks"),
        ("LinearPolicy", BOX, spaces.Tuple([TORQUES]), {}, SpaceError, "cannot be searched"),
        ("LinearPolicy", spaces.Text(3), TORQUES, {}, SpaceError, "not vectors"),
        ("MlpPolicy", BOX, TORQUES, {"policy_kwargs": {"use_sde": True}}, ConfigError, "gSDE"),
        ("CnnPolicy", BOX, TORQUES, {}, SpaceError, "cannot be made"),
    ],
)
def test_what_cannot_be_searched(
    policy: Any, observation_space: Any, action_space: Any, kwargs: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        made(policy, observation_space, action_space, **kwargs)


def test_a_policy_of_other_spaces_is_refused() -> None:
    policy = ActorCriticPolicy(BOX, TORQUES, lambda _: 0.0)
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(SpaceError, match="other spaces"):
        made(policy, env.observation_space, env.action_space)
