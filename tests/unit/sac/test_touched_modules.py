"""Networks that a user has changed: steps are Stable-Baselines3's, or one line says why they are slower."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from reach import assert_same, make, needs_compiler, vec_env
from torch import nn
from torch.nn.utils import parametrizations
from user_networks import DRAWING, Extractor, compiled, nothing

import rlopt

QUICK: dict[str, Any] = {
    "batch_size": 8,
    "learning_starts": 10,
    "buffer_size": 200,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [8, 8]},
}


class Counting(nn.Module):
    """Scales by how often it was called in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return values * (1 + 0.1 * self.calls)


class Noisy(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + 0.1 * torch.randn_like(values) if self.training else values


def frozen(model: Any) -> None:
    model.actor.latent_pi[0].requires_grad_(False)
    model.critic.qf0[0].weight.requires_grad_(False)


def frozen_actor(model: Any) -> None:
    model.actor.requires_grad_(False)


def forward_hooks(model: Any) -> None:
    for layer in (model.actor.latent_pi[0], model.critic.qf1[2], model.critic_target.qf0[0]):
        layer.register_forward_hook(lambda module, given, found: 0.5 * found)


def gradient_hooks(model: Any) -> None:
    model.actor.latent_pi[0].weight.register_hook(lambda gradient: 0.1 * gradient)
    model.critic.qf0[0].register_full_backward_hook(
        lambda module, into, out: (None if into[0] is None else 2 * into[0],)
    )


def hooks_after_gradients(model: Any) -> None:
    def halve(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad = 0.5 * parameter.grad.sign()

    model.critic.qf0[0].weight.register_post_accumulate_grad_hook(halve)


def groups(model: Any) -> None:
    layers = [list(layer.parameters()) for layer in model.actor.latent_pi if list(layer.parameters())]
    rest = [*model.actor.mu.parameters(), *model.actor.log_std.parameters()]
    decaying = [
        {"params": part, "weight_decay": 0.1 * i, "betas": (0.8, 0.9)} for i, part in enumerate([*layers, rest])
    ]
    model.actor.optimizer = torch.optim.Adam(decaying, lr=1e-3)


def another_optimizer(model: Any) -> None:
    model.critic.optimizer = torch.optim.SGD(model.critic.parameters(), lr=1e-3, momentum=0.9)


def optimizer_hook(model: Any) -> None:
    def clip(optimizer: torch.optim.Optimizer, *args: Any) -> None:
        nn.utils.clip_grad_value_(model.critic.parameters(), 1e-3)

    model.critic.optimizer.register_step_pre_hook(clip)


def tied(model: Any) -> None:
    for critic in (model.critic, model.critic_target):
        critic.qf1[2].weight = critic.qf0[2].weight


def normed(make_norm: Callable[[nn.Module], nn.Module]) -> Callable[[Any], None]:
    def touch(model: Any) -> None:
        for network in (model.actor.latent_pi, model.critic.qf0, model.critic_target.qf0):
            make_norm(network[0])
        for network in (model.actor, model.critic):
            network.optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
        model.critic_target.requires_grad_(False)

    return touch


def compiled_parts(model: Any) -> None:
    model.actor = torch.compile(model.actor, backend="eager")


TOUCHES: dict[str, tuple[Callable[[Any], None], dict[str, Any], str | None]] = {
    "nothing": (nothing, {}, None),
    "frozen layers": (frozen, {}, None),
    "a frozen actor": (frozen_actor, {}, "all of actor is frozen"),
    "forward hooks": (forward_hooks, {}, "a module of critic has hooks"),
    "gradient hooks": (gradient_hooks, {}, "hooks"),
    "hooks after gradients": (hooks_after_gradients, {}, "a parameter of critic has hooks"),
    "parameter groups": (groups, {}, "the optimizer of actor has several parameter groups"),
    "another optimizer": (another_optimizer, {}, "the optimizer SGD of critic is not plain Adam"),
    "a hook of the optimizer": (optimizer_hook, {}, "the optimizer of critic has hooks"),
    "tied weights": (tied, {}, "layers of critic share a weight"),
    "weight norm": (normed(parametrizations.weight_norm), {}, None),
    "spectral norm": (normed(parametrizations.spectral_norm), {}, "_SpectralNorm, which draws"),
    "torch.compile of the policy": (compiled, {}, None),
    "torch.compile of the actor": (compiled_parts, {}, "torch.compile has wrapped a module of actor"),
    **{
        name: (nothing, {"features_extractor_class": Extractor, "features_extractor_kwargs": {"inner": inner}}, reason)
        for name, (inner, reason) in {
            **DRAWING,
            "random slopes": (nn.RReLU, "RReLU, which draws"),
            "buffers of its own": (Counting, "Counting, whose buffers a forward pass may change"),
        }.items()
    },
}


def touched(cls: Any, name: str, **options: Any) -> Any:
    touch, more, _ = TOUCHES[name]
    settings = {**QUICK, **options, "policy_kwargs": {**QUICK["policy_kwargs"], **more}}
    model = cls("MlpPolicy", vec_env(), seed=3, **settings)
    touch(model)
    return model


def state(model: Any) -> dict[str, torch.Tensor]:
    policy = getattr(model.policy, "_orig_mod", model.policy)
    return {name: value.clone() for name, value in policy.state_dict().items()}


@pytest.mark.parametrize("name", TOUCHES)
@pytest.mark.parametrize("cls", [rlopt.SAC, rlopt.OffPolicyMDPO])
def test_touched_networks_learn_as_in_stable_baselines(cls: Any, name: str) -> None:
    """Bit for bit, running statistics and what is counted among them."""
    wanted = state(touched(stable_baselines3.SAC, name).learn(40))
    found = state(touched(cls, name, compile="off", **({} if cls is rlopt.SAC else {"kl_coef": 0.0})).learn(40))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert torch.equal(value, found[key]), key


@pytest.mark.parametrize("name", TOUCHES)
def test_a_step_as_one_function_is_that_step_or_says_why_not(name: str, capsys: Any, monkeypatch: Any) -> None:
    """Of tensors, as compiled steps are: equal up to rounding, or Stable-Baselines3's after one line."""
    monkeypatch.setattr("rlopt.agents.sac.off_policy.choose_mode", lambda *args, **options: "traced")
    monkeypatch.setattr("rlopt.agents.sac.off_policy.GradientStep", uncompiled_step)
    reason = TOUCHES[name][2]
    model = touched(rlopt.SAC, name)
    model.learn(40)
    said = [line for line in capsys.readouterr().out.splitlines() if "not compiled" in line]
    wanted, found = state(touched(stable_baselines3.SAC, name).learn(40)), state(model)
    if reason is None:
        assert not said and model.update is not None
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)
    else:
        assert len(said) == 1 and reason in said[0]
        for key, value in wanted.items():
            assert torch.equal(value, found[key]), key


def uncompiled_step(function: Any, mode: Any, state: Any, owners: Any, precision: str) -> Any:
    from rlopt.optim.compiled_step import GradientStep

    step = GradientStep(function, "eager", state)
    step.mode = mode
    step._prepare = lambda inputs, settings: lambda *values: function(*values, **settings)  # type: ignore[method-assign]
    return step


@pytest.mark.parametrize("touch", [forward_hooks, groups, tied, frozen_actor])
def test_what_is_touched_between_two_calls_of_learn_counts(touch: Any, capsys: Any, monkeypatch: Any) -> None:
    """Steps that were a function of tensors give way to Stable-Baselines3's, and come back when hooks have gone."""
    monkeypatch.setattr("rlopt.agents.sac.off_policy.choose_mode", lambda *args, **options: "traced")
    monkeypatch.setattr("rlopt.agents.sac.off_policy.GradientStep", uncompiled_step)
    peer = touched(stable_baselines3.SAC, "nothing").learn(20)  # before the other is made, which seeds the generators
    touch(peer)
    peer.learn(20, reset_num_timesteps=False)
    model = touched(rlopt.SAC, "nothing").learn(20)
    assert model.update is not None
    before = state(model)
    touch(model)
    model.learn(20, reset_num_timesteps=False)
    assert model.update is None and "not compiled" in capsys.readouterr().out
    assert any(not torch.equal(before[key], value) for key, value in state(model).items())
    assert_same(model, peer, 1e-3)
    if touch is forward_hooks:
        for module in model.policy.modules():
            module._forward_hooks.clear()
        model.learn(20, reset_num_timesteps=False)
        assert model.update is not None


def other_activation(model: Any) -> None:
    model.actor.latent_pi[1] = nn.Tanh()


def other_layer(model: Any) -> None:
    model.actor.mu = nn.Linear(8, 2)
    nn.init.constant_(model.actor.mu.weight, 0.1)


@pytest.mark.parametrize("touch", [other_activation, other_layer])
def test_what_is_exchanged_between_two_calls_of_learn_counts(touch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("rlopt.agents.sac.off_policy.choose_mode", lambda *args, **options: "traced")
    monkeypatch.setattr("rlopt.agents.sac.off_policy.GradientStep", uncompiled_step)
    models = []
    for kind in (stable_baselines3.SAC, rlopt.SAC):
        models.append(touched(kind, "nothing").learn(20))
        torch.manual_seed(0)  # a layer draws its first weights
        touch(models[-1])
        models[-1].learn(20, reset_num_timesteps=False)
    assert_same(*models, 1e-3)


def test_noise_in_a_layer_of_ones_own_is_drawn_anew_in_every_step() -> None:
    extractor = {"features_extractor_class": Extractor, "features_extractor_kwargs": {"inner": Noisy}}
    options = {"policy_kwargs": {**QUICK["policy_kwargs"], **extractor}}
    first, second = (rlopt.SAC("MlpPolicy", vec_env(), seed=3, **{**QUICK, **options}).learn(30) for _ in range(2))
    assert all(map(torch.equal, state(first).values(), state(second).values()))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["frozen layers", "weight norm", "batch norm"])
def test_touched_networks_are_compiled_or_say_why_not(name: str, capsys: Any) -> None:
    model = touched(rlopt.SAC, name, compile="on").learn(40)
    said = "not compiled" in capsys.readouterr().out
    assert said is (TOUCHES[name][2] is not None) and said is (model.update is None)
    wanted, found = state(touched(stable_baselines3.SAC, name).learn(40)), state(model)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["frozen layers", "parameter groups", "weight norm", "batch norm"])
