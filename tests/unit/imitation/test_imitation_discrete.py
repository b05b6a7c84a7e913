"""SQIL and IQ-Learn for Discrete actions: soft values, losses by hand, how they act, their step in every mode."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from offline_data import corridor
from reach import assert_same

import rlopt
from rlopt.agents.imitation.losses import boltzmann_value
from rlopt.data.demonstrations import Demonstrations
from rlopt.optim.descent import OwnNetworks

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "buffer_size": 500,
    "batch_size": 16,
    "seed": 0,
    "device": "cpu",
    "compile": "off",
    "policy_kwargs": {"net_arch": [8]},
}


def make(name: str, **settings: Any) -> Any:
    shown = Demonstrations.from_dataset(corridor(60, right=1.0))
    return getattr(rlopt, name)("MlpPolicy", "rlopt/Corridor-v0", shown, **{**SMALL, **settings})


def test_the_soft_value_is_the_largest_of_value_and_entropy() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(50, 4))
    value = boltzmann_value(torch.as_tensor(q), temperature=0.7).numpy()[:, 0]
    chances = np.exp(q / 0.7) / np.exp(q / 0.7).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value, (chances * (q - 0.7 * np.log(chances))).sum(axis=1))
    for other in rng.dirichlet(np.ones(4), size=200):
        assert ((q - 0.7 * np.log(other)) @ other <= value).all()
    large = boltzmann_value(torch.tensor([[900.0, -900.0]]), temperature=1e-3)
    assert large.item() == 900.0


def test_losses_are_those_by_hand() -> None:
    """Rows one by one, with the value of the absorbing state at true ends; half a batch is the expert's."""
    gamma, temperature = 0.9, 0.5
    for name, use_target in (("DiscreteSQIL", True), ("DiscreteIQLearn", True), ("DiscreteIQLearn", False)):
        further = {"use_target": use_target} if name == "DiscreteIQLearn" else {}
        model = make(name, gamma=gamma, ent_coef=temperature, absorbing=True, tau=0.5, **further).learn(60)
        end_value = gamma * model.absorbing_value  # it moves after the step
        model.train(1, 16)
        with torch.no_grad():
            for parameter in model.q_net.parameters():  # or targets would be near to what is learned
                parameter += 0.3 * torch.randn_like(parameter)
        drawn = model.draw(32)
        batch = model.read_batch(drawn)
        own = OwnNetworks(model.networks(), model._check_loss)
        loss, _ = model.q_objective(own["q_net"], own, batch)
        with torch.no_grad():
            here = model.q_net(batch.observations).double().numpy()
            following = (model.q_net_target if use_target else model.q_net)(batch.next_observations).double().numpy()
        values, nexts = (temperature * np.log(np.exp(q / temperature).sum(axis=1)) for q in (here, following))
        ends, expert = batch.discounts.numpy()[:, 0] == 0, np.arange(32) >= 16
        assert ends[:16].any() and ends[16:].any() and end_value != 0
        worth = end_value * ends
        chosen = here[np.arange(32), batch.actions.numpy()[:, 0]]
        if name == "DiscreteSQIL":
            by_hand = 0.5 * ((chosen - (expert + worth + gamma * ~ends * nexts)) ** 2).mean()
        else:
            targets = worth + gamma * ~ends * nexts
            rewards = chosen - targets
            by_hand = (values - targets).mean() - rewards[16:].mean() + (rewards**2).mean() / (4 * model.chi_alpha)
        assert loss.item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", ["DiscreteSQIL", "DiscreteIQLearn"])
def test_it_acts_by_the_boltzmann_distribution(name: str) -> None:
    model = make(name, ent_coef=0.3)
    seen = np.ones((1, 1), np.float32)
    with torch.no_grad():
        for parameter in model.q_net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        q = model.q_net(torch.as_tensor(seen))[0].double().numpy()
    chances = np.exp(q / 0.3) / np.exp(q / 0.3).sum()
    actions, _ = model.predict(seen.repeat(20_000, axis=0))
    np.testing.assert_allclose(np.bincount(actions, minlength=len(q)) / 20_000, chances, atol=0.02)
    assert model.predict(seen[0], deterministic=True)[0] == q.argmax()
    assert gymnasium.make("rlopt/Corridor-v0").action_space.contains(model.predict(seen[0])[0])


@pytest.mark.parametrize("name", ["DiscreteSQIL", "DiscreteIQLearn"])
def test_the_function_of_tensors_is_the_step(name: str) -> None:
    function = make(name)
    function._mode = lambda parts: "eager"
    function.learn(50)
    plain = make(name).learn(50)
    assert function.update is not None and plain.update is None
    assert_same(function, plain, 1e-4)
