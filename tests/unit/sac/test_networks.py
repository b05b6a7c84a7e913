"""The networks of actor and critics against plain writings of their papers, and the gradient step with each of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demonstrated
import numpy as np
import pytest
import stable_baselines3
import torch
from reach import SMALL, ReachGoal, as_function, assert_same, make, needs_compiler, vec_env
from torch import Tensor, nn
from torch.nn import functional as F

import rlopt
from rlopt.agents.ailboost.algorithm import DAC
from rlopt.agents.deep_loop.algorithm import DeepLOOP
from rlopt.agents.imitation.iq_learn import IQLearn
from rlopt.agents.sac.config import SACConfig
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.errors import ConfigError, NonFiniteError
from rlopt.nn.networks import BatchRenorm, RunningNormalizer
from rlopt.optim.lockstep import Lockstep

NETWORKS = ("layer_norm", "simba", "crossq")


def model_with(network: str, cls: Any = rlopt.SAC, **options: Any) -> Any:
    return make(cls, network=network, compile="off", **options)


def trained(model: Any, gradient_steps: int) -> dict[str, float]:
    torch.manual_seed(1)
    np.random.seed(1)
    model.train(gradient_steps, batch_size=16)
    return {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}


# ---- forward passes


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    normal = centred / (centred.pow(2).mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


def noisy(module: nn.Module) -> dict[str, Tensor]:
    """Moves every parameter away from where it begins, so that none of them is 0 or 1 by chance."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.state_dict()


def plain_simba(x: Tensor, state: dict[str, Tensor], blocks: int) -> Tensor:
    x = linear(x, state, "0")
    for block in range(1, blocks + 1):
        inner = linear(layer_norm(x, state, f"{block}.layer_norm"), state, f"{block}.expand").relu()
        x = x + linear(inner, state, f"{block}.contract")
    return layer_norm(x, state, str(blocks + 1))


def test_the_networks_of_simba_are_those_of_the_paper() -> None:
    model = rlopt.SAC("MlpPolicy", "Pendulum-v1", network="simba", device="cpu")
    observations, actions = 5 * torch.randn(7, 3), torch.rand(7, 1)
    rows = 3 * torch.randn(50, 3) + 1
    model.policy.statistics.update(rows)  # type: ignore[union-attr, operator]
    normal = (observations - model.policy.statistics.mean) / model.policy.statistics.variance.sqrt()  # type: ignore
    for index, value in enumerate(model.critic(observations, actions)):
        network = model.critic.q_networks[index]
        assert network[1].expand.weight.shape == (2048, 512)
        features = plain_simba(torch.cat([normal.float(), actions], dim=1), network.state_dict(), 2)
        torch.testing.assert_close(value, linear(features, network.state_dict(), "4"), rtol=1e-4, atol=1e-5)
    state = noisy(model.actor)
    latent = {key.removeprefix("latent_pi."): value for key, value in state.items() if key.startswith("latent_pi.")}
    features = plain_simba(normal.float(), latent, 1)
    assert features.shape == (7, 128)
    mean, log_std, _ = model.actor.get_action_dist_params(observations)
    torch.testing.assert_close(mean, linear(features, state, "mu"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_std, linear(features, state, "log_std").clamp(-20, 2))


def test_layer_normalisation_is_in_the_critics_alone() -> None:
    model = rlopt.SAC("MlpPolicy", "Pendulum-v1", network="layer_norm", device="cpu")
    observations, actions = torch.randn(7, 3), torch.rand(7, 1)
    state = noisy(model.critic.q_networks[1])
    x = torch.cat([observations, actions], dim=1)
    for hidden in ("0", "3"):
        x = layer_norm(linear(x, state, hidden), state, str(int(hidden) + 1)).relu()
    torch.testing.assert_close(model.critic(observations, actions)[1], linear(x, state, "6"), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.LayerNorm) for module in model.actor.modules())


