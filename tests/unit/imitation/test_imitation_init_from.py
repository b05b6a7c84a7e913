"""Learners that begin as a clone, or as an agent of the same networks."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from demonstrated import TASK, assert_alike, demonstrations, target_demonstrations
from gymnasium.spaces import Box
from offline_data import corridor
from reach import SMALL, as_function, needs_compiler, vec_env
from runs import leaves
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import rlopt
from rlopt.agents.sac.batch import Step
from rlopt.agents.sac.config import SACConfig
from rlopt.algorithms.initialization import CLONE_LOG_STD, begin_from
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError
from rlopt.optim.descent import OwnNetworks
from rlopt.runs.build import build
from rlopt.settings.run import RunConfig

ROUNDS = {"learner_steps": 0, "policy_steps": 20, "discriminator_steps": 2, "discriminator_batch_size": 8}
SEEN = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)


def clone(**settings: Any) -> rlopt.BC:
    networks = {"net_arch": [16, 16]}
    model = rlopt.BC("MlpPolicy", vec_env(), dataset=demonstrations(), policy_kwargs=networks, seed=0, **settings)
    return model.learn(50)


def acts(model: Any) -> np.ndarray:
    found: np.ndarray = model.predict(SEEN, deterministic=True)[0]
    return found


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["SAC", "OffPolicyMDPO", "AILBoost", "DAC"])
def test_a_learner_begins_as_the_clone_acts(name: str, stochastic: bool) -> None:
    source = clone(stochastic=stochastic)
    shown = {"demonstrations": demonstrations()} if name in ("AILBoost", "DAC") else {}
    model = getattr(rlopt, name)("MlpPolicy", vec_env(), **SMALL, **shown)
    assert np.abs(acts(model) - acts(source)).max() > 0.01
    begin_from(model, source)
    assert np.allclose(acts(model), acts(source), atol=1e-5)
    with torch.no_grad():
        _, log_std, _ = model.actor.get_action_dist_params(torch.from_numpy(SEEN))
    own = source.policy.actor.log_std.detach() if stochastic else torch.tensor(CLONE_LOG_STD)
    assert torch.allclose(log_std, own.expand_as(log_std))
    model.learn(30)


def test_a_learner_of_rewards_acts_by_the_policy_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """What learns from no rewards mixes the data that it sees, random ones first."""
    settings = {**SMALL, "learning_starts": 40}
    model = rlopt.SAC("MlpPolicy", vec_env(), **settings)
    source = clone()
    assert begin_from(model, source).endswith("the actions of the first 40 steps, before it learns, are its own")
    monkeypatch.setattr(model.action_space, "sample", pytest.fail)
    model.learn(3)
    monkeypatch.setattr(rlopt.SAC, "reads_no_rewards", True)
    assert begin_from(model, source).endswith("are random all the same") and not model.begun_from_policy


def test_choices_begin_as_the_clone_s() -> None:
    shown = Demonstrations.from_dataset(corridor(60))
    source = rlopt.BC("MlpPolicy", None, dataset=shown, policy_kwargs={"net_arch": [8]}, seed=0).learn(30)
    options = {"net_arch": {"pi": [8], "vf": [8]}, "activation_fn": "relu"}
    model = rlopt.MDPO("MlpPolicy", rlopt.make_env("rlopt/Corridor-v0"), n_steps=16, policy_kwargs=options)
    begin_from(model, source)
    seen = np.random.default_rng(0).uniform(0, 1, (20, 1)).astype(np.float32)
    with torch.no_grad():
        logits = model.policy.get_distribution(torch.from_numpy(seen)).distribution.logits  # type: ignore[union-attr]
        wanted = source.policy.actor(source.policy.normalized(torch.from_numpy(seen)))
        flat = source.policy.normalized(torch.from_numpy(seen))
        parameters = source.policy.actor.ordered_parameters()
        probabilities = source.policy.actor.function.probabilities(parameters, flat)
    assert torch.equal(logits.argmax(dim=1), wanted)
    assert torch.allclose(logits.softmax(dim=1), probabilities, atol=1e-5)
    model.learn(16)


def test_all_networks_come_from_an_agent_with_the_same() -> None:
    source = rlopt.SAC("MlpPolicy", vec_env(), seed=1, **SMALL).learn(40)
    model = rlopt.DAC("MlpPolicy", vec_env(), demonstrations(), seed=2, **SMALL)
    assert begin_from(model, source).startswith("all networks")
    for name, tensor in source.policy.state_dict().items():
        assert torch.equal(model.policy.state_dict()[name], tensor), name


def test_what_cannot_begin_from_another_says_what_to_give() -> None:
    source = clone()
    wider = rlopt.SAC("MlpPolicy", vec_env(), policy_kwargs={"net_arch": [8, 8]})
    with pytest.raises(ConfigError, match="--net-arch 16 16 --activation-fn relu"):
        begin_from(wider, source)
    with pytest.raises(ConfigError, match="gives a squashed action"):
        options = {"net_arch": [16, 16], "activation_fn": "relu"}
        begin_from(rlopt.MDPO("MlpPolicy", vec_env(), n_steps=16, policy_kwargs=options), source)
    with pytest.raises(ConfigError, match="normalised observations"):
        begin_from(rlopt.SAC("MlpPolicy", VecNormalize(vec_env()), **SMALL), source)
    with pytest.raises(ConfigError, match="in the same environment"):
        begin_from(rlopt.SAC("MlpPolicy", "Pendulum-v1"), source)
    with pytest.raises(ConfigError, match="cannot begin from the policy of"):
        begin_from(source, rlopt.SAC("MlpPolicy", vec_env()))


@pytest.mark.parametrize("kind", [rlopt.SAC, rlopt.PPO, rlopt.MDPO])
def test_networks_of_the_same_shapes_that_compute_something_else_are_refused(kind: Any) -> None:
    networks = {"net_arch": [8]}
    source = kind("MlpPolicy", vec_env(), policy_kwargs={**networks, "activation_fn": "tanh"})
    model = kind("MlpPolicy", vec_env(), policy_kwargs={**networks, "activation_fn": "relu"})
    with pytest.raises(ConfigError, match="--net-arch 8 --activation-fn tanh"):
        begin_from(model, source)
    with pytest.raises(ConfigError, match="cannot begin from the policy of SAC"):
        options = {**networks, "clip_mean": 0.1}
        begin_from(rlopt.SAC("MlpPolicy", vec_env(), use_sde=True, policy_kwargs=options),
                   rlopt.SAC("MlpPolicy", vec_env(), use_sde=True, policy_kwargs=networks))  # fmt: skip


@pytest.mark.parametrize("critics", [[16, 16], [8]])
def test_the_old_policy_begins_as_the_policy_does(critics: list[int]) -> None:
    source = rlopt.SAC("MlpPolicy", vec_env(), policy_kwargs={"net_arch": [16, 16]}, seed=1)
    options = {"net_arch": {"pi": [16, 16], "qf": critics}}
    model = rlopt.OffPolicyMDPO("MlpPolicy", vec_env(), kl_coef=0.5, policy_kwargs=options, seed=2)
    begin_from(model, source)
    assert model.old_actor is not None
    for old, given in zip(model.old_actor.parameters(), source.actor.parameters(), strict=True):
        assert torch.equal(old, given) or critics == [8]  # the deviation's layer then is a constant
    for old, now in zip(model.old_actor.parameters(), model.actor.parameters(), strict=True):
        assert torch.equal(old, now)


@pytest.mark.parametrize("name", ["rlopt/RandomTarget-v0", "rlopt/Corridor-v0"])
def test_on_policy_agents_begin_from_one_another(name: str) -> None:
    source = rlopt.PPO("MlpPolicy", rlopt.make_env(name), policy_kwargs={"net_arch": [8]}, n_steps=32, seed=1)
    options = {"net_arch": {"pi": [8], "vf": [4, 4]}}
    model = rlopt.MDPO("MlpPolicy", rlopt.make_env(name), policy_kwargs=options, n_steps=32, seed=2)
    if isinstance(source.action_space, Box):
        source.policy.log_std.data.fill_(-0.7)
    begin_from(model, source)
    seen = torch.rand((20, *(model.observation_space.shape or ())))
    with torch.no_grad():
        ours, theirs = (each.policy.get_distribution(seen).distribution for each in (model, source))
        assert torch.allclose(torch.distributions.kl_divergence(ours, theirs), torch.tensor(0.0))  # type: ignore[arg-type]


def test_what_begins_from_no_other_policy_says_so() -> None:
    loop = rlopt.LOOP(gymnasium.make("rlopt/RiverSwim-v0"))
    with pytest.raises(ConfigError, match="LOOP has no network to begin from"):
        begin_from(rlopt.MDPO("MlpPolicy", rlopt.make_env("rlopt/Corridor-v0")), loop)
    with pytest.raises(ConfigError, match="loop begins from no other policy: leave --init-from out"):
        build("loop", RunConfig(env="rlopt/RiverSwim-v0", init_from="runs/other"), None)


def test_a_run_begins_from_a_run(tmp_path: Path) -> None:
    env = rlopt.make_env("rlopt/RandomTarget-v0")
    source = rlopt.SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=1, device="cpu")
    source.boundary_hook = lambda model: model.num_timesteps < 5
    save_checkpoint(source.learn(20), tmp_path / "checkpoints")
    run = RunConfig(env="rlopt/RandomTarget-v0", init_from=str(tmp_path / "checkpoints"), seed=3, device="cpu")
    model, _ = build("sac", run, SACConfig(net_arch=(8,)))
    shown = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    assert np.array_equal(*(each.predict(shown, deterministic=True)[0] for each in (model, source)))


def test_cloning_is_a_part_of_the_actor_s_loss_that_falls_to_0() -> None:
    shown = demonstrations(200)

    def distance(**settings: Any) -> tuple[Any, float]:
        model = rlopt.DAC("MlpPolicy", vec_env(), shown, seed=0, policy_steps=50, discriminator_steps=2,
                          learning_rate=3e-3, ent_coef=0.01, **{**SMALL, **settings})  # fmt: skip
        model.learn(150)
        return model, float(np.square(model.predict(shown.observations, deterministic=True)[0] - shown.actions).mean())

    (model, near), (_, far) = distance(cloning_coef=10.0, cloning_steps=600), distance()
    assert near < 0.5 * far
    assert model.scalars()["cloning_coef"] == pytest.approx(10 * (1 - 150 / 600))
    model.num_timesteps = 700
    assert model.scalars()["cloning_coef"] == 0


@pytest.mark.parametrize("cls", [rlopt.SAC, rlopt.OffPolicyMDPO, rlopt.DAC])
def test_a_step_with_cloning_is_the_step_by_hand(cls: Any) -> None:
    model = cls("MlpPolicy", vec_env(), demonstrations=demonstrations(), seed=0, cloning_coef=2.0, **SMALL).learn(30)
    drawn = model.draw(8)
    networks = OwnNetworks(model.networks(), model._check_loss)
    batch = model.read_batch(drawn)
    step = Step(networks, batch, batch, drawn, model.scalars(), torch.tensor(0.1))
    with torch.no_grad():
        loss, (info, policy) = model._actor_loss(networks["actor"], step)
        plain, _ = model.actor_objective(networks["actor"], policy, step)
        acts = model.actor(drawn["cloned_observations"], deterministic=True)
        wanted = (acts - drawn["cloned_actions"]).square().mean()
    assert torch.allclose(info["cloning_loss"], wanted)
    assert torch.allclose(loss, plain + 2.0 * (1 + plain.abs()) * wanted)


FIRST: dict[str, tuple[Any, dict[str, Any]]] = {
    "sac": (rlopt.SAC, {"cloning_coef": 2.0}),
    "off_policy_mdpo": (rlopt.OffPolicyMDPO, {"kl_coef": 0.1, "cloning_coef": 2.0}),
    "dac": (rlopt.DAC, ROUNDS),
    "sqil": (rlopt.SQIL, {}),
}
"""Learners that stay near the policy that they begin with."""


def begun(name: str, source: Any, env: Any = None, shown: Any = None, **changes: Any) -> Any:
    cls, settings = FIRST[name]
    given = {"seed": 5, **SMALL, **settings, **changes}
    if name in ("dac", "sqil"):
        given["demonstrations"] = demonstrations() if shown is None else shown
    model = cls("MlpPolicy", vec_env() if env is None else env, **given)
    if source is not None:
        begin_from(model, source)
    return model


@pytest.mark.parametrize("name", FIRST)
def test_a_step_near_the_first_policy_is_the_step_by_hand(name: str) -> None:
    source = clone()
    model = begun(name, source, cloning_coef=3.0, cloning_steps=60, learning_rate=3e-3).learn(30)
    drawn = model.draw(8)
    batch = model.read_batch(drawn)
    networks = OwnNetworks(model.networks(), model._check_loss)
    step = Step(networks, batch, batch, drawn, model.scalars(), torch.tensor(0.1))
    with torch.no_grad():
        loss, (info, policy) = model._actor_loss(networks["actor"], step)
        plain, _ = model.actor_objective(networks["actor"], policy, step)
        first = model.policy.scale_action(source.predict(batch.observations.numpy(), deterministic=True)[0])
        now = model.policy.scale_action(model.predict(batch.observations.numpy(), deterministic=True)[0])
    wanted = torch.tensor(np.square(now - first).mean())
    assert wanted > 1e-6 and "cloned_actions" not in drawn
    assert torch.allclose(info["cloning_loss"], wanted, rtol=1e-4)
    assert torch.allclose(loss, plain + 3.0 * (1 - 30 / 60) * (1 + plain.abs()) * wanted, rtol=1e-4)


def test_the_policy_that_it_begins_with_holds_a_learner_back() -> None:
    source = clone()

    def moved(**settings: Any) -> float:
        model = begun("dac", source, ent_coef=0.01, learning_rate=3e-3, **settings).learn(150)
        return float(np.square(acts(model) - acts(source)).mean())

    near, free = moved(), moved(cloning_coef=0.0)
    assert 0 < near < 0.3 * free


def test_learners_from_demonstrations_alone_stay_near_by_default() -> None:
    source = clone()
    model = rlopt.DAC("MlpPolicy", vec_env(), demonstrations(), **SMALL)
    assert model.cloning_weight == 0
    assert "stays near that policy (cloning_coef 100)" in begin_from(model, source)
    assert model.cloning_weight == 100
    for settings in ({}, {"cloning_coef": 0.0}):
        model = rlopt.SAC("MlpPolicy", vec_env(), **settings, **SMALL)
        assert "stays near" not in begin_from(model, source) and model.first_actor is None


@pytest.mark.parametrize("name", FIRST)
def test_what_stays_near_its_first_policy_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    """A resumed model is built without the policy that it began with; the checkpoint has it."""
    networks = {"net_arch": [16, 16]}
    source = rlopt.BC("MlpPolicy", None, dataset=target_demonstrations(), policy_kwargs=networks, seed=0).learn(20)

    def model(stop: int, begins: Any = None) -> Any:
        env = VecMonitor(rlopt.make_env(TASK, n_envs=2, seed=1))
        made = begun(name, begins, env, target_demonstrations(), cloning_steps=200)
        made.boundary_hook = lambda learner: learner.num_timesteps < stop
        return made

    whole = model(90, source).learn(1000)
    path = save_checkpoint(model(46, source).learn(1000), tmp_path)
    torch.rand(3), np.random.rand(3)
    again = learn_from(model(90), read_checkpoint(path).trees, 1000)
    assert leaves(dict(capture_state(whole))) == leaves(dict(capture_state(again)))
    assert again.scalars()["cloning_coef"] == pytest.approx((100 if name in ("dac", "sqil") else 2) * (1 - 90 / 200))


def test_a_zip_keeps_the_first_policy(tmp_path: Path) -> None:
    model = begun("sac", clone()).learn(40)
    model.save(tmp_path / "model")
    again = rlopt.SAC.load(tmp_path / "model", env=vec_env())
    seen = torch.from_numpy(SEEN)
    assert torch.equal(again.first_actor(seen, deterministic=True), model.first_actor(seen, deterministic=True))
    assert not torch.equal(again.first_actor(seen, deterministic=True), again.actor(seen, deterministic=True))
    assert again.scalars()["cloning_coef"] == 2.0


def test_the_function_of_tensors_stays_near_the_first_policy_too() -> None:
    plain = begun("sac", source := clone(), compile="off").learn(40)
    assert_alike(plain, as_function(begun("sac", source, compile="off")).learn(40))


@needs_compiler
@pytest.mark.kernels
def test_the_compiled_step_stays_near_the_first_policy_too() -> None:
    source = clone()
    compiled, plain = (begun("sac", source, compile=choice).learn(40) for choice in ("on", "off"))
    assert compiled.update.step.mode == "compiled" and plain.update is None
    assert_alike(compiled, plain)
