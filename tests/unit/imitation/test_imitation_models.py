"""Batches, losses and networks of SQIL, IQ-Learn and ValueDICE, and behaviour cloning of demonstrations."""

from typing import Any

import numpy as np
import pytest
import torch
from demonstrated import CLASSES, assert_alike, demonstrations, make
from gymnasium import spaces
from offline_data import recorded
from reach import SMALL, Reach, ReachGoal, as_function, needs_compiler, vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rlopt
from rlopt.agents.imitation.sqil import SQIL
from rlopt.agents.sac.batch import Batch, Step
from rlopt.data.demonstrations import Demonstrations
from rlopt.errors import ConfigError, DataError, SpaceError
from rlopt.optim.descent import OwnNetworks
from rlopt.optim.lockstep import Lockstep


@pytest.mark.parametrize("name", CLASSES)
def test_fewer_demonstrations_are_the_first_episodes(name: str) -> None:
    shown = demonstrations()
    model = make(name, shown=shown, n_demonstrations=2)
    kept = shown.trajectories(2)
    assert len(model.expert) == len(kept) < len(shown)
    assert np.array_equal(model.expert.observations.numpy(), kept.observations)
    with pytest.raises(DataError, match=f"there are {shown.n_trajectories}"):
        make(name, shown=shown, n_demonstrations=shown.n_trajectories + 1)


def test_the_expert_s_actions_are_scaled_and_its_ends_kept() -> None:
    shown = demonstrations()
    model = make("sqil", shown=shown)
    low, high = Reach.action_space.low, Reach.action_space.high  # type: ignore[attr-defined]
    batch = model.expert.gather(torch.arange(len(shown)))
    back = low + (batch.actions.numpy() + 1) / 2 * (high - low)
    assert np.allclose(back, shown.actions, atol=1e-6) and batch.actions.abs().max() <= 1
    assert np.array_equal(batch.discounts.numpy()[:, 0], shown.discounts) and (shown.discounts == 0).any()


@pytest.mark.parametrize("name", CLASSES)
def test_a_setting_that_is_assigned_too_late_is_refused(name: str) -> None:
    """What the discriminator, its optimiser or the rounds were made with; the same values are fine."""
    model = make(name)
    assert model.at_boundary()
    for setting in type(model).made_with:
        first = getattr(model, setting)
        other = (3,) if isinstance(first, tuple | list) else "another" if isinstance(first, str) else not first
        setattr(model, setting, other)
        with pytest.raises(ConfigError, match=f"^{setting} was made .* give it to the constructor"):
            model.at_boundary()
        setattr(model, setting, first)
    assert model.at_boundary()


def test_behaviour_cloning_learns_from_demonstrations() -> None:
    for stochastic in (False, True):
        shown = demonstrations(200)
        model = rlopt.BC("MlpPolicy", vec_env(), dataset=shown, stochastic=stochastic, learning_rate=3e-3, seed=0)
        before = np.square(model.predict(shown.observations, deterministic=True)[0] - shown.actions).mean()
        model.learn(300)
        after = np.square(model.predict(shown.observations, deterministic=True)[0] - shown.actions).mean()
        assert after < 0.1 * before, stochastic


@pytest.mark.parametrize("absorbing", [True, False])
@pytest.mark.parametrize("batch_size", [8, 9])
def test_half_of_sqil_s_batch_is_the_expert_s(absorbing: bool, batch_size: int) -> None:
    model = make("sqil", absorbing=absorbing, gamma=0.9).learn(60)
    assert len(model.draw(batch_size)["rows"]) == batch_size  # nothing comes from elsewhere
    worth = model.absorbing_value  # moves after a gradient step
    model.train(1, 16)
    assert (worth > 0) is absorbing
    model.replay_buffer.dones[: model.replay_buffer.pos] = 0
    buffer, shown = model.replay_buffer, demonstrations()
    stored = {tuple(row) for row in buffer.observations[: buffer.pos, 0].tolist()}
    seen = {tuple(row) for row in shown.observations.tolist()}
    ends = {tuple(row) for row in shown.observations[shown.discounts == 0].tolist()}
    assert np.abs(buffer.rewards[: buffer.pos]).min() > 0  # the environment's, never those of a batch
    n_own, found_ends = batch_size - batch_size // 2, 0
    for _ in range(40):
        batch = buffer.sample(batch_size)
        assert {tuple(row) for row in batch.observations[:n_own].tolist()} <= stored
        assert {tuple(row) for row in batch.observations[n_own:].tolist()} <= seen
        assert torch.equal(batch.rewards[:n_own], torch.zeros(n_own, 1))
        for row, reward, done in zip(
            batch.observations[n_own:], batch.rewards[n_own:], batch.dones[n_own:], strict=True
        ):
            ended = tuple(row.tolist()) in ends
            found_ends += ended
            assert done.item() == ended
            value = 0.9 * worth if ended and absorbing else 0.0
            assert reward.item() == pytest.approx(1.0 + value, rel=1e-6)
    assert found_ends > 0


