"""MDPO on small environments: spaces, phases, schedules, errors, Stable-Baselines3's surface."""

import functools
import math
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

import rlopt
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.agents.ppo.heads import factors
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import ConfigError, NonFiniteError, SpaceError


class Random(gymnasium.Env):
    """Random observations and rewards; truncates after ``limit`` steps; can be told to emit a broken value."""

    def __init__(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        limit: int = 20,
        broken: dict[int, str] | None = None,
        reward: float | None = None,
    ) -> None:
        # An empty Dict is false, so None is asked for by name.
        self.observation_space = spaces.Box(-1, 1, (3,)) if observation_space is None else observation_space
        self.action_space = spaces.Box(-1, 1, (2,)) if action_space is None else action_space
        self.limit, self.broken, self.reward, self.total, self.t = limit, broken or {}, reward, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.t += 1
        self.total += 1
        observation = self.observation_space.sample()
        reward = float(self.np_random.normal()) if self.reward is None else self.reward
        what = self.broken.get(self.total)
        if what == "observation":
            observation[0] = np.nan
        if what == "reward":
            reward = float("inf")
        return observation, reward, False, self.t >= self.limit, {}


PAPER: dict[str, Any] = {
    "batch_size": None,
    "target_kl": None,
    "normalize_value": False,
    "learning_rate": 3e-4,
    "n_value_epochs": 5,
}
"""The full batch and the fixed schedule, as in the paper."""


def model(env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> MDPO:
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "seed": 0, "device": "cpu"}
    return MDPO(policy, Random() if env is None else env, **{**PAPER, **settings, **kwargs})


def weights(algorithm: MDPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.policy.state_dict().items()}


@pytest.mark.parametrize("tsallis_q", [1.0, 1.5])
@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(
    "action_space",
    [spaces.Box(-2, 3, (2,), np.float32), spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
)
def test_every_action_space_trains(action_space: spaces.Space, batch_size: int | None, tsallis_q: float) -> None:
    algorithm = model(Random(action_space=action_space), batch_size=batch_size, tsallis_q=tsallis_q, n_epochs=2)
    before = weights(algorithm)
    algorithm.learn(64)
    assert algorithm.num_timesteps == 64
    assert any(not torch.equal(value, before[name]) for name, value in weights(algorithm).items())
    action, _ = algorithm.predict(algorithm.observation_space.sample())
    assert action_space.contains(action)


def test_dict_observations_and_several_environments_train() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    env = DummyVecEnv([lambda: Random(observation_space=space)] * 2)
    algorithm = model(env, policy="MultiInputPolicy", batch_size=16).learn(128)
    assert algorithm.num_timesteps == 128


@pytest.mark.parametrize("squash", [False, True])
def test_state_dependent_exploration_trains(squash: bool) -> None:
    algorithm = model(use_sde=True, sde_sample_freq=4, policy_kwargs={"squash_output": squash}).learn(64)
    assert algorithm.num_timesteps == 64
    assert np.isfinite(algorithm.logger.name_to_value["train/divergence"])


def test_foreign_spaces_and_settings_are_refused() -> None:
    with pytest.raises(SpaceError, match="MDPO cannot use the action space"):
        model(Random(action_space=spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))))
    for name, value in [
        ("step_size", 0.0),
        ("tsallis_q", 0.5),
        ("n_epochs", 0),
        ("clip_range_vf", -0.1),
        ("ent_coef", -1.0),
        ("step_size_schedule", "cosine"),
    ]:
        with pytest.raises(ConfigError, match=name):
            model(**{name: value})
    with pytest.raises(ConfigError, match="did you mean 'relu'"):
        model(policy_kwargs={"activation_fn": "rellu"})

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_steps", 0),
        ("gamma", 1.01),
        ("gamma", float("nan")),
        ("gae_lambda", -0.1),
        ("max_grad_norm", 0.0),
        ("step_size", float("inf")),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("value_learning_rate", float("inf")),
        ("learning_rate", 1e200),
        ("n_steps", 1.5),
        ("n_steps", True),
        ("n_epochs", 2.5),
        ("batch_size", 2.5),
        ("gamma", "0.9"),
        ("gae_lambda", None),
        ("learning_rate", "fast"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(name: str, value: Any) -> None:
    shown = f"({re.escape(repr(value))}|{re.escape(str(value).lower())})"  # as Python, or as a flag has it
    with pytest.raises(ConfigError, match=rf"^{name} = {shown} is (outside [\[(]|not a (whole )?number)"):
        model(**{name: value})


def test_an_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="compile = of is not a choice: did you mean 'off'"):
        model(compile="of")


