"""On-policy gradient steps as a function of tensors, compiled, and of several seeds, against torch's optimisers."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from on_policy import ARMS, BUTTONS, FLAT, IMAGE, PARTS, Anything, logged, stepped
from reach import assert_same, needs_compiler, vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlopt.agents.mdpo.losses import policy_loss
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.agents.ppo.heads import action_head
from rlopt.agents.ppo.update import Request, take_eagerly, update_models
from rlopt.errors import NonFiniteError
from rlopt.optim.lockstep import Lockstep


def model(seed: int = 0, cls: type[MDPO] = MDPO, **options: Any) -> MDPO:
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "device": "cpu", "compile": "off"}
    settings |= {"batch_size": None, "target_kl": None, "normalize_value": False}
    settings |= {"learning_rate": 3e-4, "n_value_epochs": 5}
    return cls("MlpPolicy", vec_env(2), seed=seed, **{**settings, **options})


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 24, "tsallis_q": 1.5, "ent_coef": 0.1},
    {"batch_size": 16, "target_kl": 1e-3, "normalize_value": True},
    {"value_batch_size": None, "clip_range_vf": 0.1, "max_grad_norm": 0.01, "normalize_advantage": False},
    {"policy_kwargs": {"net_arch": {"pi": [], "vf": [8, 4, 8]}, "activation_fn": "relu", "log_std_init": -1.0}},
    {"max_grad_norm": math.inf, "step_size_schedule": "constant", "learning_rate": 1e-2, "value_learning_rate": 1e-3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_fused_steps_are_the_steps(options: dict[str, Any]) -> None:
    plain = model(**options).learn(64, log_interval=None)  # type: ignore[arg-type]
    one_call = stepped(model(**options)).learn(64, log_interval=None)  # type: ignore[arg-type]
    assert logged(one_call) == pytest.approx(logged(plain), rel=1e-4, abs=1e-5)
    plain, one_call = model(**options).learn(320), stepped(model(**options)).learn(320)
    assert_same(plain, one_call, 2e-3)
    # The optimisers' states are the same too, so either way can go on where the other stopped.
    for name in ("policy.optimizer", "value_optimizer"):
        ours, theirs = (part.get_parameters()[name]["state"] for part in (one_call, plain))
        for index, wanted in theirs.items():
            assert float(ours[index]["step"]) == float(wanted["step"])
            torch.testing.assert_close(ours[index]["exp_avg"], wanted["exp_avg"], rtol=1e-2, atol=1e-3)


@pytest.mark.kernels
@needs_compiler
def test_the_compiled_steps_are_the_steps() -> None:
    plain, compiled = model().learn(192), model(compile="on").learn(192)
    assert {step.mode for step in compiled.prepared.values()} == {"compiled"}
    assert_same(plain, compiled, 1e-3)


def trained(seed: int, steps: int, stacked: bool = False, **options: Any) -> Callable[[], MDPO]:
    """``stacked`` takes the steps of all in one call without compiling it, as on a GPU."""
    return lambda: (stepped if stacked else lambda own: own)(model(seed, **options)).learn(steps)


@pytest.mark.parametrize("options", OPTIONS)
def test_stacked_seeds_are_the_seeds_trained_alone(options: dict[str, Any]) -> None:
    together = Lockstep([trained(seed, 256, True, **options) for seed in (1, 2, 3)]).run()
    for seed, algorithm in zip((1, 2, 3), together, strict=True):
        alone = trained(seed, 256, **options)()
        assert algorithm._n_updates == alone._n_updates > 0
        assert_same(algorithm, alone, 2e-3)
        np.testing.assert_allclose(algorithm.rollout_buffer.actions, alone.rollout_buffer.actions, rtol=1e-3, atol=1e-3)
    assert together[0].prepared["policy"] is together[2].prepared["policy"]


@pytest.mark.kernels
@needs_compiler
def test_compiled_seeds_are_the_seeds_trained_alone_bit_for_bit() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        jobs = [functools.partial(with_one_thread, trained(seed, 192, compile="on")) for seed in (1, 2, 3)]
        together = Lockstep(jobs).run()
        torch.set_num_threads(1)
        for seed, algorithm in zip((1, 2, 3), together, strict=True):
            assert algorithm.prepared["policy"].mode == "compiled"
            assert_same(algorithm, trained(seed, 192, compile="on")(), 0.0)
            assert_same(algorithm, trained(seed, 192)(), 1e-3)
    finally:
        torch.set_num_threads(threads)


def with_one_thread(job: Callable[[], MDPO]) -> MDPO:
    torch.set_num_threads(1)
    return job()


def test_short_runs_on_the_cpu_are_those_alone_bit_for_bit() -> None:
    for seed, algorithm in zip((1, 2), Lockstep([trained(s, 128) for s in (1, 2)]).run(), strict=True):
        assert not algorithm.prepared
        assert_same(algorithm, trained(seed, 128)(), 0.0)


class OwnLoss(MDPO):
    """A user's loss: the policy loss with ``weight`` times the gradient."""

    weight = 2.0

    def policy_loss(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        loss, info = policy_loss(*args, **kwargs)
        return self.weight * loss, info


STRAIGHT: dict[str, Any] = {
    "policy_kwargs": {"optimizer_kwargs": {"eps": 1e3}},
    "learning_rate": 1.0,
    "max_grad_norm": math.inf,
}
"""Adam's first step is lr g / (|g| + eps), a multiple of the gradient where eps is large."""


def moved(algorithm: MDPO, steps: int = 64) -> torch.Tensor:
    before = algorithm.policy.action_net.weight.detach().clone()
    algorithm.learn(steps, reset_num_timesteps=False)
    return algorithm.policy.action_net.weight.detach() - before


def test_a_loss_is_changed_in_one_place_for_every_mode() -> None:
    plain, own = moved(model(n_epochs=1, **STRAIGHT)), moved(model(0, OwnLoss, n_epochs=1, **STRAIGHT))
    torch.testing.assert_close(own, 2 * plain, rtol=2e-3, atol=1e-9)
    tensors = moved(stepped(model(0, OwnLoss, n_epochs=1, **STRAIGHT)))
    torch.testing.assert_close(tensors, own, rtol=1e-3, atol=1e-9)
    jobs = [lambda: stepped(model(0, OwnLoss, n_epochs=1, **STRAIGHT)).learn(64) for _ in range(2)]
    alone = model(0, OwnLoss, n_epochs=1, **STRAIGHT).learn(64)
    for algorithm in Lockstep(jobs).run():
        assert len(algorithm.prepared["policy"]._made_for) == 2
        torch.testing.assert_close(
            algorithm.policy.action_net.weight, alone.policy.action_net.weight, rtol=0, atol=1e-7
        )


@needs_compiler
def test_a_compiled_loss_of_ones_own_sees_what_it_reads_change() -> None:
    """An attribute that changes between two updates: as without compiling, and back again."""

    def changing(compile: str) -> tuple[MDPO, list[torch.Tensor]]:
        algorithm = model(0, OwnLoss, compile=compile, n_epochs=1, **STRAIGHT)
        found = []
        for weight in (2.0, 2.0, 5.0, 2.0):
            algorithm.weight = weight  # type: ignore[attr-defined]
            found.append(moved(algorithm))
        return algorithm, found

    (compiled, ours), (_, wanted) = changing("on"), changing("off")
    assert compiled.prepared["policy"].mode == "compiled" and compiled.prepared["policy"].reason is None
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-7)


