"""Off-policy models of several seeds, trained together, against each trained alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from reach import as_function, assert_same, make, needs_compiler

from rlopt.agents.mdpo.off_policy import OffPolicyMDPO
from rlopt.agents.sac.off_policy import Update
from rlopt.optim.lockstep import Lockstep


def trained(seed: int, steps: int, stacked: bool = False, **options: Any) -> Callable[[], OffPolicyMDPO]:
    """``stacked`` takes the steps of all in one call without compiling it, as on a GPU."""

    def job() -> OffPolicyMDPO:
        model = make(seed=seed, **{"learning_starts": 20, "old_policy_period": 7, "batch_size": 16, **options})
        return (as_function(model) if stacked else model).learn(steps)

    return job


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.0, "ent_coef": 0.2, "gradient_steps": 2, "train_freq": 2},
        {"tsallis_q": 1.5, "n_envs": 2},
        {"analytic_kl": True, "critic_log_prob_bound": 2.0, "n_steps": 3},
        {"use_sde": True},
        {"value_network": True},
        {"actor_q": "first", "mean_penalty": 0.1, "policy_kwargs": {"net_arch": [], "n_critics": 3}},
    ],
)
def test_stacked_seeds_are_the_seeds_trained_alone(options: dict[str, Any]) -> None:
    together = Lockstep([trained(seed, 70, True, compile="off", **options) for seed in (1, 2, 3)]).run()
    for seed, model in zip((1, 2, 3), together, strict=True):
        alone = trained(seed, 70, compile="off", **options)()
        assert model.num_timesteps == alone.num_timesteps and model._n_updates == alone._n_updates > 0
        assert_same(model, alone, 1e-3)
        rows = slice(0, 70)
        torch.testing.assert_close(model.replay_buffer.actions[rows], alone.replay_buffer.actions[rows])
    assert together[0].update is together[2].update is not None
    first, second = (torch.nn.utils.parameters_to_vector(model.actor.parameters()) for model in together[:2])
    assert not torch.allclose(first, second)


def test_stacked_seeds_that_have_counted_other_steps_are_the_seeds_trained_alone() -> None:
    """So that the actor of one is due when that of another is not."""
    starts, options = {1: 20, 2: 21, 3: 24}, {"compile": "off", "policy_delay": 3, "kl_coef": 0.3}
    jobs = [trained(seed, 70, True, learning_starts=first, **options) for seed, first in starts.items()]
    for (seed, first), model in zip(starts.items(), Lockstep(jobs).run(), strict=True):
        alone = trained(seed, 70, learning_starts=first, **options)()
        assert model._n_updates == alone._n_updates == 70 - first
        assert_same(model, alone, 1e-3)


@pytest.mark.kernels
@needs_compiler
def test_compiled_seeds_are_the_seeds_trained_alone_bit_for_bit() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = Lockstep([trained(seed, 60, compile="on") for seed in (1, 2, 3)]).run()
        torch.set_num_threads(1)
        for seed, model in zip((1, 2, 3), together, strict=True):
            assert isinstance(model.update, Update) and model.update.step.mode == "compiled"
            assert model.update.models == [model]
            assert_same(model, trained(seed, 60, compile="on")(), 0.0)
            assert_same(model, trained(seed, 60, compile="off")(), 1e-3)
    finally:
        torch.set_num_threads(threads)


def test_what_cannot_be_compiled_trains_in_turn() -> None:
    options: dict[str, Any] = {"compile": "on", "policy_kwargs": {"net_arch": [8], "optimizer_class": "sgd"}}
    models = Lockstep([trained(seed, 60, **options) for seed in (1, 2)]).run()
    for seed, model in zip((1, 2), models, strict=True):
        assert model.update is None
        assert_same(model, trained(seed, 60, **options)(), 0.0)


def test_seeds_of_unequal_length_leave_the_longer_one_whole() -> None:
    short, long = Lockstep([trained(1, 40, True, compile="off"), trained(2, 80, True, compile="off")]).run()
    assert_same(short, trained(1, 40, compile="off")(), 1e-3)
    assert_same(long, trained(2, 80, compile="off")(), 1e-3)
    assert long.update.models == [long]


def test_short_runs_on_the_cpu_are_those_alone_bit_for_bit() -> None:
    for seed, model in zip((1, 2), Lockstep([trained(s, 60) for s in (1, 2)]).run(), strict=True):
        assert model.update is None
        assert_same(model, trained(seed, 60)(), 0.0)
