"""On-policy gradient steps as one function against the same steps part by part; compiled; several seeds together."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import assert_same, needs_compiler, vec_env

from rlopt.agents.mdpo.on_policy_update import obstacle
from rlopt.agents.mdpo.losses import policy_loss
from rlopt.agents.mdpo.on_policy import MDPO
from rlopt.errors import ConfigError, NonFiniteError
from rlopt.turns import Turns


def model(seed: int = 0, cls: type[MDPO] = MDPO, **options: Any) -> MDPO:
    settings: dict[str, Any] = {"n_steps": 32, "n_epochs": 3, "value_batch_size": 16, "device": "cpu", "compile": "off"}
    return cls("MlpPolicy", vec_env(2), seed=seed, **{**settings, **options})


def fused(algorithm: MDPO) -> MDPO:
    """Makes ``algorithm`` take each step as one function without compiling it."""
    algorithm._update_mode = lambda: "eager"  # type: ignore[method-assign]
    return algorithm


def logged(algorithm: MDPO) -> dict[str, float]:
    return {key: value for key, value in algorithm.logger.name_to_value.items() if key.startswith("train/")}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 24, "tsallis_q": 1.5, "ent_coef": 0.1},
    {"value_batch_size": None, "clip_range_vf": 0.1, "max_grad_norm": 0.01, "normalize_advantage": False},
    {"policy_kwargs": {"net_arch": {"pi": [], "vf": [8, 4, 8]}, "activation_fn": "relu", "log_std_init": -1.0}},
    {"max_grad_norm": math.inf, "step_size_schedule": "constant", "learning_rate": 1e-2, "value_learning_rate": 1e-3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_fused_steps_are_the_steps(options: dict[str, Any]) -> None:
    plain = model(**options).learn(64, log_interval=None)  # type: ignore[arg-type]
    one_call = fused(model(**options)).learn(64, log_interval=None)  # type: ignore[arg-type]
    assert logged(one_call) == pytest.approx(logged(plain), rel=1e-4, abs=1e-5)
    plain, one_call = model(**options).learn(320), fused(model(**options)).learn(320)
    assert_same(plain, one_call, 2e-3)
    # The optimisers' states are the same too, so either way can go on where the other stopped.
    for name in ("policy.optimizer", "value_optimizer"):
        ours, theirs = (part.get_parameters()[name]["state"] for part in (one_call, plain))
        for index, wanted in theirs.items():
            assert float(ours[index]["step"]) == float(wanted["step"])
            torch.testing.assert_close(ours[index]["exp_avg"], wanted["exp_avg"], rtol=1e-2, atol=1e-3)


@needs_compiler
def test_the_compiled_steps_are_the_steps() -> None:
    plain, compiled = model().learn(192), model(compile="on").learn(192)
    assert {step.mode for step in compiled.prepared.values()} == {"compiled"}
    assert_same(plain, compiled, 1e-3)


def trained(seed: int, steps: int, stacked: bool = False, **options: Any) -> Callable[[], MDPO]:
    """``stacked`` takes the steps of all in one call without compiling it, as on a GPU."""
    return lambda: (fused if stacked else lambda own: own)(model(seed, **options)).learn(steps)


@pytest.mark.parametrize("options", OPTIONS)
def test_stacked_seeds_are_the_seeds_trained_alone(options: dict[str, Any]) -> None:
    together = Turns([trained(seed, 256, True, **options) for seed in (1, 2, 3)]).run()
    for seed, algorithm in zip((1, 2, 3), together, strict=True):
        alone = trained(seed, 256, **options)()
        assert algorithm._n_updates == alone._n_updates > 0
        assert_same(algorithm, alone, 2e-3)
        np.testing.assert_allclose(algorithm.rollout_buffer.actions, alone.rollout_buffer.actions, rtol=1e-3, atol=1e-3)
    assert together[0].prepared["policy"] is together[2].prepared["policy"]


@needs_compiler
def test_compiled_seeds_are_the_seeds_trained_alone_bit_for_bit() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        jobs = [functools.partial(with_one_thread, trained(seed, 192, compile="on")) for seed in (1, 2, 3)]
        together = Turns(jobs).run()
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
    for seed, algorithm in zip((1, 2), Turns([trained(s, 128) for s in (1, 2)]).run(), strict=True):
        assert not algorithm.prepared
        assert_same(algorithm, trained(seed, 128)(), 0.0)


def doubled(*args: Any, **kwargs: Any) -> Any:
    """A user's loss: the policy loss with twice the gradient."""
    loss, info = policy_loss(*args, **kwargs)
    return 2 * loss, info