class CountingLoss(MDPO):
    def policy_loss(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        loss, info = policy_loss(*args, **kwargs)
        return loss / self.num_timesteps, info


def test_a_loss_that_reads_what_always_changes_runs_eagerly_and_says_so_once(capsys: Any) -> None:
    ours = stepped(model(cls=CountingLoss, n_epochs=1, **STRAIGHT)).learn(64 * 8)
    assert_same(ours, model(cls=CountingLoss, n_epochs=1, **STRAIGHT).learn(64 * 8), 1e-5)
    assert ours.prepared["policy"].reason == "policy_loss reads values that change"
    said = capsys.readouterr().out
    assert said.count("the policy phase are not compiled: policy_loss reads values that change") == 1


def branching(log_prob: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return policy_loss(log_prob, *args, **kwargs) if log_prob.mean().item() < 1e9 else None


class BranchingLoss(MDPO):
    policy_loss = staticmethod(branching)


@needs_compiler
def test_a_loss_that_cannot_be_compiled_runs_eagerly_and_says_so_once(capsys: Any) -> None:
    ours = model(cls=BranchingLoss, compile="on").learn(192)
    assert ours.prepared["value"].reason is None
    said = [line for line in capsys.readouterr().out.splitlines() if "not compiled" in line]
    assert len(said) == 1 and said[0].startswith(
        "the gradient steps of the policy phase are not compiled: it cannot be"
    )
    assert_same(ours, model().learn(192), 1e-3)


def test_an_entropy_weight_that_changes_takes_effect() -> None:
    def annealed(algorithm: MDPO) -> MDPO:
        algorithm.learn(64)
        algorithm.ent_coef = 0.5
        return algorithm.learn(64, reset_num_timesteps=False)

    changed, constant = annealed(stepped(model())), stepped(model()).learn(128)
    assert_same(changed, annealed(model()), 1e-4)
    assert not torch.allclose(changed.policy.log_std, constant.policy.log_std, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("column", "name"), [("advantages", "policy"), ("returns", "value")])
def test_a_broken_rollout_stops_before_it_reaches_the_networks(column: str, name: str) -> None:
    algorithm = stepped(model(normalize_advantage=False))
    algorithm.learn(64)
    before = {key: value.clone() for key, value in algorithm.policy.state_dict().items()}
    getattr(algorithm.rollout_buffer, column)[:] = np.nan
    with pytest.raises(NonFiniteError, match=f"{name} loss is NaN"):
        algorithm.train()
    same = ("value_net", "value") if name == "value" else ("policy_net", "action_net", "log_std")
    for key, value in algorithm.policy.state_dict().items():
        if any(part in key for part in same):
            assert torch.equal(value, before[key]), key


KINDS: dict[str, tuple[str, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "discrete": ("MlpPolicy", FLAT, BUTTONS, {}),
    "multi-discrete": ("MlpPolicy", FLAT, spaces.MultiDiscrete([2, 3]), {"tsallis_q": 1.5, "batch_size": 16}),
    "multi-binary": ("MlpPolicy", FLAT, spaces.MultiBinary(3), {"ent_coef": 0.1}),
    "gsde": ("MlpPolicy", FLAT, ARMS, {"use_sde": True}),
    "gsde-squashed": ("MlpPolicy", FLAT, ARMS, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "dict": ("MultiInputPolicy", PARTS, BUTTONS, {}),
    "discrete-observations": ("MlpPolicy", spaces.Discrete(4), ARMS, {"value_batch_size": None}),
    "image-shared": ("CnnPolicy", IMAGE, BUTTONS, {"policy_kwargs": {"share_features_extractor": True}}),
    "multi-discrete-image": ("CnnPolicy", IMAGE, spaces.MultiDiscrete([2, 3]), {"batch_size": 16}),
    "image-apart": ("CnnPolicy", IMAGE, ARMS, {}),
}


def of_kind(kind: str, seed: int = 0, **more: Any) -> MDPO:
    policy, observations, actions, options = KINDS[kind]
    env = DummyVecEnv([lambda: Anything(observations, actions, 10)] * 2)
    settings: dict[str, Any] = {"n_steps": 16, "n_epochs": 2, "value_batch_size": 16, "device": "cpu", "compile": "off"}
    settings |= {"batch_size": None, "normalize_value": False, "learning_rate": 3e-4}
    return MDPO(policy, env, seed=seed, **{**settings, **options, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_goes_the_same_way(kind: str) -> None:
    eager, alone = of_kind(kind).learn(96), stepped(of_kind(kind)).learn(96)
    assert set(alone.prepared) == {"policy", "value"}
    assert_same(alone, eager, 1e-3)
    jobs = [functools.partial(lambda seed: stepped(of_kind(kind, seed)).learn(64), seed) for seed in (0, 1)]
    for seed, algorithm in enumerate(Lockstep(jobs).run()):
        assert_same(algorithm, of_kind(kind, seed).learn(64), 1e-3)


@needs_compiler
@pytest.mark.parametrize("kind", ["discrete", "gsde-squashed", "dict", "image-shared"])
def test_every_kind_of_policy_is_compiled(kind: str, capsys: Any) -> None:
    compiled = of_kind(kind, compile="on").learn(64)
    assert all(step.mode == "compiled" and step.reason is None for step in compiled.prepared.values())
    assert "not compiled" not in capsys.readouterr().out
    assert_same(compiled, of_kind(kind).learn(64), 1e-3)


def torch_divergence(new: Any, old: Any) -> float:
    """Mean KL(new || old) by torch's own formulas, summed over the factors of an action."""
    pairs = zip(new, old, strict=True) if isinstance(new, list) else [(new, old)]
    kl = [torch.distributions.kl_divergence(*pair) for pair in pairs]
    return sum((part.sum(dim=-1) if part.dim() > 1 else part).mean().item() for part in kl)


@pytest.mark.parametrize("way", ["eager", "stepped"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "multi-discrete"])
def test_the_divergence_in_the_log_is_that_after_the_whole_update(kind: str, way: str) -> None:
    """By torch's own KL between the policies before and after the update."""
    algorithm, old = of_kind(kind, learning_rate=3e-3), of_kind(kind).policy
    observations = (algorithm if way == "eager" else stepped(algorithm)).learn(32).rollout_buffer.observations
    parts = observations if isinstance(observations, dict) else {"": observations}
    flat: Any = {key: torch.as_tensor(part).flatten(0, 1) for key, part in parts.items()}
    flat = flat.get("", flat)
    if isinstance(algorithm.observation_space, spaces.Discrete):
        flat = flat.flatten()
    new, before = (p.get_distribution(flat).distribution for p in (algorithm.policy, old))
    wanted = torch_divergence(new, before)
    assert logged(algorithm)["train/final_divergence"] == pytest.approx(wanted, rel=1e-3) and wanted > 1e-5


class OneTrunk(torch.nn.Module):
    """Layers of one's own below both networks, the way that Stable-Baselines3's documentation adds networks."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 8
        self.trunk = torch.nn.Sequential(torch.nn.Linear(features, 8), torch.nn.BatchNorm1d(8))
        self.critic_body = torch.nn.Linear(8, 8)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.trunk(features))

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.critic_body(self.trunk(features)))


class TrunkPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OneTrunk(self.features_dim)  # type: ignore[assignment]


class Normalised(BaseFeaturesExtractor):
    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 8)
        self.layers = torch.nn.Sequential(torch.nn.Linear(space.shape[0], 8), torch.nn.BatchNorm1d(8))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layers(observations)


SHARED = {"share_features_extractor": True}
SHARING: dict[str, Callable[[], MDPO]] = {
    "image": lambda: of_kind("image-shared"),
    "parts": lambda: of_kind("dict", policy_kwargs=SHARED),
    "running statistics": lambda: model(policy_kwargs=SHARED | {"features_extractor_class": Normalised}),
    "a trunk": lambda: MDPO(TrunkPolicy, vec_env(2), n_steps=32, device="cpu"),
}


@pytest.mark.parametrize(
    ("network", "way"), [*((network, "eager") for network in SHARING), ("image", "stepped"), ("parts", "stepped")]
)
def test_the_value_phase_never_moves_the_policy(network: str, way: str) -> None:
    """Not by a bit, neither what it computes nor the running statistics that it computes with."""
    algorithm = SHARING[network]().learn(64)
    policy, (_, value_phase) = algorithm.policy, algorithm.phases()
    observations: Any = create_empty_array(algorithm.observation_space, 4)
    shown = obs_as_tensor(observations, algorithm.device)

    def heard() -> tuple[torch.Tensor, torch.Tensor]:
        policy.set_training_mode(False)
        with torch.no_grad():
            return action_head(policy).evaluate(shown, actions).log_prob, policy.predict_values(shown)

    actions = policy.get_distribution(shown).get_actions(deterministic=True)
    (old_log_prob, old_values), buffers = heard(), [value.clone() for value in policy.buffers()]
    if way == "eager":
        take_eagerly(value_phase, 0)
    else:
        update_models([Request([value_phase], "eager", {}, 0)])
    log_prob, values = heard()
    assert torch.equal(log_prob, old_log_prob) and not torch.equal(values, old_values)
    assert all(map(torch.equal, policy.buffers(), buffers))


def test_every_parameter_is_trained_by_the_phase_that_needs_it() -> None:
    """A trunk that both networks share belongs to the policy phase; V's layers of any name to the value phase."""
    algorithm = SHARING["a trunk"]()
    names = {id(parameter): name for name, parameter in algorithm.policy.named_parameters()}
    assert {names[id(parameter)].rsplit(".", 1)[0] for parameter in algorithm.value_parameters} == {
        "mlp_extractor.critic_body",
        "value_net",
    }
    before = {name: value.clone() for name, value in algorithm.policy.named_parameters()}
    algorithm.learn(64)
    assert not [name for name, value in algorithm.policy.named_parameters() if torch.equal(value, before[name])]


def first_layer(algorithm: MDPO) -> torch.nn.Module:
    return algorithm.policy.mlp_extractor.policy_net[0]  # type: ignore[index, return-value]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("mode", ["off", "stepped", pytest.param("on", marks=needs_compiler)])
def test_a_frozen_layer_stays_and_can_be_thawed(mode: str, optimizer: str) -> None:
    """Also after it has moved, when the optimiser remembers its momentum."""
    if (mode, optimizer) == ("on", "sgd"):
        pytest.skip("plain Adam alone is compiled")
    options = {"optimizer_class": "sgd", "optimizer_kwargs": {"momentum": 0.9}} if optimizer == "sgd" else {}
    algorithm = model(compile="off" if mode == "stepped" else mode, policy_kwargs=options)
    if mode == "stepped" and optimizer == "adam":
        stepped(algorithm)
    for frozen in (False, True, False):
        first_layer(algorithm).requires_grad_(not frozen)
        before = {name: value.clone() for name, value in algorithm.policy.state_dict().items()}
        algorithm.learn(64, reset_num_timesteps=False)
        for name, value in algorithm.policy.state_dict().items():
            stays = frozen and "policy_net.0" in name
            assert torch.equal(value, before[name]) is stays, name


def test_a_frozen_layer_of_several_seeds_stays() -> None:
    def job(seed: int, stack: bool = True) -> MDPO:
        algorithm = model(seed)
        first_layer(algorithm).requires_grad_(False)
        return (stepped(algorithm) if stack else algorithm).learn(128)

    for seed, algorithm in enumerate(Lockstep([functools.partial(job, seed) for seed in (0, 1)]).run()):
        assert torch.equal(first_layer(algorithm).weight, first_layer(model(seed)).weight)
        assert_same(algorithm, job(seed, stack=False), 1e-3)


@pytest.mark.parametrize("mode", ["off", "stepped"])
def test_a_phase_of_which_all_is_frozen_moves_nothing(mode: str) -> None:
    algorithm = model()
    for parameter in algorithm.policy_parameters:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in algorithm.policy_parameters]
    value = algorithm.policy.value_net.weight.clone()
    (stepped(algorithm) if mode == "stepped" else algorithm).learn(64)
    assert all(map(torch.equal, before, algorithm.policy_parameters))
    assert not torch.equal(value, algorithm.policy.value_net.weight)


class OwnValues(ActorCriticPolicy):
    def predict_values(self, obs: Any) -> torch.Tensor:
        return super().predict_values(obs) + 1.0


class OwnDistribution(ActorCriticPolicy):
    def get_distribution(self, obs: Any) -> Any:
        return super().get_distribution(obs)


def hooked(algorithm: MDPO) -> MDPO:
    algorithm.policy.action_net.register_forward_hook(lambda *args: None)
    return algorithm


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: model(policy_kwargs={"optimizer_class": "sgd"}, compile="on"), "SGD of policy is not plain Adam"),
        (lambda: hooked(model(compile="on")), "hooks"),
        (lambda: MDPO(OwnValues, vec_env(2), n_steps=32, device="cpu", compile="on"), "predict_values of its own"),
        (lambda: MDPO(OwnDistribution, vec_env(2), n_steps=32, device="cpu", compile="on"), "distribution of its own"),
    ],
)
@needs_compiler
def test_what_cannot_be_compiled_says_why_once(make: Callable[[], MDPO], reason: str, capsys: Any) -> None:
    make().learn(192)
    said = [line for line in capsys.readouterr().out.splitlines() if "not compiled" in line]
    assert len(said) == 1 and said[0].startswith("MDPO's gradient steps are not compiled: ") and reason in said[0]


def test_a_policy_that_torch_compile_has_wrapped_trains_as_it_would_without() -> None:
    wrapped = model()
    wrapped.policy = torch.compile(wrapped.policy, backend="eager")  # type: ignore[assignment]
    wrapped.learn(128)
    wanted = model().learn(128).policy.state_dict()
    for name, value in wrapped.policy._orig_mod.state_dict().items():  # type: ignore[operator, union-attr]
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)
