"""Stacked networks against torch's own modules and its own Adam."""

import copy

import pytest
import torch
from torch import nn

from rlopt.nn.stacked import StackedParameters, mlp, mlp_layers, plain_adam


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def stack(networks: list[nn.Sequential], optimizer: torch.optim.Optimizer | None = None) -> StackedParameters:
    columns = list(zip(*(list(net.parameters()) for net in networks), strict=True))
    return StackedParameters(columns, (len(networks),), [optimizer] * len(networks) if optimizer else [])


def test_a_stack_computes_what_its_members_compute() -> None:
    networks, x = [network() for _ in range(3)], torch.randn(7, 3)
    expected = torch.stack([net(x) for net in networks])
    layers = mlp_layers(networks[0])
    assert layers is not None
    single = mlp(layers, list(networks[1].parameters()), x)
    torch.testing.assert_close(single, expected[1])
    stacked = stack(networks)
    torch.testing.assert_close(mlp(layers, stacked.tensors, x.expand(3, 7, 3)), expected)
    torch.testing.assert_close(networks[2](x), expected[2])  # the modules still work, on shared memory
    stacked.tensors[0][2].zero_()
    assert not networks[2][0].weight.any()


def test_a_stack_computes_layer_norms() -> None:
    networks = [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)) for _ in range(2)]
    for net in networks:
        nn.init.normal_(net[2].weight)
        nn.init.normal_(net[2].bias)
    x = torch.randn(7, 3)
    expected = torch.stack([net(x) for net in networks])
    layers = mlp_layers(networks[0])
    assert layers is not None
    torch.testing.assert_close(mlp(layers, list(networks[1].parameters()), x), expected[1])
    torch.testing.assert_close(mlp(layers, stack(networks).tensors, x.expand(2, 7, 3)), expected)


REFUSED = [
    nn.LayerNorm(3, elementwise_affine=False),
    nn.LayerNorm((3, 3)),
    nn.Dropout(0.5),
    nn.Linear(3, 2, bias=False),
    nn.Flatten(),
]


@pytest.mark.parametrize("other", REFUSED)
def test_other_layers_are_refused(other: nn.Module) -> None:
    assert mlp_layers(nn.Sequential(nn.Linear(3, 3), other)) is None


def test_adam_is_torchs_adam() -> None:
    networks = [network() for _ in range(2)]
    theirs = copy.deepcopy(networks)
    optimizer = torch.optim.Adam([p for net in networks for p in net.parameters()], lr=0.01, betas=(0.8, 0.99))
    reference = torch.optim.Adam([p for net in theirs for p in net.parameters()], lr=0.01, betas=(0.8, 0.99))
    stacked = stack(networks, optimizer)
    rate, keep = torch.tensor(0.01, dtype=torch.float64), torch.tensor(True)
    for _ in range(30):
        gradients = [torch.randn_like(tensor) for tensor in stacked.tensors]
        for member, net in enumerate(theirs):
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.grad = gradient[member].clone()
        reference.step()
        stacked.adam(gradients, rate, keep, (0.8, 0.99), 1e-8)
    for ours, expected in zip(networks, theirs, strict=True):
        for parameter, wanted in zip(ours.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter, wanted, rtol=1e-5, atol=1e-6)
    states, wanted = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert states.keys() == wanted.keys()
    for index, state in states.items():
        assert state["step"] == wanted[index]["step"] == 30
        torch.testing.assert_close(state["exp_avg_sq"], wanted[index]["exp_avg_sq"])


def test_nothing_changes_where_a_step_is_not_kept() -> None:
    net = network()
    stacked = stack([net], torch.optim.Adam(net.parameters()))
    before = [tensor.clone() for tensor in stacked.changed()]
    gradients = [torch.full_like(tensor, torch.nan) for tensor in stacked.tensors]
    stacked.adam(gradients, torch.tensor(0.01, dtype=torch.float64), torch.tensor(False), (0.9, 0.999), 1e-8)
    for tensor, value in zip(stacked.changed(), before, strict=True):
        assert torch.equal(tensor, value)


def test_what_is_loaded_is_taken_over() -> None:
    net, source = network(), network()
    optimizer, other = torch.optim.Adam(net.parameters()), torch.optim.Adam(source.parameters())
    for parameter in source.parameters():
        parameter.grad = torch.randn_like(parameter)
    other.step()
    stacked = stack([net], optimizer)
    net.load_state_dict(source.state_dict())
    optimizer.load_state_dict(other.state_dict())
    net[0].weight.data = source[0].weight.data.clone() + 1  # replaced, not written in place
    stacked.attach()
    torch.testing.assert_close(stacked.tensors[0][0], source[0].weight + 1)
    torch.testing.assert_close(stacked.tensors[2][0], source[2].weight)
    torch.testing.assert_close(stacked.first_moments[2][0], other.state[source[2].weight]["exp_avg"])
    assert (stacked.steps == 1).all()
    gradients = [torch.ones_like(tensor) for tensor in stacked.tensors]
    stacked.adam(gradients, torch.tensor(1.0).double(), torch.tensor(True), (0, 0), 0.0)
    torch.testing.assert_close(net[2].weight, source[2].weight - 1)  # Adam without memory moves by the rate
    assert optimizer.state[net[2].weight]["step"] == 2


def test_only_plain_adam_is_taken() -> None:
    parameters = list(network().parameters())
    assert plain_adam(torch.optim.Adam(parameters))
    assert not plain_adam(torch.optim.Adam(parameters, weight_decay=0.1))
    assert not plain_adam(torch.optim.Adam(parameters, amsgrad=True))
    assert not plain_adam(torch.optim.AdamW(parameters))