class OwnLoss(MDPO):
    policy_loss = staticmethod(doubled)


def test_a_loss_of_ones_own_counts_in_the_fused_step() -> None:
    options: dict[str, Any] = {"policy_kwargs": {"optimizer_kwargs": {"eps": 1.0}}, "max_grad_norm": math.inf}
    own, plain = model(0, OwnLoss, **options).learn(64), model(**options).learn(64)
    fused_own = fused(model(0, OwnLoss, compile="on", **options)).learn(64)
    assert_same(own, fused_own, 1e-5)
    assert not torch.allclose(own.policy.action_net.weight, plain.policy.action_net.weight, atol=1e-6)


def branching(log_prob: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return policy_loss(log_prob, *args, **kwargs) if log_prob.mean().item() < 1e9 else None


class BranchingLoss(MDPO):
    policy_loss = staticmethod(branching)


@needs_compiler
def test_a_loss_that_cannot_be_compiled_is_one_line_with_the_cure() -> None:
    model(cls=BranchingLoss, compile="auto").learn(64)
    with pytest.raises(ConfigError, match=r"cannot be compiled .*: use --compile off") as caught:
        model(cls=BranchingLoss, compile="on").learn(64)
    assert "\n" not in str(caught.value)


def test_an_entropy_weight_that_changes_takes_effect() -> None:
    def annealed(algorithm: MDPO) -> MDPO:
        algorithm.learn(64)
        algorithm.ent_coef = 0.5
        return algorithm.learn(64, reset_num_timesteps=False)

    changed, constant = annealed(fused(model())), fused(model()).learn(128)
    assert_same(changed, annealed(model()), 1e-4)
    assert not torch.allclose(changed.policy.log_std, constant.policy.log_std, atol=1e-4)


@pytest.mark.parametrize(("column", "name"), [("advantages", "policy"), ("returns", "value")])
def test_a_broken_rollout_stops_before_it_reaches_the_networks(column: str, name: str) -> None:
    algorithm = fused(model(normalize_advantage=False))
    algorithm.learn(64)
    before = {key: value.clone() for key, value in algorithm.policy.state_dict().items()}
    getattr(algorithm.rollout_buffer, column)[:] = np.nan
    with pytest.raises(NonFiniteError, match=f"{name} loss is NaN"):
        algorithm.train()
    same = ("value_net", "value") if name == "value" else ("policy_net", "action_net", "log_std")
    for key, value in algorithm.policy.state_dict().items():
        if any(part in key for part in same):
            assert torch.equal(value, before[key]), key


class OwnStep(MDPO):
    def _step(self, *args: Any, **kwargs: Any) -> None:
        super()._step(*args, **kwargs)


def test_what_cannot_be_fused_says_why() -> None:
    assert obstacle(model()) is None
    assert "_step" in str(obstacle(model(cls=OwnStep)))
    assert "loss" in str(obstacle(model(cls=OwnLoss))) and obstacle(model(cls=OwnLoss, compile="on")) is None
    assert "Gaussian" in str(obstacle(model(use_sde=True)))
    assert "Gaussian" in str(obstacle(MDPO("MlpPolicy", "CartPole-v1", n_steps=16)))
    assert "Adam" in str(obstacle(model(policy_kwargs={"optimizer_class": "sgd"})))
    layers = {"activation_fn": torch.nn.Softmax}
    assert "linear layers" in str(obstacle(model(policy_kwargs=layers)))

    class Goal(gymnasium.Env):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})
        action_space = spaces.Box(-1, 1, (1,))

    assert "flat" in str(obstacle(MDPO("MultiInputPolicy", Goal(), n_steps=16)))