def test_an_id_of_dm_control_is_made_into_its_environment() -> None:
    algorithm = MDPO("MlpPolicy", "dm_control/cartpole-balance", n_steps=16, device="cpu")
    assert algorithm.observation_space.shape == (5,) and algorithm.n_envs == 1
    with pytest.raises(ConfigError, match="did you mean 'dm_control/cartpole-balance'"):
        MDPO("MlpPolicy", "dm_control/cartpole-balanc")


def test_an_id_that_gymnasium_does_not_know_is_one_of_ours_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'Pendulum-v1'"):
        MDPO("MlpPolicy", "Pendulm-v1")

    def not_registered(env: str, verbose: int) -> None:  # as before rlopt.envs is imported
        raise gymnasium.error.NamespaceNotFound(env)

    monkeypatch.setattr("rlopt.algorithms.resumable.maybe_make_env", not_registered)
    assert MDPO("MlpPolicy", "rlopt/RandomTarget-v0", n_steps=16, device="cpu").n_envs == 1


def test_the_ends_of_the_ranges_are_allowed() -> None:
    still: dict[str, Any] = {"learning_rate": 0.0, "value_learning_rate": 0.0, "max_grad_norm": float("inf")}
    algorithm = model(gamma=0, gae_lambda=1.0, n_steps=np.int64(2), **still)
    before = weights(algorithm)
    algorithm.learn(2)
    assert all(torch.equal(value, before[name]) for name, value in weights(algorithm).items())


def test_first_step_is_the_plain_policy_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """pi_k is the policy that collected the data, from the first update on (the released code starts from another)."""
    seen: list[tuple[float, float]] = []
    original = MDPO.policy_loss

    def spy(*args: Any, **kwargs: Any) -> Any:
        loss, info = original(*args, **kwargs)
        seen.append((info["divergence"].item(), info["ratio_std"].item()))
        return loss, info

    monkeypatch.setattr(MDPO, "policy_loss", staticmethod(spy))
    model(n_epochs=4, learning_rate=1e-2).learn(64)
    assert len(seen) == 8, "m full-batch gradient steps a rollout"
    for first in (seen[0], seen[4]):
        assert first == pytest.approx((0.0, 0.0), abs=1e-6)
    for later in (*seen[1:4], *seen[5:]):
        assert later[0] > 1e-5 and later[1] > 1e-4


@pytest.mark.parametrize("still", ["value_learning_rate", "learning_rate"])
def test_phases_touch_only_their_own_parameters(still: str) -> None:
    """The phase whose rate is 0 moves nothing, and the other nothing of its parameters."""
    algorithm = model(**{"learning_rate": 1e-2, "value_learning_rate": 1e-2, still: 0.0})
    before = weights(algorithm)
    algorithm.learn(32)
    moved = {name for name, value in weights(algorithm).items() if not torch.equal(value, before[name])}
    policy, value = ({"log_std", "action_net.bias"}, {"value_net.bias"})
    ours, theirs = (policy, value) if still == "value_learning_rate" else (value, policy)
    assert ours <= moved and not theirs & moved
    assert all(("value" in name) is (still == "learning_rate") for name in moved)


@pytest.mark.parametrize("share", [None, False, True])
def test_a_features_extractor_is_trained_by_one_phase(share: bool | None) -> None:
    """Of CnnPolicy each network has its own, unless one is asked for: that is the policy's."""
    space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    options = {} if share is None else {"policy_kwargs": {"share_features_extractor": share}}
    algorithm = model(Random(observation_space=space), policy="CnnPolicy", n_steps=16, n_epochs=1, **options)
    policy = algorithm.policy
    ours, theirs = ({id(p) for p in phase} for phase in (algorithm.policy_parameters, algorithm.value_parameters))
    assert not ours & theirs and ours | theirs == {id(p) for p in policy.parameters()}
    assert {id(p) for p in policy.pi_features_extractor.parameters()} <= ours
    assert (policy.vf_features_extractor is policy.pi_features_extractor) is bool(share)
    assert {id(p) for p in policy.vf_features_extractor.parameters()} <= (ours if share else theirs)


