"""Optimisers by name: found, tried out, equal to torch's own steps, and kept in checkpoints bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from offline_data import pendulum
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecMonitor
from torch import nn

import rlopt
from rlopt.checkpoint.describe import decode_setting, encode_setting
from rlopt.errors import CheckpointError, ConfigError, UnknownNameError
from rlopt.nn.stacked import StackedParameters
from rlopt.optim.clipped_step import ClippedStep
from rlopt.optim.optimizers import check_optimizer, descend, is_second_order, optimizer_by_name
from rlopt.state.networks import capture_optimizer, check_optimizer_state, restore_optimizer

pytorch_optimizer = pytest.importorskip("pytorch_optimizer", reason="the extra optim is part of the extra test")

ASKED_FOR = ["AdaBelief", "AdamP", "diffGrad", "AdaHessian", "SGD-SaI", "EXAdam"]


def test_names_are_torchs_first_and_then_pytorch_optimizers() -> None:
    assert optimizer_by_name("adam") is torch.optim.Adam and optimizer_by_name("RMSprop") is torch.optim.RMSprop
    assert optimizer_by_name("sgd_sai") is optimizer_by_name("SGD-SaI") is pytorch_optimizer.SGDSaI
    with pytest.raises(UnknownNameError, match="did you mean 'adabelief'"):
        optimizer_by_name("adabelif")
    with pytest.raises(UnknownNameError, match="unknown optimizer"):
        optimizer_by_name("os.system")


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(UnknownNameError, match=r"rlopt\[optim\]"):
        optimizer_by_name("exadam")
    assert optimizer_by_name("nadam") is torch.optim.NAdam


@pytest.mark.parametrize("name", [*ASKED_FOR, "adamw", "adamax", "nadam", "radam", "rprop", "adagrad", "sgd", "lion"])
def test_an_optimizer_passes_its_trial(name: str) -> None:
    check_optimizer(optimizer_by_name(name), {})


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("lbfgs", {}, "closure"),
        ("muon", {}, "2D parameters"),
        ("sparseadam", {}, "dense gradients"),
        ("adam", {"betas": (0.9, 2.0)}, "beta"),
        ("sgd", {"momentun": 0.9}, "momentun"),
        ("scalableshampoo", {}, "cannot be written to a checkpoint"),
        ("stablespam", {}, "resumed"),
    ],
)
def test_what_cannot_train_or_be_resumed_is_refused_in_one_line(
    name: str, options: dict[str, Any], reason: str
) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=reason) as found:
        check_optimizer(optimizer_by_name(name), options)
    assert "\n" not in str(found.value)
    assert torch.equal(torch.get_rng_state(), before)


def test_descend_is_zero_grad_backward_step() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    other = nn.Linear(2, 1)
    first, second = torch.optim.NAdam(ours.parameters(), lr=0.1), torch.optim.NAdam(theirs.parameters(), lr=0.1)
    for _ in range(3):
        rows = torch.randn(5, 3)
        descend(first, other(ours(rows)).square().mean(), only_own=True)
        second.zero_grad()
        other(theirs(rows)).square().mean().backward()
        second.step()
        other.zero_grad()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_a_second_order_step_sees_the_curvature() -> None:
    # With loss = sum a x^2 / 2 the Hessian is diag(a): Hutchinson's estimate z (H z) of a diagonal matrix is a z^2, and
    # with z = +-1 exactly a. AdaHessian's first step is then lr g / |a| = lr x, up to its eps.
    curvature = torch.tensor([1.0, 10.0, 100.0])
    start = torch.tensor([1.0, -2.0, 3.0])
    x = nn.Parameter(start.clone())
    make: Any = optimizer_by_name("adahessian")
    optimizer = make([x], lr=0.1, eps=1e-12, hessian_distribution="rademacher")
    assert is_second_order(optimizer)
    descend(optimizer, (curvature * x.square()).sum() / 2)
    torch.testing.assert_close(x.detach(), 0.9 * start)
    assert x.grad is None, "the graph must not outlive the step"


def test_clipping_scales_a_second_order_gradient_and_its_curvature() -> None:
    x = nn.Parameter(torch.tensor([3.0, 4.0]))
    make: Any = optimizer_by_name("adahessian")
    optimizer = make([x], lr=0.1, eps=1e-12, hessian_distribution="rademacher")
    step = ClippedStep(optimizer, [x], max_norm=1.0)
    norm = step.backward(x.square().sum() / 2)
    assert float(norm) == pytest.approx(5.0)
    torch.testing.assert_close(x.grad, torch.tensor([0.6, 0.8]))
    step.apply()  # gradient and Hessian are both a fifth: the step is that of the loss itself, lr x
    torch.testing.assert_close(x.detach(), torch.tensor([2.7, 3.6]))


@pytest.mark.parametrize("cls", [torch.optim.NAdam, pytorch_optimizer.EXAdam])
def test_a_class_is_written_by_name(cls: type) -> None:
    encoded = encode_setting("policy_kwargs", {"optimizer_class": cls})
    assert encoded["items"]["optimizer_class"] == {"type": "optimizer", "name": cls.__name__}
    assert decode_setting(encoded)["optimizer_class"] is cls
    old = {"type": "class", "name": "torch.optim.AdamW"}
    assert decode_setting(old) is torch.optim.AdamW

    class Own(torch.optim.SGD):
        """One's own."""

    with pytest.raises(ConfigError, match="cannot hold safely"):
        encode_setting("policy_kwargs", {"optimizer_class": Own})


