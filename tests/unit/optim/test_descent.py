"""A gradient step as a function of tensors against torch's own optimisers, alone and for several models at once."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from rlopt.optim.descent import Networks, OwnNetworks, Part, obstacle
from rlopt.optim.held_networks import HeldNetworks, Store


class Heads(nn.Module):
    """Two heads on one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)) for _ in range(2)])

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(self.features(x)) for head in self.heads], dim=1)


def values(network: Any, x: Tensor) -> Tensor:
    if network.batched:
        found: Tensor = network.each(network(x, method="features")).squeeze(-1).mT
        return found
    return network(x)


def make(seed: int, max_norm: float | None = None, frozen: bool = False) -> dict[str, Part]:
    torch.manual_seed(seed)
    net, target, actor = Heads(), Heads(), nn.Linear(3, 3)
    target.load_state_dict(net.state_dict())
    net.body.weight.requires_grad_(not frozen)
    return {
        "net": Part(
            net, torch.optim.Adam(net.parameters(), lr=1e-2), ensemble=("heads.0", "heads.1"), max_grad_norm=max_norm
        ),
        "target": Part(target, ensemble=("heads.0", "heads.1")),
        "actor": Part(actor, torch.optim.Adam(actor.parameters(), lr=3e-3)),
        "gain": Part(tensors={"gain": torch.zeros(1)}),
    }


