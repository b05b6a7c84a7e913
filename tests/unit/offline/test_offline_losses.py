"""The losses of the offline learners: values by hand, brute force, closed forms, gradients by finite differences."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlopt.agents.offline import losses
from rlopt.agents.offline.actors import Actor

DOUBLE = torch.float64


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE).unsqueeze(1)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def test_cloning_is_the_mean_square() -> None:
    loss, info = losses.cloning_loss(rows([0.0, 1.0], [1.0, 1.0]), rows([0.0, 0.0], [0.0, -1.0]))
    assert loss == pytest.approx((0 + 1 + 1 + 4) / 4) and info["bc_loss"] == loss
    loss, _ = losses.likelihood_loss(column(-1.0, -3.0))
    assert loss == pytest.approx(2.0)
    assert losses.squared_distance(rows([1.0, 2.0]), rows([0.0, 0.0])).tolist() == [[5.0]]


def test_target_actions_are_smoothed_within_bounds() -> None:
    # Noise 0.2 * (1, -10, 1) is cut to (0.2, -0.5, 0.2), the action to 1.
    smoothed = losses.smoothed_actions(rows([0.0, 0.0, 0.9]), rows([1.0, -10.0, 1.0]), std=0.2, clip=0.5)
    torch.testing.assert_close(smoothed, rows([0.2, -0.5, 1.0]))
    still = losses.smoothed_actions(rows([0.3]), rows([5.0]), std=0.0, clip=0.5)
    assert still.tolist() == [[0.3]]


def test_critics_are_fitted_to_one_target_each() -> None:
    # Errors: critic 1 (1, 2), critic 2 (3, 0): 2.5 + 4.5.
    loss, info = losses.critic_loss(rows([1.0, 3.0], [2.0, 0.0]), column(0.0, 0.0))
    assert loss == pytest.approx(2.5 + 4.5) and info["q_value"] == pytest.approx(1.5)
    assert losses.smallest(rows([1.0, 3.0], [2.0, 0.0])).tolist() == [[1.0], [0.0]]


def test_td3_bc_scales_q_to_mean_size_one() -> None:
    # mean |Q| = 3, so lambda = 0.5; -0.5 * (2 - 4) / 2 + (1 + 0) / 2.
    loss, _ = losses.td3_bc_loss(column(2.0, -4.0), rows([1.0], [0.5]), rows([0.0], [0.5]), alpha=1.5)
    assert loss == pytest.approx(0.5 + 0.5)
    # The scale passes no gradient: dL/dQ is -lambda / B.
    q_values = column(2.0, -4.0).requires_grad_()
    losses.td3_bc_loss(q_values, rows([0.0], [0.0]), rows([0.0], [0.0]), alpha=1.5)[0].backward()
    torch.testing.assert_close(q_values.grad, column(-0.25, -0.25))
    # With Q zero everywhere the loss is finite, and alpha 0 is cloning.
    zero, _ = losses.td3_bc_loss(column(0.0, 0.0), rows([1.0], [1.0]), rows([0.0], [0.0]), alpha=2.5)
    assert zero == pytest.approx(1.0)
    cloned, _ = losses.td3_bc_loss(column(7.0, 9.0), rows([1.0], [1.0]), rows([0.0], [0.0]), alpha=0.0)
    assert cloned == pytest.approx(1.0)


def test_rebrac_penalises_both_sides() -> None:
    q_values, actions, data = rows([1.0, 3.0], [5.0, 2.0]), rows([1.0, 0.0], [0.0, 0.0]), rows([0.0, 0.0], [0.0, 2.0])
    # min Q = (1, 2), distances (1, 4): (0.1 * 1 - 1 + 0.1 * 4 - 2) / 2.
    loss, info = losses.rebrac_actor_loss(q_values, actions, data, bc_coef=0.1, normalize_q=False)
    assert loss == pytest.approx((0.1 - 1 + 0.4 - 2) / 2) and info["bc_loss"] == pytest.approx(2.5)
    # Scaled: mean |min Q| = 1.5.
    loss, _ = losses.rebrac_actor_loss(q_values, actions, data, bc_coef=0.1, normalize_q=True)
    assert loss == pytest.approx((0.1 - 1 / 1.5 + 0.4 - 2 / 1.5) / 2)
    values = losses.rebrac_next_values(q_values, actions, data, column(1.0, 0.0), bc_coef=0.5)
    torch.testing.assert_close(values, column(1.0 - 0.5 * 1.0, 2.0))


def test_advantages_become_weights() -> None:
    weights = losses.advantage_weights(column(-1.0, 0.0, 1.0, 50.0), inverse_temperature=2.0, largest=100.0)
    torch.testing.assert_close(weights, column(math.exp(-2), 1.0, math.exp(2), 100.0))
    even = losses.advantage_weights(column(-5.0, 5.0), inverse_temperature=0.0, largest=100.0)
    assert even.flatten().tolist() == [1.0, 1.0]
    advantages = column(0.3, -0.2).requires_grad_()
    assert not losses.advantage_weights(advantages, inverse_temperature=1.0, largest=9.0).requires_grad
    loss, _ = losses.weighted_cloning_loss(column(2.0, 0.0), column(3.0, 100.0))
    assert loss == pytest.approx(3.0)


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_the_expectile_minimises_its_loss(expectile: float) -> None:
    values = torch.randn(400, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(-2, 2, 4001, dtype=DOUBLE)
    every = torch.stack([losses.expectile_loss(values - v, expectile=expectile)[0] for v in grid])
    best = grid[every.argmin()]
    # The expectile e solves tau E[(x - e)+] = (1 - tau) E[(e - x)+].
    above, below = (values - best).clamp(min=0).mean(), (best - values).clamp(min=0).mean()
    assert expectile * above == pytest.approx(float((1 - expectile) * below), abs=2e-3)
    if expectile == 0.5:
        assert best == pytest.approx(float(values.mean()), abs=1e-3)
    loss, _ = losses.expectile_loss(column(2.0, -1.0), expectile=0.9)
    assert loss == pytest.approx((0.9 * 4 + 0.1 * 1) / 2)


def test_the_soft_maximum_estimates_an_integral() -> None:
    # Q(a) = c a on [-1, 1]: the integral of exp(Q / T) is 2 T sinh(c / T) / c.
    slope, temperature = 1.7, 0.8
    actions = torch.rand(1, 200_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    uniform = torch.full_like(actions, math.log(0.5))
    q_values = (slope * actions).unsqueeze(0)
    estimate = losses.soft_maximum(q_values, uniform, temperature=temperature)
    exact = temperature * math.log(2 * temperature * math.sinh(slope / temperature) / slope)
    assert float(estimate) == pytest.approx(exact, abs=5e-3)
    # Drawn from another density, with density e^a / (e - 1/e), the estimate is of the same integral.
    uniform01 = torch.rand(1, 200_000, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    tilted = (uniform01 * (math.e - 1 / math.e) + 1 / math.e).log()
    densities = tilted - math.log(math.e - 1 / math.e)
    other = losses.soft_maximum((slope * tilted).unsqueeze(0), densities, temperature=temperature)
    assert float(other) == pytest.approx(exact, abs=5e-3)


def test_the_conservative_gap_and_its_multiplier() -> None:
    maxima = torch.tensor([[[3.0], [1.0]], [[0.0], [2.0]]], dtype=DOUBLE)  # (n, B, 1)
    gaps, info = losses.conservative_gap(maxima, rows([1.0, 1.0], [1.0, 0.0]))
    assert gaps.tolist() == [1.0, 0.5] and info["conservative_gap"] == pytest.approx(0.75)
    log_multiplier = torch.tensor([math.log(2.0)], dtype=DOUBLE, requires_grad=True)
    loss, info = losses.lagrange_loss(log_multiplier, gaps, target_gap=0.25)
    assert loss.item() == pytest.approx(-2 * 0.5) and info["lagrange_multiplier"] == pytest.approx(2.0)
    loss.backward()
    assert log_multiplier.grad is not None and log_multiplier.grad.item() == pytest.approx(loss.item())


def gradient_cases() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator).requires_grad_()

    data = normal(5, 2).detach()
    ones = torch.ones(5, 1, dtype=DOUBLE)
    return {
        "critic": (lambda q: losses.critic_loss(q, data[:, :1])[0], (normal(5, 3),)),
        "cloning": (lambda a: losses.cloning_loss(a, data)[0], (normal(5, 2),)),
        "rebrac actor": (
            lambda q, a: losses.rebrac_actor_loss(q, a, data, bc_coef=0.3, normalize_q=False)[0],
            (normal(5, 2), normal(5, 2)),
        ),
        "rebrac values": (
            lambda q, a: losses.rebrac_next_values(q, a, data, ones, bc_coef=0.3).sum(),
            (normal(5, 2), normal(5, 2)),
        ),
        "expectile": (lambda u: losses.expectile_loss(u, expectile=0.8)[0], (normal(5, 1),)),
        "weighted": (lambda e: losses.weighted_cloning_loss(ones * 2, e)[0], (normal(5, 1),)),
        "conservative": (
            lambda q, d: losses.conservative_gap(losses.soft_maximum(q, data.expand(5, 2), temperature=0.7), d)[
                0
            ].sum(),
            (normal(3, 5, 2), normal(5, 3)),
        ),
    }


@pytest.mark.parametrize("name", gradient_cases())
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    function, inputs = gradient_cases()[name]
    assert torch.autograd.gradcheck(function, inputs)


def misshapen() -> dict[str, Callable[[], Any]]:
    flat, square, wide = torch.zeros(4), torch.zeros(4, 1), torch.zeros(4, 2)
    return {
        "flat targets": lambda: losses.critic_loss(wide, flat),
        "flat q": lambda: losses.td3_bc_loss(flat, wide, wide, alpha=1.0),
        "other actions": lambda: losses.cloning_loss(wide, square),
        "flat actions": lambda: losses.cloning_loss(flat, flat),
        "flat noise": lambda: losses.smoothed_actions(square, flat, std=1.0, clip=1.0),
        "two columns": lambda: losses.likelihood_loss(wide),
        "flat known": lambda: losses.rebrac_next_values(wide, wide, wide, flat, bc_coef=1.0),
        "flat weights": lambda: losses.weighted_cloning_loss(flat, square),
        "wide advantages": lambda: losses.advantage_weights(wide, inverse_temperature=1.0, largest=1.0),
        "flat differences": lambda: losses.expectile_loss(flat, expectile=0.5),
        "densities": lambda: losses.soft_maximum(torch.zeros(2, 4, 3), torch.zeros(3, 4)),
        "maxima": lambda: losses.conservative_gap(torch.zeros(2, 4, 3), torch.zeros(4, 2)),
    }


@pytest.mark.parametrize("name", misshapen())
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        misshapen()[name]()


@pytest.mark.parametrize("kind", ["gaussian", "squashed", "categorical"])
def test_the_densities_of_actors_integrate_to_one(kind: Any) -> None:
    torch.manual_seed(0)
    width = {"gaussian": 1, "squashed": 2, "categorical": 3}[kind]
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, width))
    actor = Actor(kind, network, 1)
    parameters, observation = actor.ordered_parameters(), torch.randn(1, 2)
    with torch.no_grad():
        if kind == "categorical":
            every = torch.arange(3)
            chances = actor.function.log_prob(parameters, observation.expand(3, 2), every).exp()
            assert float(chances.sum()) == pytest.approx(1.0, abs=1e-6)
            torch.testing.assert_close(chances.T, actor.function.probabilities(parameters, observation))
            assert actor(observation).item() == chances.argmax()
            return
        grid = torch.linspace(-8, 8, 20_001).unsqueeze(1)
        if kind == "gaussian":
            densities = actor.function.log_prob(parameters, observation.expand(len(grid), 2), grid).exp()
            assert float(torch.trapezoid(densities, grid, dim=0)) == pytest.approx(1.0, abs=1e-4)
            return
        # Squashed: the density of tanh(u) at a grid of u, integrated over a = tanh(u).
        mean, log_std = actor.function.outputs(parameters, observation)
        sample = actor.function.sample(parameters, observation.expand(len(grid), 2), (grid - mean) / log_std.exp())
        total = torch.trapezoid(sample.log_prob.exp(), sample.actions, dim=0)
        assert float(total) == pytest.approx(1.0, abs=2e-3)


def test_samples_of_a_gaussian_actor_have_its_moments() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 1))
    actor = Actor("gaussian", network, 1)
    assert actor.log_std is not None
    with torch.no_grad():
        actor.log_std.fill_(math.log(0.2))
        network[0].weight.zero_()
        network[0].bias.fill_(0.1)
        drawn = actor(torch.zeros(20_000, 2), deterministic=False)
    assert float(drawn.mean()) == pytest.approx(math.tanh(0.1), abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.2, abs=0.01)
    assert float(drawn.abs().max()) <= 1.0
