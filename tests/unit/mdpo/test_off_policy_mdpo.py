"""Off-policy MDPO as an algorithm: equality with SAC, the old policy, the options and what they must not break."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import SMALL, Reach, ReachGoal, make, vec_env
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import rlopt
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac.batch import Batch, Step
from rlopt.optim.descent import OwnNetworks
from rlopt.replay.buffers import DeviceReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer


def equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def step_on(model: Any, batch: Batch) -> Step:
    """A gradient step of ``model`` by torch's optimisers, with the batch given."""
    networks = OwnNetworks(model.networks(), model._check_loss)
    return Step(networks, batch, batch, {}, model.scalars(), model._ent_coef(networks))


# --- equality with SAC ---


@pytest.mark.parametrize(
    ("n_envs", "options"),
    [
        (1, {}),
        (1, {"ent_coef": 0.2, "n_steps": 3}),
        (1, {"train_freq": (1, "episode"), "gradient_steps": 7, "target_update_interval": 3}),
        (1, {"use_sde": True, "sde_sample_freq": 4, "use_sde_at_warmup": True}),
        (1, {"policy_kwargs": {"net_arch": [16], "n_critics": 3, "share_features_extractor": True}}),
        (4, {"gradient_steps": -1}),
        (4, {"gradient_steps": -1, "ent_coef": 0.2, "n_steps": 3}),
    ],
)
def test_without_proximity_it_is_sac_bit_for_bit(n_envs: int, options: dict[str, Any]) -> None:
    steps = 20 + 110 * (1 if options.get("gradient_steps", 1) != 1 else n_envs)
    # SB3 writes into the policy_kwargs it is given
    sac_options = {**options, "policy_kwargs": dict(options.get("policy_kwargs", SMALL["policy_kwargs"]))}
    sac = make(SAC, n_envs, **sac_options).learn(steps)
    assert_equal_to_sac(sac, make(rlopt.SAC, n_envs, **options).learn(steps))
    assert_equal_to_sac(sac, make(OffPolicyMDPO, n_envs, kl_coef=0.0, **options).learn(steps))


def assert_equal_to_sac(sac: SAC, ours: Any) -> None:
    assert sac._n_updates == ours._n_updates >= 50
    assert equal_states(sac.policy.state_dict(), ours.policy.state_dict())
    for name in ("actor.optimizer", "critic.optimizer"):
        expected, got = sac.get_parameters()[name]["state"], ours.get_parameters()[name]["state"]
        assert all(torch.equal(expected[i]["exp_avg_sq"], got[i]["exp_avg_sq"]) for i in expected)
    logged = ours.logger.name_to_value
    for name, value in sac.logger.name_to_value.items():
        if name.startswith("train/"):
            assert logged[name] == pytest.approx(value, rel=1e-9), name
    assert sac.ent_coef_optimizer is None or torch.equal(sac.log_ent_coef, ours.log_ent_coef)


def test_it_is_sac_over_many_updates_with_normalised_observations() -> None:
    models = []
    for cls, options in ((SAC, {}), (OffPolicyMDPO, {"kl_coef": 0.0})):
        env = VecNormalize(vec_env(), norm_reward=True)
        models.append(cls("MlpPolicy", env, seed=1, **{**SMALL, "policy_kwargs": {"net_arch": [16]}}, **options))
        models[-1].learn(220)
    assert models[0]._n_updates == models[1]._n_updates == 200
    assert equal_states(models[0].policy.state_dict(), models[1].policy.state_dict())


def test_proximity_changes_neither_the_first_networks_nor_the_random_stream() -> None:
    sac, ours = make(SAC), make(kl_coef=0.5, value_network=True)
    assert equal_states(sac.policy.state_dict(), ours.policy.state_dict())
    assert torch.equal(torch.randn(3), (make(SAC), torch.randn(3))[1])


# --- the old policy ---


def test_old_policy_is_a_copy_renewed_every_period() -> None:
    model = make(kl_coef=0.3, old_policy_period=4, gradient_steps=1)
    assert equal_states(model.old_actor.state_dict(), model.actor.state_dict())
    model.learn(21)
    while model._n_updates % 4:
        model.train(1, 16)
    seen = []
    for _ in range(9):
        before = {key: value.clone() for key, value in model.old_actor.state_dict().items()}
        model.train(1, 16)
        seen.append(equal_states(before, model.old_actor.state_dict()))
        is_current = equal_states(model.old_actor.state_dict(), model.actor.state_dict())
        assert is_current == (model._n_updates % 4 == 0)
    assert seen == [True, True, True, False] * 2 + [True]


