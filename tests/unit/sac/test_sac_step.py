"""The gradient step as one function against the same step taken part by part, and its compiled form."""

import functools
import pickle
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from reach import SMALL, Reach, ReachGoal, as_function, assert_same, make, needs_compiler, vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlopt
from rlopt.agents.mdpo.config import OffPolicyMDPOConfig
from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac import losses
from rlopt.agents.sac.batch import Step
from rlopt.agents.sac.losses import PolicySample
from rlopt.agents.sac.off_policy import Update
from rlopt.checkpoint.files import list_checkpoints
from rlopt.checkpoint.model_state import save_checkpoint
from rlopt.errors import ConfigError, NonFiniteError
from rlopt.optim.descent import Network
from rlopt.optim.lockstep import Lockstep
from rlopt.runs.train import resume
from rlopt.runs.train import train as train_run
from rlopt.settings.run import RunConfig

PACKAGES = tuple(str(Path(str(package.__file__)).parent) for package in (rlopt, stable_baselines3))
"""Where the code of this repository and of Stable-Baselines3 lies."""


def collected(**options: Any) -> OffPolicyMDPO:
    """A model whose replay buffer is filled by random actions, the same for the same options."""
    model = make(compile="off", **{"learning_starts": 200, "old_policy_period": 7, **options})
    model.learn(200)
    return model


def train(model: OffPolicyMDPO, gradient_steps: int) -> dict[str, float]:
    torch.manual_seed(1)
    np.random.seed(1)
    model.train(gradient_steps, batch_size=16)
    return {key: value for key, value in model.logger.name_to_value.items() if key.startswith("train/")}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.0},
        {"ent_coef": 0.2, "tsallis_q": 1.5},
        {"kl_coef": 2.0, "kl_unit": "ent_coef"},
        {"analytic_kl": True, "critic_log_prob_bound": 2.0},
        {"log_density_floor": -1.0, "mean_penalty": 0.1, "log_std_penalty": 0.1, "actor_q": "first"},
        {"policy_kwargs": {"net_arch": {"pi": [16], "qf": [8, 8, 8]}, "n_critics": 3, "activation_fn": "tanh"}},
        {"n_steps": 3, "target_update_interval": 3},
        {"n_envs": 4, "policy_kwargs": {"net_arch": []}},
    ],
)
def test_the_fused_step_is_the_step(options: dict[str, Any]) -> None:
    plain, one_call = collected(**options), as_function(collected(**options))
    for steps in (1, 49):
        logged = train(plain, steps)
        assert train(one_call, steps) == pytest.approx(logged, rel=1e-4, abs=1e-5)
    assert_same(plain, one_call, 1e-4)
    if plain.old_actor is not None and one_call.old_actor is not None:
        assert torch.allclose(plain.old_actor.mu.weight, one_call.old_actor.mu.weight, atol=1e-4)


