"""The discriminator, what it sees, and its gradient step against torch's own autograd and Adam."""

import copy
import itertools
from typing import Any

import pytest
import torch
from reach import needs_compiler
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from rlopt.agents.imitation.discriminator import Discriminator, discriminator_inputs, input_size
from rlopt.agents.imitation.discriminator_update import DiscriminatorUpdate
from rlopt.optim.compiled_step import GradientStep

MODES = ["eager", pytest.param("compiled", marks=needs_compiler)]
pytestmark = pytest.mark.kernels
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: CUDA graphs cannot be tried")
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def batch(seed: int, expert_rows: int = 16, policy_rows: int = 16, device: str = "cpu") -> Batch:
    """Expert rows, their weights, policy rows, theirs, and where between them the penalty is taken."""
    generator = torch.Generator().manual_seed(seed)
    expert = torch.randn(expert_rows, 5, generator=generator) + 0.5
    policy = torch.randn(policy_rows, 5, generator=generator)
    weights = [torch.rand(rows, 1, generator=generator) + 0.1 for rows in (expert_rows, policy_rows)]
    parts = (expert, weights[0], policy, weights[1], torch.rand(policy_rows, 1, generator=generator))
    return tuple(part.to(device) for part in parts)  # type: ignore[return-value]


def pair(output: Any = "tanh", lr: float = 1e-2, device: str = "cpu") -> tuple[Discriminator, torch.optim.Adam]:
    torch.manual_seed(0)
    discriminator = Discriminator(5, (16, 8), output=output).to(device)
    return discriminator, torch.optim.Adam(discriminator.parameters(), lr)


def plain_step(
    discriminator: Discriminator, optimizer: torch.optim.Optimizer, rows: Batch, divergence: str, penalty_coef: float
) -> tuple[float, float]:
    """The definition, in torch's plain terms; returns the loss and the penalty before the step."""
    expert, expert_weights, policy, policy_weights, mix = rows
    on_expert, on_policy = discriminator(expert), discriminator(policy)
    if divergence == "reverse_kl":
        on_expert, on_policy = (-on_expert).exp(), on_policy
    elif divergence == "js":
        on_expert = F.binary_cross_entropy_with_logits(on_expert, torch.ones_like(on_expert), reduction="none")
        on_policy = F.binary_cross_entropy_with_logits(on_policy, torch.zeros_like(on_policy), reduction="none")
    else:
        on_expert = -on_expert
    loss = (on_expert * expert_weights / expert_weights.sum()).sum()
    loss = loss + (on_policy * policy_weights / policy_weights.sum()).sum()
    between = (mix * expert + (1 - mix) * policy).requires_grad_()
    (slopes,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    pair_weights = (expert_weights + policy_weights).flatten()
    penalty = ((slopes.norm(dim=1) - 1) ** 2 * pair_weights).sum() / pair_weights.sum()
    optimizer.zero_grad()
    (loss + penalty_coef * penalty).backward()
    optimizer.step()
    return loss.item(), penalty.item()


def assert_alike(first: Discriminator, second: Discriminator, tolerance: float) -> None:
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


CASES = [
    ("eager", "reverse_kl", "tanh", 10.0),
    ("eager", "reverse_kl", "none", 0.5),
    ("eager", "js", "none", 10.0),
    ("eager", "js", "clip", 0.0),
    ("eager", "wasserstein", "none", 10.0),
    pytest.param("compiled", "reverse_kl", "tanh", 10.0, marks=needs_compiler),
    pytest.param("compiled", "js", "clip", 10.0, marks=needs_compiler),
]


@pytest.mark.parametrize(("mode", "divergence", "output", "penalty_coef"), CASES)
def test_the_step_is_torchs_own(mode: Any, divergence: Any, output: str, penalty_coef: float) -> None:
    (ours, our_adam), (theirs, their_adam) = pair(output), pair(output)
    update = DiscriminatorUpdate(ours, our_adam, mode, divergence=divergence, gradient_penalty=penalty_coef)
    for step in range(30):
        if step == 20:
            for optimizer in (our_adam, their_adam):
                optimizer.param_groups[0]["lr"] = 1e-3
        rows = batch(step)
        info = update(*rows)
        loss, penalty = plain_step(theirs, their_adam, rows, divergence, penalty_coef)
        assert info["discriminator_loss"].item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
        assert ("gradient_penalty" in info) == (penalty_coef > 0)
        if penalty_coef:
            assert info["gradient_penalty"].item() == pytest.approx(penalty, rel=1e-4, abs=1e-5)
        assert info["discriminator_finite"].item() == 1
    if divergence == "wasserstein":
        # It does not depend on the last bias: Adam makes steps of the rounding of a gradient that is 0.
        for discriminator in (ours, theirs):
            torch.nn.init.zeros_(discriminator.network[-1].bias)  # type: ignore[arg-type]
    assert_alike(ours, theirs, 1e-4)
    for ours_state, theirs_state in zip(our_adam.state.values(), their_adam.state.values(), strict=True):
        assert ours_state["step"] == theirs_state["step"] == 30
        torch.testing.assert_close(ours_state["exp_avg"], theirs_state["exp_avg"], rtol=1e-3, atol=1e-5)


@needs_cuda
def test_a_captured_step_is_torchs_own() -> None:
    (ours, our_adam), (theirs, their_adam) = pair(device="cuda"), pair(device="cuda")
    update = DiscriminatorUpdate(ours, our_adam, "cuda_graph")
    for step in range(30):
        update(*batch(step, device="cuda"))
        plain_step(theirs, their_adam, batch(step, device="cuda"), "reverse_kl", 10.0)
    assert_alike(ours, theirs, 1e-3)


def test_rows_without_weight_change_nothing() -> None:
    """The penalty does not look at them either."""
    (ours, our_adam), (theirs, their_adam) = pair(lr=1e-3), pair(lr=1e-3)
    expert, expert_weights, policy, policy_weights, mix = batch(0)
    DiscriminatorUpdate(ours, our_adam)(expert, expert_weights, policy, policy_weights, mix)
    rows, weightless = torch.eye(5)[4:].expand(16, -1), torch.zeros(16, 1)
    more = [torch.cat(parts) for parts in ((expert, rows), (expert_weights, weightless), (policy, rows))]
    DiscriminatorUpdate(theirs, their_adam)(*more, torch.cat([policy_weights, weightless]), torch.cat([mix, mix]))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our_adam.state[one]["exp_avg"], their_adam.state[other]["exp_avg"])