def test_old_policy_is_not_trained_and_absent_without_proximity() -> None:
    model = make(kl_coef=0.3, old_policy_period=10**6)
    start = {key: value.clone() for key, value in model.old_actor.state_dict().items()}
    model.learn(60)
    assert equal_states(start, model.old_actor.state_dict())
    assert not equal_states(start, model.actor.state_dict())
    assert not any(parameter.requires_grad for parameter in model.old_actor.parameters())
    assert make(kl_coef=0.0).old_actor is None


@pytest.mark.parametrize("options", [{}, {"analytic_kl": True}, {"tsallis_q": 1.5}, {"tsallis_q": 2.0}])
def test_proximity_holds_the_policy_near_the_old_one(options: dict[str, Any]) -> None:
    def last_kl(kl_coef: float) -> float:
        model = make(kl_coef=kl_coef, old_policy_period=10**6, ent_coef=0.01, learning_rate=3e-3, **options)
        model.learn(100)
        return model.logger.name_to_value["train/kl"]

    assert 0 <= last_kl(20.0) < 0.25 * last_kl(1e-6)


def test_divergence_is_exact_where_the_actions_saturate() -> None:
    model = make(kl_coef=0.3)
    for actor, mean in ((model.actor, 30.0), (model.old_actor, 29.0)):
        for layer, bias in ((actor.mu, mean), (actor.log_std, 0.0)):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.constant_(layer.bias, bias)
    observations = torch.randn(4, 2)
    step = step_on(model, Batch(observations, *[torch.zeros(4, 1)] * 4))
    policy = model.policy_sample(step.networks["actor"], observations, torch.zeros(4, 2))
    assert torch.all(policy.actions == 1.0)
    divergence, info = model.divergence(policy, step)
    # a shift of 1 at standard deviation 1 is 1/2 in each of the two dimensions; through atanh(1) it would be infinite
    torch.testing.assert_close(divergence, torch.full((4, 1), 1.0))
    assert info["kl"].item() == pytest.approx(1.0)


def test_kl_coef_may_be_a_multiple_of_ent_coef() -> None:
    model = make(kl_coef=0.5, ent_coef=0.2, learning_starts=10**6).learn(40)
    with torch.no_grad():
        model.old_actor.mu.bias.add_(1.0)
    step = step_on(model, model.read_batch({"rows": torch.arange(16)}))
    policy = model.policy_sample(step.networks["actor"], step.batch.observations, torch.randn(16, 2))

    def loss(kl_unit: str, kl_coef: float) -> float:
        model.kl_unit = kl_unit
        scalars = {**step.scalars, "kl_coef": kl_coef}
        return model.actor_objective(step.networks["actor"], policy, dataclasses.replace(step, scalars=scalars))[
            0
        ].item()

    assert loss("ent_coef", 0.5) == pytest.approx(loss("reward", 0.1))
    assert loss("reward", 0.1) != pytest.approx(loss("reward", 0.0))


# --- the options ---

VARIANTS: list[dict[str, Any]] = [
    {},
    {"value_network": True, "ent_coef": 0.2},
    {"value_network": True, "actor_q": "first", "n_steps": 3},
    {"actor_q": "first", "mean_penalty": 1e-3, "log_std_penalty": 1e-3, "log_density_floor": -13.8},
    {"tsallis_q": 1.7, "critic_log_prob_bound": 3.0},
    {"use_sde": True, "analytic_kl": True},
    {"use_sde": True, "tsallis_q": 1.5, "value_network": True},
    {"deterministic_behaviour": True, "action_noise": NormalActionNoise(np.zeros(2), np.full(2, 0.1))},
    {"policy_kwargs": {"net_arch": [8], "share_features_extractor": True, "activation_fn": "tanh"}},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options) or "default")