def test_batch_renormalisation_by_hand() -> None:
    layer = BatchRenorm(2)
    layer.weight.data, layer.bias.data = torch.tensor([2.0, 1.0]), torch.tensor([0.5, 0.0])
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])  # means 2, 20; variances 1, 100
    out, statistics = layer.by_batch(x)
    deviation = [math.sqrt(1.001), math.sqrt(100.001)]
    wanted = [[2 * -1 / deviation[0] + 0.5, -10 / deviation[1]], [2 * 1 / deviation[0] + 0.5, 10 / deviation[1]]]
    torch.testing.assert_close(out, torch.tensor(wanted))
    torch.testing.assert_close(statistics["running_mean"], torch.tensor([0.02, 0.2]))
    torch.testing.assert_close(statistics["running_var"], torch.tensor([1.0, 0.99 + 1.0]))
    assert statistics["steps"] == 1 and layer.steps == 0
    # After the warm-up: M = 1, S^2 = 4 and 0.25; r = s / S within [1/3, 3], d = (m - M) / S within [-5, 5].
    layer.steps.fill_(100_000)
    layer.running_mean.fill_(1.0)
    layer.running_var.copy_(torch.tensor([4.0, 0.25]))
    out, _ = layer.by_batch(x)
    running = [math.sqrt(4.001), math.sqrt(0.251)]
    r, d = deviation[0] / running[0], 1 / running[0]
    assert 1 / 3 < r < 1
    wanted = [[2 * (-1 / deviation[0] * r + d) + 0.5, -10 / deviation[1] * 3 + 5]]
    torch.testing.assert_close(out[:1], torch.tensor(wanted))
    # Within the bounds it is, forward, the normalisation by the running statistics.
    torch.testing.assert_close(out[:, 0], layer(x)[:, 0])


def test_the_gradient_of_batch_renormalisation_takes_its_corrections_for_constants() -> None:
    torch.manual_seed(0)  # some draws would reach the clips
    layer = BatchRenorm(3).double()
    layer.steps.fill_(200_000)
    layer.running_mean.fill_(0.3)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, 3, dtype=torch.float64)
    (layer.by_batch(x)[0] * target).sum().backward()
    mean, std = x.mean(dim=0), (x.var(dim=0, correction=0) + 1e-3).sqrt()
    r, d = (std / math.sqrt(1.001)).detach(), ((mean - 0.3) / math.sqrt(1.001)).detach()
    (wanted,) = torch.autograd.grad((((x - mean) / std * r + d) * target).sum(), x)
    torch.testing.assert_close(x.grad, wanted)


def test_running_statistics_are_those_of_all_rows() -> None:
    normalizer, rows = RunningNormalizer(3), np.random.default_rng(0).normal(2, 5, size=(40, 3))
    for part in np.split(rows, [1, 2, 10, 33]):
        normalizer.update(torch.from_numpy(part))
    # One row of mean 0 and variance 1 before all others.
    mean = rows.sum(axis=0) / 41
    variance = (1 + mean**2 + ((rows - mean) ** 2).sum(axis=0)) / 41
    np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(normalizer.variance, variance, rtol=1e-12)
    assert normalizer.count == 41


def test_observations_are_counted_once_when_they_are_acted_on() -> None:
    model = model_with("simba", learning_starts=30)
    model.learn(40)
    assert model.replay_buffer is not None
    rows = np.concatenate([np.zeros((1, 2)), model.replay_buffer.observations[:40].reshape(40, 2)])
    np.testing.assert_allclose(model.policy.statistics.mean, rows.mean(axis=0), rtol=1e-6)
    for network in (model.actor, model.critic, model.critic_target):
        assert network.features_extractor.statistics is model.policy.statistics


# ---- CrossQ's step


