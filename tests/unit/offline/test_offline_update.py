"""The gradient steps of the offline learners against loops of plain torch, and their compiled form."""

from typing import Any

import numpy as np
import pytest
import torch
from offline_data import corridor, pendulum
from offline_reference import REFERENCES
from reach import needs_compiler

import rlopt
from rlopt.agents.offline.base import OfflineAlgorithm
from rlopt.errors import NonFiniteError

NETS = {"net_arch": [16, 12]}
STEPS = 12
CASES: list[tuple[str, dict[str, Any]]] = [
    ("BC", {}),
    ("BC", {"stochastic": True}),
    ("TD3BC", {}),
    ("TD3BC", {"alpha": 0.0, "policy_delay": 3, "target_policy_noise": 2.0, "gamma": 0.5, "reward_shift": -1.0}),
    ("TD3BC", {"critic_learning_rate": 1e-2, "learning_rate": 1e-3, "reward_scale": 0.1}),
    ("ReBRAC", {"critic_bc_coef": 0.5}),
    ("ReBRAC", {"normalize_q": False, "policy_kwargs": {"net_arch": [8], "critic_layer_norm": False}}),
    ("IQL", {"cosine_decay": False}),
    ("IQL", {"cosine_decay": False, "deterministic_actor": True, "expectile": 0.9, "largest_weight": 1.1}),
    ("AWAC", {"awac_lambda": 0.3}),
    ("CQL", {"n_actions": 3, "learning_rate": 1e-3}),
    ("CQL", {"n_actions": 2, "lagrange_gap": 1.5, "entropy_in_target": True, "cql_temperature": 2.0}),
]
DISCRETE: list[tuple[str, dict[str, Any]]] = [("BC", {}), ("IQL", {"cosine_decay": False}), ("AWAC", {})]


def make(name: str, data: Any = None, **options: Any) -> OfflineAlgorithm:
    settings = {"seed": 3, "batch_size": 32, "device": "cpu", "compile": "off", "policy_kwargs": NETS, **options}
    model: OfflineAlgorithm = getattr(rlopt, name)("MlpPolicy", pendulum() if data is None else data, **settings)
    return model


def train(model: OfflineAlgorithm, steps: int = STEPS) -> dict[str, float]:
    torch.manual_seed(1)
    model.learn(steps, log_interval=None)
    return {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}


def reference_steps(model: OfflineAlgorithm) -> Any:
    """Takes the same steps from the same random numbers; ``model`` is left as it is."""
    reference: Any = REFERENCES[type(model).__name__](model)
    torch.manual_seed(1)
    assert model._data is not None
    rows = model._data.sample_rows(STEPS, model.batch_size)
    noise = model.draw_noise(STEPS, model.batch_size)
    for step in range(STEPS):
        batch = model._data.gather(rows[step], torch.zeros(()))
        batch = batch._replace(rewards=batch.rewards * model.reward_scale + model.reward_shift)
        reference.step(batch, [part[step] for part in noise], step + 1)
    return reference


@pytest.mark.parametrize(
    ("name", "options", "discrete"),
    [(name, options, False) for name, options in CASES] + [(name, options, True) for name, options in DISCRETE],
)
def test_a_step_is_that_of_plain_torch(name: str, options: dict[str, Any], discrete: bool) -> None:
    data = corridor() if discrete else pendulum()
    model = make(name, data, **options)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    wanted = reference_steps(model)
    train(model)
    policy = model.policy
    pairs = list(zip(policy.actor.ordered_parameters(), wanted.actor_parameters, strict=True))
    for ours, theirs in zip(
        [*policy.critics, *policy.critics_target], [*wanted.critics, *wanted.slow_critics], strict=True
    ):
        pairs += list(zip(ours.parameters(), theirs.parameters(), strict=True))
    if policy.value is not None:
        pairs += list(zip(policy.value.parameters(), wanted.value.parameters(), strict=True))
    if policy.actor_target is not None:
        pairs += list(zip(policy.actor_target.network.parameters(), wanted.slow_actor.parameters(), strict=True))
    if name == "CQL":
        pairs.append((policy.scalars["ent_coef"], wanted.log_ent_coef))
        pairs += [(policy.scalars["multiplier"], wanted.log_multiplier)] if model.lagrange_gap is not None else []
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)
    moved = [key for key, value in policy.state_dict().items() if not torch.equal(value, before[key])]
    statistics = {"observation_mean", "observation_std"}
    assert set(moved) == set(before) - statistics


@pytest.mark.kernels
@needs_compiler
def test_the_compiled_step_is_the_step() -> None:
    assert_compiled_is_eager("TD3BC", {})


@pytest.mark.slow
@needs_compiler
def test_the_compiled_step_with_learned_scalars_is_the_step() -> None:
    assert_compiled_is_eager("CQL", {"n_actions": 2, "lagrange_gap": 1.0})


@needs_compiler
@pytest.mark.parametrize("name", ["BC", "AWAC", "IQL", "ReBRAC"])
def test_every_step_can_be_compiled(name: str) -> None:
    assert_compiled_is_eager(name, {})


def assert_compiled_is_eager(name: str, options: dict[str, Any]) -> None:
    eager, compiled = make(name, **options), make(name, compile="on", **options)
    logged = train(eager)
    assert train(compiled) == pytest.approx(logged, rel=1e-3, abs=1e-4)
    # A coefficient that changes takes effect without compiling anew.
    assert compiled._step is not None
    prepared = len(compiled._step._step._ready)
    for model in (eager, compiled):
        model.learning_rate = 1e-2
        model._setup_lr_schedule()
        model.reward_scale = 3.0
        train(model)
    assert len(compiled._step._step._ready) == prepared
    wanted = eager.policy.state_dict()
    for key, tensor in compiled.policy.state_dict().items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_networks() -> None:
    model = make("TD3BC")
    train(model)
    assert model._data is not None
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model._data.rewards[:] = np.inf
    with pytest.raises(NonFiniteError, match="critic loss is NaN or infinite"):
        train(model)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_actor_rests_between_its_delayed_steps() -> None:
    model = make("TD3BC", policy_delay=5)
    actor = model.policy.actor.ordered_parameters()[0]
    before = actor.clone()
    train(model, 4)
    assert torch.equal(actor, before)
    train(model, 1)
    assert not torch.equal(actor, before)


def test_cosine_decay_ends_at_zero() -> None:
    model = make("IQL", cosine_decay=True, learning_rate=1e-3)
    model._current_progress_remaining = 1.0
    assert model.coefficient("learning_rate") == pytest.approx(1e-3)
    model._current_progress_remaining = 0.5
    assert model.coefficient("learning_rate") == pytest.approx(5e-4)
    model._current_progress_remaining = 0.0
    assert model.coefficient("learning_rate") == pytest.approx(0.0, abs=1e-12)
    assert model.coefficient("critic_learning_rate") == pytest.approx(1e-3)