def test_every_option_trains_and_repeats(options: dict[str, Any]) -> None:
    first = make(n_envs=3, kl_coef=0.2, old_policy_period=5, **options)
    start = {key: value.clone() for key, value in first.actor.state_dict().items()}
    first.learn(48)
    second = make(n_envs=3, kl_coef=0.2, old_policy_period=5, **options).learn(48)
    assert first._n_updates >= 8
    assert not equal_states(start, first.actor.state_dict())
    for name, parameters in first.get_parameters().items():
        if "optimizer" not in name:
            assert equal_states(parameters, second.get_parameters()[name]), name
    names = {"actor_loss", "critic_loss", "ent_coef", "kl", "n_updates", "learning_rate"}
    names |= {"value_loss"} if options.get("value_network") else set()
    names |= {"ent_coef_loss"} if "ent_coef" not in options else set()
    logged = {name.removeprefix("train/") for name in first.logger.name_to_value if name.startswith("train/")}
    assert logged == names


def test_critic_target_comes_from_the_slow_value_network() -> None:
    model = make(kl_coef=0.1, value_network=True, gamma=0.5)
    model.learn(40)
    for parameter in model.value_net_target.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(list(model.value_net_target.parameters())[-1], 7.0)
    sample = model.replay_buffer.sample(16)
    goes_on = torch.tensor([0.0, 1.0] * 8).unsqueeze(1)
    batch = Batch(sample.observations, sample.actions, sample.next_observations, sample.rewards, 0.5 * goes_on)
    with torch.no_grad():
        targets = batch.rewards + 0.5 * 7.0 * goes_on
        residuals = [(q - targets) ** 2 for q in model.critic(batch.observations, batch.actions)]
    expected = 0.5 * sum(residual.mean().item() for residual in residuals)
    step = step_on(model, batch)
    loss, _ = model.critic_objective(step.networks["critic"], step)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_value_network_learns_the_soft_value_of_each_state() -> None:
    model = make(kl_coef=0.0, value_network=True, ent_coef=0.3, tau=0.1)
    model.learn(40)
    sample = model.replay_buffer.sample(16)
    batch = Batch(sample.observations, sample.actions, sample.next_observations, sample.rewards, 1 - sample.dones)
    noise = torch.randn(16, 2)
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(batch.observations)
        u = mean + noise * log_std.exp()
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u).sum(1)
        log_prob = log_prob - torch.log(1 - torch.tanh(u) ** 2 + 1e-6).sum(1)
        values = model.value_net(batch.observations).squeeze(1)
    step = step_on(model, batch)
    policy = model.policy_sample(step.networks["actor"], batch.observations, noise)
    q_values = torch.cat(model.critic(batch.observations, policy.actions), dim=1)
    targets = q_values.detach().min(dim=1).values - 0.3 * log_prob
    info = model.further_step(step, policy)
    assert info["value_loss"].item() == pytest.approx(0.5 * ((values - targets) ** 2).mean().item(), rel=1e-4)
    before = [parameter.clone() for parameter in model.value_net_target.parameters()]
    model.move_targets(step)
    for old, new, source in zip(before, model.value_net_target.parameters(), model.value_net.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source)


@pytest.mark.parametrize(("actor_q", "second_critic_matters"), [("first", False), ("min", True)])
def test_which_critic_the_actor_climbs(actor_q: str, second_critic_matters: bool) -> None:
    actors = []
    for shift in (0.0, -100.0):  # the second critic far below the first
        model = make(kl_coef=0.0, actor_q=actor_q, learning_starts=10**6, ent_coef=0.1, learning_rate=1e-3)
        model.learn(40)
        with torch.no_grad():
            scale = 1.0 + shift
            for parameter in model.critic.q_networks[1].parameters():
                parameter.mul_(scale)
            model.critic.q_networks[1][-1].bias.add_(shift)
        torch.manual_seed(0)
        np.random.seed(0)
        model.critic.optimizer.step = lambda *_: None
        model.train(1, 16)
        actors.append(model.actor.state_dict())
    assert equal_states(*actors) != second_critic_matters