def step(networks: Networks, x: Tensor, weight: Any) -> dict[str, Tensor]:
    def net_loss(net: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            goal = values(networks["target"], x) + 1 + networks["gain"]["gain"]
        loss = weight * (values(net, x) - goal).square().mean()
        return loss, loss.detach()

    def actor_loss(actor: Any) -> tuple[Tensor, Tensor]:
        loss = -values(networks["net"], actor(x)).mean()
        return loss, loss.detach()

    info = {"net": networks.descend("net", net_loss), "actor": networks.descend("actor", actor_loss)}
    networks.move("target", "net", 0.1)
    networks.put("gain", gain=networks["gain"]["gain"] * 0.5 + 1)
    return info


def batches(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(6, 7, 3, generator=generator))


def refuse(name: str, loss: Tensor) -> None:
    assert loss.isfinite(), name


def eager(parts: Mapping[str, Part], xs: list[Tensor]) -> list[dict[str, Tensor]]:
    return [step(OwnNetworks(parts, refuse), x, 2.0) for x in xs]


def held(models: list[dict[str, Part]], xs: list[Tensor]) -> list[dict[str, Tensor]]:
    """``xs``: batches, (S, ...) for several models."""
    store, infos = Store(models), []

    def one(state: Any, rates: Tensor, x: Tensor) -> Any:
        networks = HeldNetworks(store, state, dict(zip(store.trained_parts, rates.unbind(), strict=True)))
        info = step(networks, x, 2.0)
        return networks.state, info

    for x in xs:
        store.attach()
        rates = torch.tensor(store.rates(), dtype=torch.float64)
        with torch.no_grad():
            new, info = vmap(one)(store.state, rates, x) if store.stacked else one(store.state, rates[0], x)
            store.write(new)
        infos.append(info)
    return infos


def tensors(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    found = {f"{name} {key}": tensor.detach() for name, part in parts.items() for key, tensor in part.named().items()}
    for name, part in parts.items():
        if part.optimizer is not None:
            for index, state in part.optimizer.state_dict()["state"].items():
                found |= {f"{name} {index} {key}": torch.as_tensor(value) for key, value in state.items()}
    return found


@pytest.mark.parametrize("options", [{}, {"max_norm": 0.1}, {"frozen": True}])
def test_the_function_of_tensors_is_the_step_of_torchs_optimisers(options: dict[str, Any]) -> None:
    plain, function = make(1, **options), make(1, **options)
    start = plain["net"].module.body.weight.detach().clone()  # type: ignore[union-attr]
    xs = batches(5)
    for expected, got in zip(eager(plain, xs), held([function], xs), strict=True):
        torch.testing.assert_close(got, expected)
    theirs = tensors(function)
    for name, tensor in tensors(plain).items():
        torch.testing.assert_close(theirs[name], tensor, msg=name)
    assert torch.equal(start, theirs["net body.weight"]) == options.get("frozen", False)


def test_several_models_at_once_are_each_alone() -> None:
    alone, together = [make(seed) for seed in (1, 2, 3)], [make(seed) for seed in (1, 2, 3)]
    xs = [batches(seed) for seed in (4, 5, 6)]
    for parts, own in zip(alone, xs, strict=True):
        eager(parts, own)
    held(together, [torch.stack(column) for column in zip(*xs, strict=True)])
    for parts, others in zip(alone, together, strict=True):
        theirs = tensors(others)
        for name, tensor in tensors(parts).items():
            torch.testing.assert_close(theirs[name], tensor, msg=name)


def test_after_a_loss_that_is_not_finite_nothing_moves() -> None:
    parts = make(1)
    before = {name: tensor.clone() for name, tensor in tensors(parts).items()}
    held([parts], [torch.full((7, 3), float("nan"))])
    for name, tensor in before.items():
        assert torch.equal(tensors(parts)[name], tensor), name


def test_obstacles_are_named() -> None:
    assert obstacle(make(1)) is None
    sgd = make(1) | {"actor": Part(actor := nn.Linear(3, 3), torch.optim.SGD(actor.parameters(), lr=0.1))}
    assert obstacle(sgd) == "the optimizer SGD of actor is not plain Adam"
    assert "BatchNorm1d" in str(obstacle({"actor": Part(nn.BatchNorm1d(3))}))
    hooked = nn.Linear(3, 3)
    hooked.register_forward_hook(lambda *_: None)
    assert obstacle({"actor": Part(hooked)}) == "a module of actor has hooks"


def saddle(networks: Networks, x: Tensor) -> None:
    """The network climbs what the actor descends, each from the other as it was before."""

    def both(own: Any, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = values(own["net"], own["actor"](x)).square().mean()
        return {"net": -found, "actor": found}, {}

    networks.descend_together(("net", "actor"), both, x)


def test_networks_that_move_together_see_each_other_as_before() -> None:
    plain, function = make(1), make(1)
    for parts in (plain, function):
        for name in ("net", "actor"):
            parts[name].optimizer.param_groups[0]["eps"] = 1e3  # type: ignore[union-attr]  # steps like the gradients
            parts[name].optimizer.param_groups[0]["lr"] = 1e3  # type: ignore[union-attr]
    net, actor = plain["net"].module, plain["actor"].module
    assert isinstance(net, nn.Module) and isinstance(actor, nn.Module)
    before = [parameter.detach().clone() for parameter in (*net.parameters(), *actor.parameters())]
    x = batches(5)[0]
    loss = net(actor(x)).square().mean()
    gradients = torch.autograd.grad(loss, [*net.parameters(), *actor.parameters()])
    saddle(OwnNetworks(plain, refuse), x)
    signs = [1.0] * len(list(net.parameters())) + [-1.0] * len(list(actor.parameters()))
    for now, was, gradient, sign in zip(
        (*net.parameters(), *actor.parameters()), before, gradients, signs, strict=True
    ):
        torch.testing.assert_close(now.detach(), was + sign * gradient, rtol=1e-3, atol=1e-5)
    store = Store([function])
    store.attach()
    networks = HeldNetworks(
        store, store.state, dict(zip(store.trained_parts, torch.tensor(store.rates()[0]), strict=True))
    )
    with torch.no_grad():
        saddle(networks, x)
        store.write(networks.state)
    theirs = tensors(function)
    for name, tensor in tensors(plain).items():
        torch.testing.assert_close(theirs[name], tensor, msg=name)