def test_batches_of_other_sizes_have_no_penalty_between_them() -> None:
    update = DiscriminatorUpdate(*pair(), gradient_penalty=0.0)
    assert update(*batch(0, 4, 16))["discriminator_finite"] == 1
    with pytest.raises(ValueError, match="one shape"):
        DiscriminatorUpdate(*pair())(*batch(0, 4, 16))


@pytest.mark.parametrize(
    ("mode", "divergence"),
    [
        ("eager", "reverse_kl"),
        ("eager", "js"),
        ("eager", "wasserstein"),
        pytest.param("compiled", "reverse_kl", marks=needs_compiler),
    ],
)
def test_three_steps_on_a_batch_lower_its_loss(mode: Any, divergence: Any) -> None:
    update = DiscriminatorUpdate(*pair(lr=1e-3), mode, divergence=divergence)
    values = []
    for _ in range(4):
        info = update(*batch(0))
        values.append(info["discriminator_loss"].item() + 10 * info["gradient_penalty"].item())
    assert all(after < before for before, after in itertools.pairwise(values))


def test_enough_steps_reach_the_log_ratio() -> None:
    """One-hot rows and unequal weights: D* = ln(w_e / w) of each row, KL = sum w ln(w / w_e)."""
    torch.manual_seed(0)
    discriminator = Discriminator(4, (32,), output="none")
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    update = DiscriminatorUpdate(discriminator, optimizer, gradient_penalty=0.0)
    expert, policy = (torch.tensor(weights)[:, None] for weights in ([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2]))
    for _ in range(1500):
        info = update(torch.eye(4), 7 * expert, torch.eye(4), policy, torch.zeros(4, 1))
    torch.testing.assert_close(discriminator(torch.eye(4)).detach(), (expert / policy).log(), rtol=0, atol=1e-3)
    assert info["estimated_reverse_kl"].item() == pytest.approx(
        (policy * (policy / expert).log()).sum().item(), abs=1e-4
    )
    assert info["policy_output"].item() == pytest.approx(-info["estimated_reverse_kl"].item(), abs=1e-3)


@needs_compiler
def test_a_compiled_step_of_another_sees_the_newest_discriminator() -> None:
    """Rewards come from D as it is, not as it was when the reader was compiled."""
    discriminator, optimizer = pair()
    update = DiscriminatorUpdate(discriminator, optimizer, "compiled")
    total, rows, parameters = torch.zeros(1), batch(0), dict(discriminator.named_parameters())

    def collect(inputs: Tensor) -> dict[str, Tensor]:
        total.add_(discriminator(inputs).mean())
        return {"reward": functional_call(discriminator, parameters, inputs).mean()}

    reader = GradientStep(collect, "compiled", lambda: [total])
    rewards = []
    for step in range(3):
        before = total.item()
        rewards.append(reader(rows[0])["reward"].item())
        with torch.no_grad():
            expected = discriminator(rows[0]).mean().item()
        assert rewards[-1] == pytest.approx(expected, rel=1e-5)
        assert total.item() - before == pytest.approx(expected, abs=1e-6)
        for again in range(5):
            update(*batch(5 * step + again))
    assert len({round(value, 4) for value in rewards}) == 3