def test_behaviour_is_sampled_unless_asked_for_the_mean() -> None:
    for deterministic in (False, True):
        model = make(deterministic_behaviour=deterministic, n_envs=4)
        model.learn(40)
        mean_action = model.predict(model._last_obs, deterministic=True)[0]
        actions, stored = model._sample_action(learning_starts=20, n_envs=4)
        assert np.allclose(actions, mean_action, atol=1e-5) == deterministic
        assert np.allclose(model.policy.unscale_action(stored), actions, atol=1e-5)
        warm_up, _ = model._sample_action(learning_starts=10**6, n_envs=4)
        assert not np.allclose(warm_up, mean_action, atol=1e-3)
    noisy, _ = model._sample_action(20, NormalActionNoise(np.full(2, 5.0), np.zeros(2)), 4)
    assert np.allclose(noisy, model.action_space.high)  # the mean plus 5 of noise, clipped to the bounds


def test_hindsight_replay_and_dict_observations() -> None:
    for buffer, kwargs in (("device_her", {"n_sampled_goal": 4}), (None, None)):
        model = OffPolicyMDPO(
            "MultiInputPolicy",
            vec_env(2, ReachGoal),
            replay_buffer_class=buffer,
            replay_buffer_kwargs=kwargs,
            value_network=True,
            seed=0,
            **{**SMALL, "learning_starts": 60},  # HER needs a finished episode
        )
        model.learn(90)
        assert model._n_updates >= 14
        assert type(model.replay_buffer).__name__ == ("DeviceHerReplayBuffer" if buffer else "DeviceDictReplayBuffer")
        assert np.isfinite(model.logger.name_to_value["train/critic_loss"])


def test_critic_gradients_do_not_leak_from_the_actors_step() -> None:
    model = make(kl_coef=0.1)
    model.learn(30)
    step = step_on(model, model.read_batch(drawn := model.draw(16)))
    step = dataclasses.replace(step, drawn=drawn)
    model.critic.optimizer.zero_grad()
    step.networks.descend("actor", model._actor_loss, step)
    assert all(parameter.grad is None for parameter in model.critic.parameters())


# --- where the replay is kept ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, DeviceReplayBuffer),
        ({"n_steps": 3}, DeviceNStepReplayBuffer),
        ({"replay_buffer_class": "device"}, DeviceReplayBuffer),
        ({"replay_buffer_class": "device_n_step"}, DeviceNStepReplayBuffer),
        ({"replay_buffer_class": "replay"}, ReplayBuffer),
        ({"replay_buffer_class": "n_step"}, NStepReplayBuffer),
        ({"replay_buffer_class": ReplayBuffer}, ReplayBuffer),
    ],
)
def test_replay_is_on_the_device_unless_asked_otherwise(
    options: dict[str, Any], expected: type, recwarn: pytest.WarningsRecorder
) -> None:
    model = make(gamma=0.9, **options)
    assert type(model.replay_buffer) is model.replay_buffer_class is expected
    if options.get("n_steps"):
        assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (3, 0.9)
    assert not [warning for warning in recwarn if "n_steps" in str(warning.message)]


def test_replay_is_saved_and_loaded_as_stable_baselines3_does(tmp_path: Path) -> None:
    model = make(n_steps=2)
    model.learn(60)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = OffPolicyMDPO.load(tmp_path / "model.zip", env=vec_env(), device="cpu")
    assert type(loaded.replay_buffer) is DeviceNStepReplayBuffer and loaded.replay_buffer.size() == 0
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    np.random.seed(0)
    expected = model.replay_buffer.sample(50)
    np.random.seed(0)
    assert all(torch.equal(x, y) for x, y in zip(expected, loaded.replay_buffer.sample(50), strict=True))


def test_images_as_single_frames_train_alike() -> None:
    def trained(frames: int) -> OffPolicyMDPO:
        env = VecFrameStack(DummyVecEnv([Camera]), 3, channels_order="first")
        kwargs = {"replay_buffer_kwargs": {"frames": frames}, "buffer_size": 25, "policy_kwargs": {"net_arch": [8]}}
        return OffPolicyMDPO("MlpPolicy", env, seed=0, **{**SMALL, **kwargs}).learn(60)

    assert equal_states(trained(1).policy.state_dict(), trained(3).policy.state_dict())


class Camera(Reach):
    """Shows the point as a picture."""

    observation_space = spaces.Box(0, 255, (1, 6, 6), np.uint8)

    def observation(self) -> np.ndarray:
        distance = np.abs(np.arange(6)[None] - self.point[:, None] - 2.5)
        return (255 * np.exp(-distance[0][:, None] - distance[1])).astype(np.uint8)[None]