def test_mixed_batches_are_normalised_but_their_rewards_are_not() -> None:
    env = VecNormalize(vec_env())
    model = make("sqil", env=env).learn(40)
    model.train(1, 16)
    rows = model.replay_buffer.sample_rows(16)
    raw, seen = model.replay_buffer.gather(rows), model.replay_buffer.gather(rows, env)
    assert np.allclose(seen.observations.numpy(), env.normalize_obs(raw.observations.numpy()), atol=1e-6)
    assert torch.equal(raw.rewards, seen.rewards) and not torch.equal(raw.observations, seen.observations)


def test_sqil_learns_from_dict_observations() -> None:
    shown = Demonstrations.from_dataset(
        recorded(ReachGoal(), "tests/ReachGoal", 40, lambda _, rng: rng.uniform(-1, 1, 2).astype(np.float32))
    )
    model = SQIL("MultiInputPolicy", vec_env(env=ReachGoal), shown, seed=0, **SMALL).learn(30)  # type: ignore[arg-type]
    batch = model.replay_buffer.sample(6)  # type: ignore[union-attr]
    assert batch.observations["observation"].shape == (6, 2)


IQ_SETTINGS = {"value_term": "v0", "use_target": True, "ent_coef": "auto", "absorbing": True}
LEARNERS: list[tuple[str, dict[str, Any]]] = [
    ("sqil", {}),
    ("iq_learn", {"absorbing": True}),
    ("iq_learn", IQ_SETTINGS),
    ("value_dice", {}),
    ("value_dice", {"absorbing": False, "gradient_penalty": 0.0, "replay_weight": 0.0}),
]


@pytest.mark.parametrize(("name", "settings"), LEARNERS)
def test_the_function_of_tensors_is_the_step(name: str, settings: dict[str, Any]) -> None:
    function = as_function(make(name, compile="off", **settings)).learn(40)
    plain = make(name, compile="off", **settings).learn(40)
    assert function.update is not None and plain.update is None
    assert_alike(function, plain)


@needs_compiler
@pytest.mark.parametrize(("name", "settings"), [("iq_learn", IQ_SETTINGS), ("value_dice", {})])
def test_compiled_steps_are_the_steps(name: str, settings: dict[str, Any]) -> None:
    compiled, plain = (make(name, compile=choice, **settings).learn(40) for choice in ("on", "off"))
    assert compiled.update.step.mode == "compiled" and plain.update is None
    assert_alike(compiled, plain)