def test_touched_networks_go_on_after_loading(name: str, tmp_path: Path) -> None:
    """A zip, touched in the same way after it was read."""
    ends = []
    for cls in (stable_baselines3.SAC, rlopt.SAC):
        touch, more, _ = TOUCHES[name]
        plain = cls("MlpPolicy", vec_env(), seed=3, **{**QUICK, "policy_kwargs": {"net_arch": [8, 8], **more}})
        plain.learn(30).save(tmp_path / f"{cls.__module__}.zip")
        loaded = cls.load(tmp_path / f"{cls.__module__}.zip", env=vec_env(), device="cpu")
        touch(loaded)
        ends.append(state(loaded.learn(20, reset_num_timesteps=False)))
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_a_policy_that_torch_compile_has_wrapped_is_in_a_checkpoint_as_it_is(tmp_path: Path) -> None:
    model = make()
    plain = {name: value.clone() for name, value in model.policy.state_dict().items()}
    from rlopt.state.networks import capture_networks, check_networks, restore_networks

    model.policy = torch.compile(model.policy, backend="eager")
    captured = capture_networks(model)
    assert captured["modules"]["policy"].keys() == plain.keys()
    other = make(seed=9)
    check_networks(other, captured)
    restore_networks(other, captured)
    assert all(torch.equal(value, plain[name]) for name, value in other.policy.state_dict().items())


class Reads(rlopt.SAC):
    """A loss of a user that depends on ``reads``."""

    reads = ""

    def actor_objective(self, actor: Any, policy: Any, step: Any) -> Any:
        loss, info = super().actor_objective(actor, policy, step)
        if self.reads == "logger":
            self.logger.record("mine/loss", loss.detach())
            return loss, info
        return loss * (1 + getattr(self, self.reads)), info


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("num_timesteps", "reads num_timesteps, which may change from step to step: give it by scalars()"),
        ("_current_progress_remaining", "reads _current_progress_remaining, which may change"),
        ("logger", "it logs: return the value among the statistics instead"),
        ("weight", ""),
    ],
)
def test_a_loss_that_reads_what_changes_is_not_compiled(name: str, said: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(Reads, "reads", name)
    models: list[Any] = []
    for choice in ("off", "on"):
        models.append(Reads("MlpPolicy", vec_env(), seed=0, compile=choice, **QUICK))  # type: ignore[arg-type]
        models[-1].weight = 0.5
        models[-1].learn(25)
    printed = capsys.readouterr().out
    assert said in printed and printed.count("not compiled") == bool(said)
    assert (models[1].update is None) == bool(said)
    assert_same(*models, 0.0 if said else 1e-3)
