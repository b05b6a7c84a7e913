"""The clipped gradient step against torch's own sequence of calls."""

from typing import Any

import pytest
import torch
from torch import nn

from rlopt.optim.clipped_step import ClippedStep


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(2))
    second.load_state_dict(first.state_dict())
    return first, second


@pytest.mark.parametrize("max_norm", [0.05, 1e6])
@pytest.mark.parametrize(
    ("kind", "options", "flat"),
    [
        (torch.optim.Adam, {"fused": True, "eps": 1e-5}, True),
        (torch.optim.AdamW, {"fused": True, "weight_decay": 0.1, "betas": (0.8, 0.99)}, True),
        (torch.optim.Adam, {"fused": True, "weight_decay": 0.1, "maximize": True}, True),
        (torch.optim.Adam, {"amsgrad": True, "fused": True}, False),
        (torch.optim.Adam, {"fused": False}, False),
        (torch.optim.SGD, {"momentum": 0.9}, False),
    ],
)
def test_steps_are_those_of_torch(kind: Any, options: dict[str, Any], flat: bool, max_norm: float) -> None:
    ours, theirs = networks()
    parameters = list(ours.parameters())
    optimizer = kind(parameters, lr=0.01, **options)
    reference = kind(theirs.parameters(), lr=0.01, **options)
    for phase in range(3):
        for group in (optimizer.param_groups[0], reference.param_groups[0]):
            group["lr"] = 0.01 / (phase + 1)
        step = ClippedStep(optimizer, parameters, max_norm)
        assert (step._flat is not None) == (flat and phase > 0), "the first phase has no Adam state yet"
        for _ in range(3):
            inputs = torch.randn(8, 3)
            norm = step.backward(ours(inputs).square().mean())
            step.apply()
            reference.zero_grad()
            theirs(inputs).square().mean().backward()
            expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
            reference.step()
            torch.testing.assert_close(norm, expected)
    for mine, other in zip(parameters, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
        for name, value in reference.state[other].items():
            torch.testing.assert_close(optimizer.state[mine][name], value)


def test_a_parameter_that_no_loss_reaches_is_left_alone() -> None:
    network, _ = networks()
    spare = nn.Parameter(torch.ones(2))
    parameters = [*network.parameters(), spare]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5, fused=True)
    for _ in range(3):
        step = ClippedStep(optimizer, parameters, 1.0)
        step.backward(network(torch.randn(8, 3)).square().mean())
        step.apply()
    assert spare.grad is None and spare not in optimizer.state
    assert torch.equal(spare, torch.ones(2))


def test_hooks_of_the_optimizer_run() -> None:
    network, _ = networks()
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, fused=True)
    calls: list[int] = []
    for _ in range(2):
        step = ClippedStep(optimizer, parameters, 1.0)
        step.backward(network(torch.randn(8, 3)).square().mean())
        step.apply()
        optimizer.register_step_post_hook(lambda *args: calls.append(1))
    assert calls == [1]