def test_iq_learn_s_critic_loss_is_that_of_its_batch() -> None:
    """From the networks' outputs, with one critic: no part of the batch, noise or discount is misplaced."""
    settings = {"policy_kwargs": {"net_arch": [16], "n_critics": 1}, "value_term": "value", "gamma": 0.9}
    model = make("iq_learn", absorbing=True, chi_alpha=0.4, **settings).learn(60)
    model.replay_buffer.dones[3], model.replay_buffer.timeouts[3] = 1, 0
    model.n_true_ends = max(model.n_true_ends, 1)
    model.train(1, 16)
    expert_ends = np.mean(demonstrations().discounts == 0)
    policy_ends = model.n_true_ends / model.n_collected
    reward = 0.8 * (expert_ends - policy_ends) / (expert_ends + policy_ends)
    assert model.absorbing_reward(expert_ends, policy_ends) == pytest.approx(reward)
    value = model.absorbing_value = 3.0
    model.replay_buffer.mix_in(model.expert, 0.0, 0.9 * value)
    batch = model.replay_buffer.gather(torch.cat([torch.arange(1, 6), torch.arange(5)]))
    noise, next_noise = torch.randn(2, 10, 2)
    networks = OwnNetworks(model.networks(), model._check_loss)
    with torch.no_grad():
        found = []
        for observations, draw in ((batch.observations, noise), (batch.next_observations, next_noise)):
            policy = model.policy_sample(networks["actor"], observations, draw)
            log_prob = policy.log_density.sum(1, keepdim=True) - policy.log_jacobian.sum(1, keepdim=True)
            found.append(model.critic.q1_forward(observations, policy.actions) - 0.01 * log_prob)
        y = torch.where(batch.dones > 0, torch.tensor(0.9 * value, dtype=torch.float32), 0.9 * found[1])
        rewards = model.critic.q1_forward(batch.observations, batch.actions) - y
        wanted = -rewards[5:].mean() + (found[0] - y).mean() + rewards.square().mean() / 1.6
    assert batch.dones[:5].sum() >= 1 and batch.dones[5:].sum() >= 1
    given = Batch(batch.observations, batch.actions, batch.next_observations, batch.rewards, 0.9 * (1 - batch.dones))
    drawn = {"noise": noise, "next_noise": next_noise}
    step = Step(networks, given, given, drawn, model.scalars(), torch.tensor(0.01))
    _, info = model.critic_objective(networks["critic"], step)
    assert info["critic_loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["iq_learn", "value_dice"])
def test_the_actor_has_a_learning_rate_of_its_own(name: str) -> None:
    model = make(name, learning_rate=2e-3, actor_learning_rate=1e-4).learn(30)
    rates = [part.param_groups[0]["lr"] for part in (model.critic.optimizer, model.actor.optimizer)]
    assert rates == [2e-3, 1e-4]


def test_value_dice_normalises_by_the_expert() -> None:
    shown = demonstrations()
    model = make("value_dice", shown=shown)
    features = model.actor.features_extractor(torch.from_numpy(shown.observations)).numpy()
    assert features.shape == (len(shown), 3) and (features[:, 2] == 0).all()
    std = shown.observations.std(axis=0)
    assert np.allclose(features[:, :2].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(features[:, :2].std(axis=0), std / (std + 1e-3), atol=1e-5)
    model.learn(30).set_demonstrations(demonstrations(seed=1))  # trained: it keeps what its networks know
    assert np.array_equal(model.actor.features_extractor(torch.from_numpy(shown.observations)).numpy(), features)


def test_nu_descends_and_the_actor_climbs_the_same_objective() -> None:
    """The gradients of a step against finite differences of the objective on the same batch and noise."""
    model = make("value_dice", gradient_penalty=0.0, orthogonal_coef=0.0, replay_weight=0.3).learn(40)
    model.policy.double()
    for part in (model.actor, model.critic):
        part.optimizer.state.clear()  # its moments are of the dtype before
    drawn = {name: part.double() if part.is_floating_point() else part for name, part in model.draw(12).items()}
    batch = Batch(*(part.double() for part in model.read_batch(drawn)))
    batch = batch._replace(discounts=torch.full((12, 1), 0.99).index_fill(0, torch.tensor([3]), 0.0).double())
    networks = OwnNetworks(model.networks(), model._check_loss)

    def objective() -> float:
        losses, _ = model.objective({name: networks[name] for name in ("nu", "actor")}, batch, drawn)
        assert losses["nu"].item() == -losses["actor"].item()
        return float(losses["nu"].detach())

    parameters = {"nu": (model.critic.qf0[0].weight, 1.0), "actor": (model.actor.mu.weight, -1.0)}
    wanted = {}
    for name, (parameter, sign) in parameters.items():
        around = []
        for shift in (1e-4, -1e-4):
            parameter.data[0, 1] += shift
            around.append(objective())
            parameter.data[0, 1] -= shift
        wanted[name] = sign * (around[0] - around[1]) / 2e-4
    model.gradient_step(networks, batch, drawn, {}, True)
    for name, (parameter, _) in parameters.items():
        assert abs(wanted[name]) > 1e-5, name
        assert parameter.grad[0, 1].item() == pytest.approx(wanted[name], rel=2e-3), name


@pytest.mark.parametrize("absorbing", [True, False])
def test_a_true_end_leads_to_the_absorbing_state(absorbing: bool) -> None:
    model = make("value_dice", absorbing=absorbing)
    observations = torch.randn(4, 2)
    ended = torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    actor = OwnNetworks(model.networks(), model._check_loss)["actor"]
    rows = model._rows(actor, observations, torch.zeros(4, 2), observations, ended, torch.zeros(4, 2))
    usual = model.actor.features_extractor(observations)
    width = usual.shape[1]
    assert torch.equal(rows.following[[0, 2, 3], :width], usual[[0, 2, 3]])
    assert torch.equal(rows.following[1, :width], torch.tensor([0.0, 0.0, 1.0]) if absorbing else usual[1])


@pytest.mark.parametrize(
    ("name", "settings"), [("iq_learn", {"absorbing": True, "ent_coef": "auto"}), ("value_dice", {})]
)
def test_several_seeds_stacked_are_each_alone(name: str, settings: dict[str, Any]) -> None:
    def job(seed: int, stacked: bool) -> Any:
        def learn() -> Any:
            model = make(name, seed=seed, compile="off", **settings)
            return (as_function(model) if stacked else model).learn(40)

        return learn

    together = Lockstep([job(seed, True) for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        assert_alike(model, job(seed, False)())


def test_behaviour_cloning_learns_several_choices_at_a_time() -> None:
    """The expert's first choice is the third of the first axis that the point is in, its second the other's sign."""
    seen = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    wanted = np.stack([np.digitize(seen[:, 0], [-1 / 3, 1 / 3]), seen[:, 1] > 0], axis=1).astype(np.int64)
    shown = Demonstrations.from_trajectories([{"obs": seen, "acts": wanted}])
    env = type("Choices", (Reach,), {"action_space": spaces.MultiDiscrete([3, 2])})
    model = rlopt.BC("MlpPolicy", vec_env(env=env), dataset=shown, learning_rate=1e-2, seed=0)
    rows = torch.from_numpy(shown.observations[:50])  # type: ignore[index]
    actor, flat = model.policy.actor, model.policy.normalized(model.policy.flat(rows))
    logits, _ = actor.function.outputs(actor.ordered_parameters(), flat)
    chosen = torch.from_numpy(shown.actions[:50])
    by_hand = sum(part.log_softmax(1).gather(1, chosen[:, [k]]) for k, part in enumerate(logits.split([3, 2], dim=1)))
    assert torch.allclose(actor.function.log_prob(actor.ordered_parameters(), flat, chosen), by_hand)
    model.learn(200)
    assert (model.predict(shown.observations, deterministic=True)[0] == shown.actions).mean() > 0.9
    assert env.action_space.contains(model.predict(shown.observations[0])[0])  # type: ignore[index]
    with pytest.raises(SpaceError, match="Box or Discrete action space, not MultiDiscrete"):
        rlopt.AWAC("MlpPolicy", vec_env(env=env))


def test_learners_of_continuous_actions_name_those_of_choices() -> None:
    env = rlopt.make_env("rlopt/Corridor-v0")
    others = {"sqil": "DiscreteSQIL", "iq_learn": "DiscreteIQLearn", "value_dice": "GAIL or rlopt.BC"}
    for name, other in others.items():
        with pytest.raises(SpaceError, match=rf"for discrete actions use rlopt\.{other}"):
            CLASSES[name]("MlpPolicy", env)
    for other in (rlopt.DiscreteSQIL, rlopt.DiscreteIQLearn):
        with pytest.raises(SpaceError, match=r"needs a Discrete action space, not .*for continuous actions use rlopt"):
            other("MlpPolicy", vec_env())