def test_parameters_of_stacked_networks_are_reached_by_gradients() -> None:
    members = [nn.Linear(2, 1) for _ in range(3)]
    columns = list(zip(*(list(member.parameters()) for member in members), strict=True))
    stacked = StackedParameters(columns, (3,), [])
    weight, _ = stacked.from_members()
    assert torch.equal(weight, stacked.tensors[0])
    (weight * torch.arange(1.0, 4.0).view(3, 1, 1)).sum().backward()
    for index, member in enumerate(members):
        assert member.weight.grad is not None and torch.equal(member.weight.grad, torch.full((1, 2), index + 1.0))


def test_sac_with_another_optimizer_is_sb3s_bit_for_bit() -> None:
    settings: dict[str, Any] = {"learning_starts": 20, "buffer_size": 500, "batch_size": 16, "seed": 3, "device": "cpu"}
    theirs = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"optimizer_class": torch.optim.NAdam}, **settings)
    theirs.learn(60)
    named = {"optimizer_class": "nadam"}
    ours = rlopt.OffPolicyMDPO("MlpPolicy", "Pendulum-v1", kl_coef=0.0, policy_kwargs=named, compile="on", **settings)
    ours.learn(60)
    assert type(ours.actor.optimizer) is type(ours.critic.optimizer) is torch.optim.NAdam
    assert all(map(torch.equal, ours.policy.parameters(), theirs.policy.parameters()))