def plain_renorm(x: Tensor, state: dict[str, Tensor], name: str, by_batch: bool) -> Tensor:
    """In the warm-up."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if by_batch:
        mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
    return (x - mean) / (variance + 1e-3).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def plain_crossq(x: Tensor, state: dict[str, Tensor], by_batch: bool, head: bool) -> Tensor:
    x = plain_renorm(x, state, "0", by_batch)
    for hidden in (1, 4):
        x = plain_renorm(linear(x, state, str(hidden)).relu(), state, str(hidden + 2), by_batch)
    return linear(x, state, "7") if head else x


def test_the_losses_of_crossq_are_those_of_the_paper() -> None:
    model = model_with("crossq", ent_coef=0.3, learning_starts=60, policy_delay=1)
    model.learn(60)
    trained(model, 30)
    actor = {key: value.detach().clone() for key, value in model.actor.state_dict().items()}
    critics = [{k: v.detach().clone() for k, v in q.state_dict().items()} for q in model.critic.q_networks]
    latent = {key.removeprefix("latent_pi."): value for key, value in actor.items() if key.startswith("latent_pi.")}
    torch.manual_seed(1)
    np.random.seed(1)
    batch = model.replay_buffer.sample(16)
    noise = [torch.randn(16, 2) for _ in range(2)]

    def act(observations: Tensor, noise: Tensor, by_batch: bool) -> tuple[Tensor, Tensor]:
        features = plain_crossq(observations, latent, by_batch, head=False)
        std = linear(features, actor, "log_std").clamp(-20, 2).exp()
        u = linear(features, actor, "mu") + std * noise
        log_prob = torch.distributions.Normal(u - std * noise, std).log_prob(u) - torch.log(1 - u.tanh() ** 2 + 1e-6)
        return u.tanh(), log_prob.sum(dim=1, keepdim=True)

    next_actions, next_log_prob = act(batch.next_observations, noise[1], False)
    joint = torch.cat(
        [
            torch.cat([batch.observations, batch.actions], dim=1),
            torch.cat([batch.next_observations, next_actions], dim=1),
        ]
    )
    now, following = zip(*(plain_crossq(joint, critic, True, True).split(16) for critic in critics), strict=True)
    target = torch.minimum(*following) - 0.3 * next_log_prob
    target = batch.rewards + 0.99 * (1 - batch.dones) * target
    critic_loss = sum(0.5 * F.mse_loss(values, target) for values in now)
    logged = trained(model, 1)
    assert logged["train/critic_loss"] == pytest.approx(float(critic_loss), rel=1e-4)
    # The actor climbs the critics of after their step, by their running statistics of after it.
    mean = joint.mean(dim=0)
    for index, critic in enumerate(critics):
        moved = model.critic.q_networks[index].state_dict()
        torch.testing.assert_close(moved["0.running_mean"], critic["0.running_mean"] * 0.99 + 0.01 * mean)
        critics[index] = moved
    actions, log_prob = act(batch.observations, noise[0], True)
    pairs = torch.cat([batch.observations, actions], dim=1)
    q_values = torch.minimum(*(plain_crossq(pairs, critic, False, True) for critic in critics))
    assert logged["train/actor_loss"] == pytest.approx(float((0.3 * log_prob - q_values).mean()), rel=1e-3, abs=1e-4)
    moved_mean = model.actor.state_dict()["latent_pi.0.running_mean"]
    torch.testing.assert_close(moved_mean, latent["0.running_mean"] * 0.99 + 0.01 * batch.observations.mean(dim=0))


def test_crossq_has_no_target_network_a_delayed_actor_and_its_own_adam() -> None:
    model = model_with("crossq", ent_coef=0.1, learning_starts=60)
    model.learn(60)
    assert model.critic_target is None and "critic_target" not in model.networks()
    assert not any(name.startswith("critic_target") for name in model.policy.state_dict())
    assert {group["betas"] for o in (model.actor.optimizer, model.critic.optimizer) for group in o.param_groups} == {
        (0.5, 0.999)
    }
    weight, moved = model.actor.mu.weight.detach().clone(), []
    for _ in range(6):
        trained(model, 1)
        moved.append(not torch.equal(model.actor.mu.weight, weight))
        weight = model.actor.mu.weight.detach().clone()
    assert moved == [False, False, True] * 2
    logged = trained(model, 4)  # statistics of steps with and without the actor
    assert {"train/actor_loss", "train/critic_loss"} <= logged.keys()


def test_a_broken_batch_leaves_running_statistics_as_they_are() -> None:
    model = as_function(model_with("crossq", learning_starts=60))
    model.learn(60)
    trained(model, 3)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(NonFiniteError, match="critic loss is NaN"):
        trained(model, 1)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, before[key]), key


# ---- one step in every way

MODELS: dict[str, Callable[[str], Any]] = {
    "sac": lambda network: model_with(network, gradient_steps=2),
    "four critics": lambda network: model_with(network, policy_kwargs={"net_arch": [8], "n_critics": 4}),
    "gsde": lambda network: model_with(network, use_sde=True),
    "goals": lambda network: rlopt.SAC(
        "MultiInputPolicy",
        vec_env(env=ReachGoal),
        network=network,  # type: ignore[arg-type]
        seed=5,
        replay_buffer_class="device_her",
        compile="off",
        **SMALL,  # type: ignore[arg-type]
    ),
    "mdpo": lambda network: model_with(network, rlopt.OffPolicyMDPO, old_policy_period=5),
    "deep loop": lambda network: model_with(network, DeepLOOP, on_termination="reset", n_features=8),
    "iq-learn": lambda network: demonstrated.make("iq_learn", network=network, compile="off"),
    "sqil": lambda network: demonstrated.make("sqil", network=network, compile="off"),
    "value dice": lambda network: demonstrated.make("value_dice", network=network, compile="off"),
    "dac": lambda network: DAC(
        "MlpPolicy",
        vec_env(),
        demonstrated.demonstrations(),
        network=network,  # type: ignore[arg-type]
        seed=5,
        policy_steps=20,
        discriminator_steps=2,
        compile="off",
        **SMALL,  # type: ignore[arg-type]
    ),
}
CASES = [(kind, network) for kind in MODELS for network in NETWORKS if (kind, network) != ("value dice", "crossq")]


@pytest.mark.parametrize(("kind", "network"), CASES)
def test_every_child_takes_the_same_step_as_a_function(kind: str, network: str) -> None:
    plain, function = (prepare(MODELS[kind](network)).learn(45) for prepare in (lambda model: model, as_function))
    assert plain._n_updates == function._n_updates > 0 and function.update is not None
    # ValueDICE's loss does not depend on nu's last bias: Adam moves it by the rounding of its gradient.
    demonstrated.assert_alike(plain, function, 2e-2 if kind == "value dice" else 2e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_stacked_seeds_are_the_seeds_trained_alone(network: str) -> None:
    def job(seed: int, stacked: bool) -> Callable[[], Any]:
        def run() -> Any:
            model = model_with(network, seed=seed)
            return (as_function(model) if stacked else model).learn(60)

        return run

    together = Lockstep([job(seed, True) for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        assert_same(model, job(seed, False)(), 1e-3)


@needs_compiler
@pytest.mark.parametrize("network", ["simba", "crossq"])
def test_the_step_is_traced_whole(network: str) -> None:
    plain, traced = (model_with(network, learning_starts=60).learn(60) for _ in range(2))
    traced.compile = "on"
    assert trained(traced, 4) == pytest.approx(trained(plain, 4), rel=1e-3, abs=1e-4)
    assert traced.update is not None and traced.update.step.mode == "compiled"
    assert_same(plain, traced, 1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_is_the_run_bit_for_bit(network: str) -> None:
    def model(seed: int) -> Any:
        env = rlopt.make_env("Pendulum-v1", seed=seed)
        return rlopt.SAC("MlpPolicy", env, network=network, compile="off", seed=seed, **SMALL)  # type: ignore[arg-type]

    whole, first = model(5).learn(80), model(5)
    first.boundary_hook = lambda model: model.num_timesteps < 43
    first.learn(80)
    assert first.num_timesteps == 43
    said: list[str | None] = []
    trees = capture_state(first)  # before another is made, which seeds the generators
    second = learn_from(model(9), trees, 80, report=said.append)
    assert second.num_timesteps == 80 and said == [None]
    assert_same(whole, second, 0.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_models_are_saved_and_loaded(network: str, tmp_path: Path) -> None:
    model = model_with(network).learn(40)
    observation = np.array([[0.3, -2.0]], np.float32)
    wanted = model.predict(observation, deterministic=True)[0]
    model.save(tmp_path / "model.zip")
    loaded = [rlopt.SAC.load(tmp_path / "model.zip"), rlopt.load(save_checkpoint(model, tmp_path), device="cpu")]
    for other in loaded:
        assert_same(model, other, 0.0)
        assert other.network == network and (other.critic_target is None) is (network == "crossq")
        np.testing.assert_array_equal(other.predict(observation, deterministic=True)[0], wanted)
    with pytest.raises(ConfigError, match="network is part of what was trained"):
        rlopt.SAC.load(tmp_path / "model.zip", network="mlp")


def test_a_frozen_copy_keeps_its_own_statistics() -> None:
    model = model_with("simba", rlopt.OffPolicyMDPO, old_policy_period=1000).learn(40)
    statistics = model.old_actor.features_extractor.statistics
    assert statistics.count == 1 and model.policy.statistics.count == 41


# ---- settings


def test_networks_have_the_widths_of_their_papers_unless_others_are_given() -> None:
    def widths(**settings: Any) -> Any:
        return SACConfig(**settings).algorithm_kwargs()["policy_kwargs"]["net_arch"]

    assert widths() == [256, 256] == widths(network="layer_norm")
    assert widths(network="simba") == {"pi": [128], "qf": [512, 512]}
    assert widths(network="crossq") == {"pi": [256, 256], "qf": [2048, 2048]}
    assert widths(network="crossq", critic_net_arch=(512,)) == {"pi": [256, 256], "qf": [512]}
    assert widths(network="simba", net_arch=(64, 64)) == [64, 64]
    model = rlopt.SAC("MlpPolicy", "Pendulum-v1", network="crossq", device="cpu")
    assert [layer.out_features for layer in model.critic.q_networks[0] if isinstance(layer, nn.Linear)] == [
        2048,
        2048,
        1,
    ]


class OwnPolicy(stable_baselines3.sac.policies.SACPolicy):
    """A policy of a user."""


def test_networks_that_are_large_for_a_cpu_say_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model_with("simba").learn(2)
    assert "weights" not in capsys.readouterr().out
    monkeypatch.setattr("rlopt.agents.sac.algorithm.MANY_WEIGHTS", 100)
    for _ in range(2):
        model_with("simba").learn(2)
    model_with("mlp").learn(2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("network simba has 0.0 million weights in the critics") and "--critic-net-arch" in line


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: model_with("crossq", tau=0.01), "tau has no effect with network crossq"),
        (
            lambda: model_with("crossq", target_update_interval=2),
            "target_update_interval has no effect with network crossq",
        ),
        (lambda: model_with("crossq", rlopt.OffPolicyMDPO, value_network=True), "value_network has a target network"),
        (lambda: model_with("mlp", rlopt.OffPolicyMDPO, value_network=True, policy_delay=2), "value_network has a"),
        (lambda: model_with("crossq", IQLearn, use_target=True), "use_target has no effect with network crossq"),
        (lambda: demonstrated.make("value_dice", network="crossq"), "network"),
        (lambda: rlopt.SAC(OwnPolicy, vec_env(), network="simba"), "a custom policy"),
        (lambda: model_with("simba", policy_kwargs={"net_arch": [8, 16]}), "residual blocks of one width"),
        (lambda: model_with("simba", policy_kwargs={"net_arch": []}), "residual blocks of one width"),
        (lambda: model_with("resnet"), "network"),
        (lambda: model_with("mlp", policy_delay=0), "policy_delay"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        build()
    assert "\n" not in str(refusal.value)


def test_policy_delay_is_a_setting_of_every_network() -> None:
    plain = model_with("mlp", policy_delay=2).learn(45)
    function = as_function(model_with("mlp", policy_delay=2)).learn(45)
    assert_same(plain, function, 1e-3)
    assert float(plain.actor.optimizer.state[plain.actor.mu.weight]["step"]) == plain._n_updates // 2


@pytest.mark.parametrize("as_given", [lambda model: model, as_function])
def test_actor_and_entropy_wait_while_the_critics_learn(as_given: Callable[[Any], Any]) -> None:
    model = as_given(model_with("mlp", learning_starts=10, actor_starts=30, train_freq=1, gradient_steps=1))
    parts = {"actor": model.actor, "critic": model.critic}
    before = {name: nn.utils.parameters_to_vector(part.parameters()).clone() for name, part in parts.items()}
    model.learn(29)
    after = {name: nn.utils.parameters_to_vector(part.parameters()) for name, part in parts.items()}
    assert model._n_updates > 0 and not torch.equal(after["critic"], before["critic"])
    assert torch.equal(after["actor"], before["actor"]) and model.log_ent_coef.item() == 0.0
    model.learn(1, reset_num_timesteps=False)
    assert not torch.equal(nn.utils.parameters_to_vector(model.actor.parameters()), before["actor"])
    assert model.log_ent_coef.item() != 0.0