def as_version_1(algorithm: Any) -> None:
    """Both phases train what is shared, as they did."""
    shared = list(algorithm.policy.pi_features_extractor.parameters())
    algorithm.value_parameters = [*shared, *algorithm.value_parameters]
    algorithm.value_optimizer = torch.optim.Adam(algorithm.value_parameters, eps=1e-5, fused=True)
    for parameter in algorithm.value_parameters:
        parameter.grad = torch.ones_like(parameter)
    algorithm.value_optimizer.step()


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("kind", ["zip", "checkpoint"])
def test_models_of_version_1_whose_networks_share_an_extractor_load(stated: bool, kind: str, tmp_path: Path) -> None:
    """Where sharing was stated it stays; where it was the default, there are two extractors like the one."""
    env = functools.partial(Random, observation_space=spaces.Box(0, 255, (36, 36, 1), np.uint8))
    options = {"policy_kwargs": {"share_features_extractor": True}}
    former = model(env(), policy="CnnPolicy", n_steps=16, n_epochs=1, **options)
    as_version_1(former)
    if not stated:
        former.constructor_settings["policy_kwargs"] = None
    if kind == "zip":
        former.save(tmp_path / "former.zip")
        loaded = MDPO.load(tmp_path / "former.zip", device="cpu")
    else:
        loaded = rlopt.load(save_checkpoint(former, tmp_path), device="cpu")
    assert loaded.policy.share_features_extractor is stated
    shown = former.policy.obs_to_tensor(former.observation_space.sample())[0]
    assert torch.equal(loaded.policy.predict_values(shown), former.policy.predict_values(shown))
    ours, theirs = (policy.get_distribution(shown).mode() for policy in (loaded.policy, former.policy))
    assert torch.equal(ours, theirs)
    moments = [former.value_optimizer.state[p]["exp_avg"] for p in former.value_parameters]
    found = [loaded.value_optimizer.state[p]["exp_avg"] for p in loaded.value_parameters]
    assert all(map(torch.equal, found, moments[-len(found) :])) and (len(found) < len(moments)) is stated
    loaded.set_env(DummyVecEnv([env]))
    loaded.learn(16)


class Masked(torch.nn.Module):
    """Logits of a layer, -inf for an action that is not allowed."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(latent)
        return logits.masked_fill(torch.arange(logits.shape[1]) == 1, -math.inf)


class MaskedPolicy(ActorCriticPolicy):
    """The same in a distribution of its own, as people write it for PPO."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        return self.action_dist.proba_distribution(Masked(self.action_net)(latent_pi))


@pytest.mark.parametrize("q", [1.0, 1.5])
@pytest.mark.parametrize("way", ["module", "policy"])
@pytest.mark.parametrize("mode", ["eager", "stepped"])
@pytest.mark.parametrize("actions", [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)])
def test_masked_logits_are_learned_from(q: float, way: str, mode: str, actions: spaces.Space[Any]) -> None:
    """A probability of 0 stays one, adds nothing to the divergence, and has no gradient."""
    env = Random(observation_space=spaces.Box(-1, 1, (3,), np.float32), action_space=actions)
    policy: Any = MaskedPolicy if way == "policy" else "MlpPolicy"
    algorithm = model(env, policy=policy, tsallis_q=q, ent_coef=0.1)
    if way == "module":
        algorithm.policy.action_net = Masked(algorithm.policy.action_net)
    if mode == "stepped":
        algorithm._update_mode = lambda: "eager"  # type: ignore[method-assign]
    before = weights(algorithm)
    algorithm.learn(96)
    assert all(bool(torch.isfinite(value).all()) for value in weights(algorithm).values())
    assert sum(not torch.equal(value, before[name]) for name, value in weights(algorithm).items()) >= 8
    assert 0 < algorithm.logger.name_to_value["train/final_divergence"] < 1


def test_step_size_and_learning_rate_are_annealed() -> None:
    """K = 4 updates: t_k = 1, 3/4, 1/2, 1/4. The released code computes a learning-rate schedule and never uses it."""

    class Record(BaseCallback):
        seen: list[tuple[float, float]]

        def _on_training_start(self) -> None:
            self.seen = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            values = self.logger.name_to_value
            if "train/step_size" in values:
                self.seen.append((values["train/step_size"], values["train/learning_rate"]))

        def _on_training_end(self) -> None:
            self._on_rollout_start()

    record = Record()
    model(learning_rate=LinearSchedule(1e-3, 0.0, 1.0)).learn(128, callback=record)
    assert [size for size, _ in record.seen] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert [rate for _, rate in record.seen] == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0.0])
    constant = model(step_size=0.3, step_size_schedule="constant").learn(64)
    assert constant.logger.name_to_value["train/step_size"] == 0.3