def test_offline_steps_by_another_optimizer_are_those_of_plain_torch() -> None:
    """BC's loss is the mean over the batch of the summed squared error: followed by hand from the same rows."""
    data = pendulum()
    settings: dict[str, Any] = {"batch_size": 8, "seed": 0, "device": "cpu", "normalize_observations": False}
    options = {"optimizer_class": "adagrad", "optimizer_kwargs": {"initial_accumulator_value": 0.1}, "net_arch": [8]}
    model = rlopt.BC("MlpPolicy", data, policy_kwargs=options, learning_rate=0.01, **settings)
    network = __import__("copy").deepcopy(model.policy.actor.network)
    optimizer = torch.optim.Adagrad(network.parameters(), lr=0.01, initial_accumulator_value=0.1)
    state = torch.get_rng_state()
    rows = model._data.sample_rows(5, 8)
    torch.set_rng_state(state)
    model.learn(5)
    for own in rows:
        batch = model._data.gather(own, torch.zeros(()))
        loss = (network(batch.observations).tanh() - batch.actions).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, other in zip(model.policy.actor.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_offline_learners_do_not_compile_another_optimizer_and_keep_theirs_on_a_bad_loss() -> None:
    options = {"optimizer_class": "adabelief"}
    model = rlopt.TD3BC("MlpPolicy", pendulum(), policy_kwargs=options, compile="on", batch_size=8, device="cpu")
    model.learn(2)
    assert model._step.mode == "eager"
    kept = [parameter.clone() for parameter in model.policy.critics.parameters()]
    model.reward_scale = float("inf")
    with pytest.raises(rlopt.errors.NonFiniteError):
        model.learn(2, reset_num_timesteps=False)
    assert all(map(torch.equal, kept, model.policy.critics.parameters()))


def test_value_dice_refuses_second_derivatives() -> None:
    env = VecMonitor(rlopt.make_env("Pendulum-v1"))
    with pytest.raises(ConfigError, match="come from one graph"):
        rlopt.ValueDICE("MlpPolicy", env, policy_kwargs={"optimizer_class": "adahessian"})


def test_scheduled_rates_reach_the_optimizers() -> None:
    from rlopt.settings.schedules import DecayingRate

    model = rlopt.CQL(
        "MlpPolicy",
        pendulum(),
        learning_rate=DecayingRate(1e-3, "linear"),
        critic_learning_rate=DecayingRate(1.0, "linear", floor=0.5),
        batch_size=8,
        device="cpu",
    )
    model._current_progress_remaining = 0.5
    assert model.coefficient("learning_rate") == pytest.approx(5e-4)
    assert model.coefficient("critic_learning_rate") == pytest.approx(0.75)
    assert np.isfinite(model.learn(3).validation_losses().get("x", 0.0))


class Factored(torch.optim.Optimizer):
    """Keeps a matrix for each axis, sums by name, and a count among its settings from the first step on."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["factors"] = [torch.zeros(n, n) for n in parameter.shape]
                    state["sums"] = {"square": torch.zeros(())}
                state["sums"]["square"] += parameter.grad.square().sum()
                for axis, factor in enumerate(state["factors"]):
                    rows = (
                        parameter.grad.movedim(axis, 0).flatten(1) if parameter.dim() > 1 else parameter.grad[:, None]
                    )
                    factor += rows @ rows.T
                parameter -= group["lr"] / group["count"] * parameter.grad / state["sums"]["square"].sqrt()


def test_state_in_lists_and_late_settings_is_kept_and_one_of_another_shape_refused() -> None:
    check_optimizer(Factored, {})
    parameters = [nn.Parameter(torch.randn(4, 3))]
    optimizer = Factored(parameters)
    descend(optimizer, parameters[0].square().sum())
    saved = capture_optimizer(optimizer, copy=True)
    fresh = Factored([nn.Parameter(torch.zeros(4, 3))])
    check_optimizer_state("optimizer", fresh, saved)
    restore_optimizer(fresh, saved)
    descend(optimizer, parameters[0].square().sum())
    assert fresh.param_groups[0]["count"] == 1, "a copy, not the live state"
    state = saved["state"][0][1]
    for key, wrong in (
        ("factors", 3),
        ("factors", []),
        ("factors", [torch.zeros(2, 2), torch.zeros(3, 3)]),
        ("factors", [torch.zeros(4, 4), torch.zeros(3, 3).double()]),
        ("sums", {"cube": torch.zeros(())}),
        ("sums", {"square": 1.0}),
    ):
        broken = {**saved, "state": [[0, {**state, key: wrong}]]}
        with pytest.raises(CheckpointError, match=key):
            check_optimizer_state("optimizer", fresh, broken)
    for group in (
        {"lr": 0.1, "params": 1, "count": "one"},
        {"params": 1, "count": 1},
        {"lr": 0.1, "params": 1, "x": 1},
    ):
        with pytest.raises(CheckpointError):
            check_optimizer_state("optimizer", fresh, {**saved, "groups": [group]})