def test_the_fused_step_sees_normalised_samples() -> None:
    def model() -> OffPolicyMDPO:
        env = VecNormalize(DummyVecEnv([Reach]))
        model = OffPolicyMDPO("MlpPolicy", env, seed=5, **{**SMALL, "learning_starts": 200})  # type: ignore[arg-type]
        model.learn(200)
        return model

    plain, one_call = model(), as_function(model())
    train(plain, 20)
    train(one_call, 20)
    assert_same(plain, one_call, 1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_acting_is_predicting(n_envs: int, deterministic: bool) -> None:
    model = collected(n_envs=n_envs, deterministic_behaviour=deterministic)
    for seed in range(20):
        torch.manual_seed(seed)
        model.update = None
        actions, scaled = model._sample_action(0, None, n_envs)
        torch.manual_seed(seed)
        model.update = Update([model], [model.networks()], "eager")
        for ours, theirs in zip(model._sample_action(0, None, n_envs), (actions, scaled), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.kernels
@needs_compiler
def test_the_compiled_step_is_the_step(tmp_path: Path) -> None:
    plain, compiled = collected(), collected()
    compiled.compile = "on"
    logged = train(plain, 20)
    assert train(compiled, 20) == pytest.approx(logged, rel=1e-3, abs=1e-4)
    assert_same(plain, compiled, 1e-3)
    # A learning rate or a coefficient that changes takes effect without compiling anew.
    prepared = compiled.update.step._ready  # type: ignore[union-attr]
    for model in (plain, compiled):
        model.kl_coef, model.tau = 0.5, 0.1
        model.lr_schedule = lambda _: 1e-2
        train(model, 3)
    assert_same(plain, compiled, 1e-2)
    assert len(prepared) == 1
    # What was trained compiled is saved and loaded like everything else.
    checkpoint = save_checkpoint(compiled, tmp_path)
    loaded = rlopt.load(checkpoint, device="cpu")
    assert_same(compiled, loaded, 0.0)


@needs_compiler
def test_a_broken_batch_stops_before_it_reaches_the_networks() -> None:
    model = collected()
    model.compile = "on"
    train(model, 2)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.replay_buffer.rewards[:] = np.nan  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="critic loss is NaN"):
        train(model, 1)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.log_ent_coef is not None and torch.isfinite(model.log_ent_coef).all()


@pytest.mark.kernels
@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run = RunConfig(
        env="Pendulum-v1", total_timesteps=300, checkpoint_every=150, eval_every=0, device="cpu", run_dir=str(whole)
    )
    agent = OffPolicyMDPOConfig(
        compile="on", net_arch=(16, 16), batch_size=16, learning_starts=50, buffer_size=1000, old_policy_period=20
    )
    train_run("off_policy_mdpo", run, agent)
    shutil.copytree(whole, stopped)
    last = list_checkpoints(stopped / "checkpoints")[-1].name
    shutil.rmtree(stopped / "checkpoints" / last)
    torch.manual_seed(99)  # a new process has other random states
    assert resume(stopped).step == 300
    tensors = sorted((whole / "checkpoints" / last).glob("*.safetensors"))
    assert tensors
    for file in tensors:
        assert file.read_bytes() == (stopped / "checkpoints" / last / file.name).read_bytes(), file.name


class OtherCritics(OffPolicyMDPO):
    """Its critics learn a constant."""

    goal = 3.0

    def critic_objective(self, critic: Network, step: Step) -> tuple[torch.Tensor, Any]:
        q_values = torch.cat(self.q_values(critic, step.batch.observations, step.batch.actions), dim=1)
        loss = (q_values - self.goal).square().mean()
        return loss, {"critic_loss": loss.detach()}


class NoEntropy(OffPolicyMDPO):
    def log_prob(self, policy: PolicySample) -> torch.Tensor:
        return 0 * super().log_prob(policy)


def collected_by(cls: type[OffPolicyMDPO], seed: int = 5, **options: Any) -> Any:
    model = make(cls, seed=seed, compile="off", learning_starts=100, **options)
    model.learn(100)
    return model


def first_losses(model: Any) -> tuple[float, float]:
    logged = train(model, 1)
    return logged["train/critic_loss"], logged["train/actor_loss"]


def expected_critic_loss(model: Any, goal: float) -> float:
    """Of the critics as they are, by hand, on the batch that :func:`train` will draw."""
    np.random.seed(1)
    batch = model.replay_buffer.sample(16)
    with torch.no_grad():
        errors = [(q - goal).square().mean().item() for q in model.critic(batch.observations, batch.actions)]
    return float(np.mean(errors))


def compiled_by(model: Any) -> Any:
    model.compile = "on"
    return model


@pytest.mark.parametrize("way", ["eager", "function", pytest.param("compiled", marks=needs_compiler)])
def test_a_loss_that_is_changed_once_holds_in_every_mode(way: str) -> None:
    prepare = {"eager": lambda model: model, "function": as_function, "compiled": compiled_by}[way]
    model = prepare(collected_by(OtherCritics))
    expected = expected_critic_loss(model, 3.0)
    assert first_losses(model)[0] == pytest.approx(expected, rel=1e-5)
    assert (model.update is None) is (way == "eager")
    # A plain attribute that such a method reads does not freeze.
    model.goal = -1.0
    expected = expected_critic_loss(model, -1.0)
    assert first_losses(model)[0] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_changed_once_holds_for_stacked_seeds() -> None:
    expected: dict[int, float] = {}

    def job(seed: int) -> Callable[[], float]:
        def run() -> float:
            model = as_function(collected_by(OtherCritics, seed))
            expected[seed] = expected_critic_loss(model, 3.0)
            loss = first_losses(model)[0]
            assert model.update is not None and len(model.update.models) == 2
            return loss

        return run

    for seed, loss in zip((1, 2), Lockstep([job(1), job(2)]).run(), strict=True):
        assert loss == pytest.approx(expected[seed], rel=1e-5)
    assert expected[1] != pytest.approx(expected[2])


@pytest.mark.parametrize("way", ["eager", "function"])
def test_few_calls_lead_from_learn_to_the_loss(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def loss(*args: Any) -> Any:
        files = [frame.filename for frame in traceback.extract_stack()[:-1]]
        seen.append([file for file in files if file.startswith(PACKAGES)])
        return critic_loss(*args)

    critic_loss = losses.critic_loss
    model = make(compile="off", learning_starts=20)
    model.learn(20)
    monkeypatch.setattr(losses, "critic_loss", loss)
    (as_function(model) if way == "function" else model).learn(4, reset_num_timesteps=False)
    assert (model.update is not None) is (way == "function")
    for files in seen:
        # One more is the loss itself.
        assert 4 <= len(files) + 1 <= 8, files
        assert len({*files, losses.__file__}) <= 5, files
    assert seen


def test_another_entropy_counts_in_both_ways() -> None:
    models = [collected_by(OffPolicyMDPO, ent_coef=0.5), collected_by(NoEntropy, ent_coef=0.5)]
    models.append(as_function(collected_by(NoEntropy, ent_coef=0.5)))
    losses_seen = [first_losses(model)[1] for model in models]
    assert losses_seen[1] == pytest.approx(losses_seen[2])
    assert losses_seen[0] != pytest.approx(losses_seen[1])


def hooked(model: Any) -> None:
    model.actor.mu.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("options", "change", "reason"),
    [
        ({"policy_kwargs": {"optimizer_class": "sgd"}}, None, "the optimizer SGD of critic is not plain Adam"),
        ({}, hooked, "a module of actor has hooks"),
    ],
)
def test_what_cannot_be_compiled_says_why_once_and_trains(
    options: dict[str, Any], change: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(compile: str) -> Any:
        model = make(compile=compile, **options)  # seeds the global generators, from which batches are drawn
        if change is not None:
            change(model)
        return model.learn(40)

    plain, wanted = trained("off"), trained("on")
    assert wanted.update is None and wanted._n_updates == 20
    assert_same(plain, wanted, 0.0)
    assert capsys.readouterr().out.count(f"OffPolicyMDPO's gradient steps are not compiled: {reason}") == 1


def image_model(**options: Any) -> OffPolicyMDPO:
    settings = {**SMALL, "learning_starts": 30, "compile": "off", "buffer_size": 100, **options}
    return OffPolicyMDPO("CnnPolicy", DummyVecEnv([SmallCamera]), seed=5, **settings)  # type: ignore[arg-type]


def goal_model(**options: Any) -> OffPolicyMDPO:
    settings = {**SMALL, "learning_starts": 40, "compile": "off", **options}
    return OffPolicyMDPO("MultiInputPolicy", vec_env(env=ReachGoal), seed=5, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(goal_model),
        functools.partial(goal_model, replay_buffer_class="device_her"),
        functools.partial(make, use_sde=True, learning_starts=40),
        functools.partial(make, use_sde=True, analytic_kl=True, learning_starts=40),
        functools.partial(make, value_network=True, learning_starts=40),
        functools.partial(make, value_network=True, actor_q="first", n_steps=3, learning_starts=40),
        functools.partial(make, learning_starts=40, policy_kwargs={"net_arch": [8], "share_features_extractor": True}),
        functools.partial(image_model, random_shift=2),
        functools.partial(image_model, policy_kwargs={"net_arch": [8], "features_extractor_class": "drqv2"}),
    ],
    ids=["dict", "her", "gsde", "gsde-analytic", "value", "value-first", "shared-extractor", "images", "drqv2"],
)
def test_every_network_and_observation_takes_the_same_way(build: Callable[..., OffPolicyMDPO]) -> None:
    def trained(prepare: Callable[[OffPolicyMDPO], OffPolicyMDPO]) -> OffPolicyMDPO:
        model = prepare(build())  # building seeds the global generators, from which batches are drawn
        model.learn(model.learning_starts + 12)
        torch.manual_seed(1)
        np.random.seed(1)
        model.train(5, 16)
        return model

    plain, function = trained(lambda model: model), trained(as_function)
    assert plain._n_updates == function._n_updates == 17 and function.update is not None
    assert_same(plain, function, 1e-3)
    for name, value in plain.logger.name_to_value.items():
        if name.startswith("train/"):
            assert function.logger.name_to_value[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


def test_frozen_parameters_stay_frozen_in_every_mode() -> None:
    models = [collected(), as_function(collected())]
    for model in models:
        model.actor.latent_pi[0].requires_grad_(False)
        before = model.actor.latent_pi[0].weight.clone()
        other = model.actor.latent_pi[2].weight.clone()
        train(model, 5)
        assert torch.equal(model.actor.latent_pi[0].weight, before)
        assert not torch.equal(model.actor.latent_pi[2].weight, other)
    assert_same(*models, 1e-4)


class SmallCamera(Reach):
    """Shows the point as a picture that is large enough for both encoders."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def observation(self) -> np.ndarray:
        distance = np.abs(np.arange(36)[None] / 4 - self.point[:, None] - 4.5)
        return (255 * np.exp(-distance[0][:, None] - distance[1])).astype(np.uint8)[None]


def test_the_fused_step_reads_the_buffer_that_the_model_has_now() -> None:
    model = collected()
    model.compile = "on"
    update = Update([model], [model.networks()], "compiled")
    other = collected()
    assert update.belongs_to([model], [model.networks()]) and not update.belongs_to([other], [other.networks()])
    model.replay_buffer.device = torch.device("cpu")  # type: ignore[union-attr]
    assert not update.belongs_to([model], [model.networks()])  # its rows have moved
    update = Update([model], [model.networks()], "compiled")
    model.replay_buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    assert not update.belongs_to([model], [model.networks()])


@needs_compiler
def test_a_replaced_buffer_is_the_one_that_is_trained_on() -> None:
    model = collected()
    model.compile = "on"
    train(model, 1)
    model.replay_buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    model.replay_buffer.rewards[:] = 1e6
    assert train(model, 1)["train/critic_loss"] > 1e9


def test_bf16_is_of_compiled_steps_alone() -> None:
    with pytest.raises(ConfigError, match="precision bf16 needs compiled gradient steps: leave out compile off"):
        make(precision="bf16", compile="off")
    model = make(precision="bf16", policy_kwargs={"net_arch": [16], "optimizer_class": "rmsprop"})
    with pytest.raises(ConfigError, match="not plain Adam, and precision bf16 needs compiled gradient steps"):
        model.learn(300)


def test_a_step_in_bf16_is_nearly_the_step() -> None:
    steps = {}
    for precision in ("float32", "bf16"):
        model = make(compile="on", precision=precision, learning_starts=200, policy_kwargs={"net_arch": [64, 64]})
        model.batch_size = 64
        model.learn(201)
        steps[precision] = model.logger.name_to_value["train/critic_loss"], model.critic.state_dict()["qf0.0.weight"]
    (exact, _), (rounded, weight) = steps["float32"], steps["bf16"]
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact
    assert weight.dtype == torch.float32
    model.precision = "float32"
    model.learn(1, reset_num_timesteps=False)
    assert model.update is not None and model.update.step.precision == "float32"