def test_the_default_rate_falls_to_a_tenth_and_parts_of_a_run_are_told() -> None:
    small: dict[str, Any] = {"n_steps": 32, "n_epochs": 1, "n_value_epochs": 1, "seed": 0, "device": "cpu"}
    mdpo = MDPO("MlpPolicy", Random(), **small).learn(64)
    rates = [mdpo.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)]
    assert rates == pytest.approx([1e-3, 5.5e-4, 1e-4])
    with pytest.warns(
        UserWarning, match="was 64 steps and becomes 128: to learn in parts, give learning_rate a number"
    ):
        mdpo.learn(64, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MDPO("MlpPolicy", Random(), batch_size=32, value_batch_size=32, learning_rate=1e-3, **small).learn(64).learn(
            64, reset_num_timesteps=False
        )


def test_time_limits_are_bootstrapped() -> None:
    """Reward 1 for ever, episodes cut after 20 steps: the value is 1 / (1 - 0.9) = 10."""
    algorithm = model(
        Random(observation_space=spaces.Box(0, 0, (1,), np.float32), reward=1.0),
        gamma=0.9,
        n_steps=200,
        n_value_epochs=10,
        value_batch_size=50,
        value_learning_rate=3e-3,
    ).learn(8000)
    value = algorithm.policy.predict_values(torch.zeros(1, 1)).item()
    assert value == pytest.approx(10.0, abs=0.5)


@pytest.mark.parametrize(("what", "name"), [("observation", "observation"), ("reward", "reward")])
def test_stops_at_the_first_broken_value_and_names_the_step(what: str, name: str) -> None:
    algorithm = model(Random(broken={47: what}))
    with pytest.raises(NonFiniteError, match=rf"{name} is NaN or infinite at step 47\b"):
        algorithm.learn(96)
    assert all(torch.isfinite(value).all() for value in weights(algorithm).values())


def test_an_update_beyond_all_numbers_is_named() -> None:
    with pytest.raises(NonFiniteError, match=r"update at step 32 made the parameter .* infinite: lower the learning"):
        model(learning_rate=LinearSchedule(1e300, 1e300, 1.0), value_learning_rate=1e-3, n_epochs=1).learn(64)


def test_a_broken_first_observation_is_named() -> None:
    class BrokenReset(Random):
        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            return np.full(3, np.nan, np.float32), {}

    with pytest.raises(NonFiniteError, match=r"^observation is NaN or infinite at step 0: check the env"):
        model(BrokenReset()).learn(32)


@pytest.mark.parametrize(
    ("odd", "cure"),
    [
        ({"action_space": spaces.Discrete(3, start=2)}, "the action space .* does not count from 0: shift it"),
        ({"action_space": spaces.MultiDiscrete([2, 3], start=[0, 1])}, "the action space .* shift it"),
        ({"action_space": spaces.MultiDiscrete([[2, 3], [2, 2]])}, "the action space .* give its numbers in one row"),
        ({"action_space": spaces.MultiBinary([2, 2])}, "the action space .* give it in one row"),
        ({"action_space": spaces.Box(-1, 1, (0,))}, "no dimensions"),
        ({"observation_space": spaces.Discrete(3, start=-1)}, "'observation' .* shift it"),
        ({"observation_space": spaces.Dict({"a": spaces.Discrete(3, start=1)})}, "'a' .* shift it"),
        ({"observation_space": spaces.Dict({})}, "empty Dict"),
        ({"observation_space": spaces.Box(-1, 1, ())}, r"shape \(\): make it an array"),
        ({"observation_space": spaces.Box(-1, 1, (2, 0))}, r"shape \(2, 0\): make it an array"),
        ({"observation_space": spaces.Text(3)}, "FlattenObservation"),
    ],
)
def test_spaces_that_networks_would_read_wrongly_are_refused(odd: dict[str, Any], cure: str) -> None:
    policy = "MultiInputPolicy" if isinstance(odd.get("observation_space"), spaces.Dict) else "MlpPolicy"
    with pytest.raises(SpaceError, match=cure) as caught:
        model(Random(**odd), policy=policy)
    assert "\n" not in str(caught.value)


def test_diverging_loss_is_named() -> None:
    algorithm = model(Random(reward=1e30), normalize_advantage=False)
    with pytest.raises(NonFiniteError, match="loss is NaN or infinite at step 32"):
        algorithm.learn(64)


def nan_loss(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def infinite_loss(loss: torch.Tensor) -> torch.Tensor:
    return loss + float("inf")


def infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    """The loss as it is; the derivative of x^0.5 at 0 is infinite."""
    return loss + (loss - loss.detach()).clamp(min=0).pow(0.5)


@pytest.mark.parametrize(
    ("breaks", "named"),
    [
        (nan_loss, "{} loss is NaN or infinite at step 32: check the size of the environment's rewards, lower the"),
        (infinite_loss, "{} loss is NaN or infinite at step 32: .*rewards.*learning rate"),
        (infinite_gradient, "gradient of the {} loss is NaN or infinite at step 32: .*learning rate"),
    ],
)
@pytest.mark.parametrize("phase", ["policy", "value"])
def test_a_broken_loss_stops_before_it_reaches_the_networks(phase: str, breaks: Any, named: str) -> None:
    algorithm = model(learning_rate=1e-2)
    original = getattr(algorithm, f"{phase}_loss")

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss, info = original(*args, **kwargs)
        return breaks(loss), info

    setattr(algorithm, f"{phase}_loss", broken)
    own = {id(p) for p in getattr(algorithm, f"{phase}_parameters")}
    before = weights(algorithm)
    with pytest.raises(NonFiniteError, match=f"^{named.format(phase)}"):
        algorithm.learn(64)
    names = {name for name, parameter in algorithm.policy.named_parameters() if id(parameter) in own}
    after = weights(algorithm)
    assert names and all(torch.equal(after[name], before[name]) for name in names)
    assert all(torch.isfinite(value).all() for value in after.values())
    optimizer = algorithm.policy.optimizer if phase == "policy" else algorithm.value_optimizer
    assert not optimizer.state, "the moments are untouched too"


def test_load_takes_settings_as_the_constructor_does(tmp_path: Path) -> None:
    model(learning_rate=1e-3).save(tmp_path / "model.zip")
    loaded = MDPO.load(tmp_path / "model.zip", env=Random(), learning_rate=1e-5)
    loaded.learn(32)
    assert {group["lr"] for own in (loaded.policy.optimizer, loaded.value_optimizer) for group in own.param_groups} == {
        1e-5
    }
    with pytest.raises(ConfigError, match=r"^tsallis_q = 3.0 is outside \[1, 2\]"):
        MDPO.load(tmp_path / "model.zip", tsallis_q=3.0)


def test_a_zip_keeps_the_moments_of_the_value_phase(tmp_path: Path) -> None:
    first = model(batch_size=16).learn(64)
    first.save(tmp_path / "model.zip")
    loaded = MDPO.load(tmp_path / "model.zip", env=Random())
    moments = [state["exp_avg"] for state in loaded.value_optimizer.state_dict()["state"].values()]
    expected = [state["exp_avg"] for state in first.value_optimizer.state_dict()["state"].values()]
    assert moments and all(torch.equal(a, b) for a, b in zip(moments, expected, strict=True))
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96


def test_one_update_follows_the_gradient_of_the_written_objective() -> None:
    """m = 1, plain SGD: the step is the policy gradient of -E[r A], computed here with torch's own distributions."""
    algorithm = model(
        n_epochs=1,
        learning_rate=0.1,
        max_grad_norm=1e9,
        policy_kwargs={"optimizer_class": "sgd", "optimizer_kwargs": {}},
    )
    captured: dict[str, Any] = {}
    original = algorithm.phases

    def spy() -> Any:
        policy, value = original()
        observations, actions, standard, *_ = policy.columns
        distribution = algorithm.policy.get_distribution(observations).distribution
        log_prob = distribution.log_prob(actions).sum(-1)
        loss = -(torch.exp(log_prob - log_prob.detach()) * standard).mean()
        captured["gradient"] = torch.autograd.grad(loss, [algorithm.policy.log_std])[0]
        captured["before"] = algorithm.policy.log_std.detach().clone()
        return [policy, value]

    algorithm.phases = spy  # type: ignore[method-assign]
    algorithm.learn(32)
    expected = captured["before"] - 0.1 * captured["gradient"]
    torch.testing.assert_close(algorithm.policy.log_std.detach(), expected)


def test_factors_of_a_squashed_policy_are_those_before_squashing() -> None:
    algorithm = model(use_sde=True, policy_kwargs={"squash_output": True})
    distribution = algorithm.policy.get_distribution(torch.zeros(5, 3))
    parameters = factors(distribution)
    assert parameters.mean.shape == (5, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(parameters.mean, distribution.distribution.mean)  # type: ignore[union-attr]