def saved(discriminator: Discriminator, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in (*discriminator.parameters(), *moments)]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_that_is_not_finite_changes_nothing_and_says_so(mode: Any) -> None:
    discriminator, optimizer = pair()
    clean, clean_optimizer = pair()
    update, other = (
        DiscriminatorUpdate(discriminator, optimizer, mode),
        DiscriminatorUpdate(clean, clean_optimizer, mode),
    )
    for step in range(3):
        update(*batch(step))
        other(*batch(step))
    before = saved(discriminator, optimizer)
    for position, value in itertools.product(range(5), (float("nan"), float("inf"))):
        rows = [part.clone() for part in batch(9)]
        rows[position][2] = value
        assert update(*rows)["discriminator_finite"].item() == 0
        for kept, now in zip(before, saved(discriminator, optimizer), strict=True):
            assert torch.equal(kept, now)
    nobody = batch(9)
    assert update(nobody[0], torch.zeros(16, 1), *nobody[2:])["discriminator_finite"].item() == 0
    for step in range(3, 6):
        assert update(*batch(step))["discriminator_finite"].item() == 1
        other(*batch(step))
    assert_alike(discriminator, clean, 0.0)


def test_a_finite_loss_with_an_infinite_gradient_changes_nothing() -> None:
    """exp(86) is 2e37, still a float32; times the input 1e3 it is none."""
    discriminator = Discriminator(5, (), output="none")
    torch.nn.init.zeros_(discriminator.network[0].weight)  # type: ignore[arg-type]
    torch.nn.init.constant_(discriminator.network[0].bias, -86.0)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(discriminator.parameters())
    update = DiscriminatorUpdate(discriminator, optimizer, gradient_penalty=0.0)
    before, (expert, *others) = saved(discriminator, optimizer), batch(0)
    info = update(torch.full_like(expert, 1e3), *others)
    assert info["discriminator_loss"].isfinite() and info["discriminator_finite"].item() == 0
    for kept, now in zip(before, saved(discriminator, optimizer), strict=True):
        assert torch.equal(kept, now)


def test_what_is_loaded_is_what_goes_on() -> None:
    discriminator, optimizer = pair()
    update = DiscriminatorUpdate(discriminator, optimizer)
    for step in range(3):
        update(*batch(step))
    state = copy.deepcopy((discriminator.state_dict(), optimizer.state_dict()))
    for step in range(3, 6):
        update(*batch(step))
    fresh, fresh_optimizer = pair()
    resumed = DiscriminatorUpdate(fresh, fresh_optimizer)
    resumed(*batch(77))
    fresh.load_state_dict(state[0])
    fresh_optimizer.load_state_dict(state[1])
    for step in range(3, 6):
        resumed(*batch(step))
    assert_alike(discriminator, fresh, 0.0)
    assert state[0]["network.0.weight"].ne(discriminator.state_dict()["network.0.weight"]).any()


def test_outputs_are_bounded_as_asked() -> None:
    inputs, z = 100 * torch.randn(64, 5), {}
    for output in ("none", "clip", "tanh"):
        torch.manual_seed(0)
        z[output] = Discriminator(5, output=output, bound=2.0)(inputs)  # type: ignore[arg-type]
    assert z["none"].shape == (64, 1) and z["none"].abs().max() > 4
    torch.testing.assert_close(z["clip"], z["none"].clamp(-2, 2))
    torch.testing.assert_close(z["tanh"], 2 * torch.tanh(z["none"] / 2))
    # Bound 1 is the paper's: a density ratio between 1/e and e.
    assert Discriminator(5)(inputs).abs().max() <= 1
    assert [part.shape[0] for part in Discriminator(5).parameters()] == [64, 64, 64, 64, 1, 1]


def test_inputs_of_each_kind() -> None:
    observations, following = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    actions = torch.tensor([[0.5], [-0.5]], dtype=torch.float64)
    expected = {
        "state_action": [[1, 2, 0.5], [3, 4, -0.5]],
        "state": [[1, 2], [3, 4]],
        "state_next_state": [[1, 2, 5, 6], [3, 4, 7, 8]],
    }
    for kind, rows in expected.items():
        inputs = discriminator_inputs(observations, actions, following, kind)  # type: ignore[arg-type]
        assert inputs.dtype == torch.float32 and inputs.tolist() == rows
        assert inputs.shape[1] == input_size(2, 1, kind)  # type: ignore[arg-type]
