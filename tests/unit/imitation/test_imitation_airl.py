"""AIRL: the discriminator's form, the policy's probability in it, and the reward that it recovers."""

from typing import Any

import numpy as np
import torch
from demonstrated import SMALL_GAIL, Near, make
from offline_data import corridor
from reach import vec_env
from stable_baselines3.common.vec_env import VecMonitor
from torch.func import grad

import rlopt
from rlopt.agents.imitation.airl import AIRL, ScoredRows, ShapedDiscriminator
from rlopt.agents.imitation.discriminator_update import DiscriminatorUpdate
from rlopt.data.demonstrations import Demonstrations


def test_the_reward_of_a_rollout_is_the_formula() -> None:
    """g + gamma h' - h - ln pi from the parts, ln pi of the action that the policy drew, h 0 behind a true end."""
    env = VecMonitor(vec_env(2, Near))
    model = make("airl", env=env, n_steps=60, gamma=0.9, absorbing=False, n_epochs=1)
    kept: list[ScoredRows] = []
    train = model._train_discriminator
    model._train_discriminator = lambda seen: kept.append(seen) or train(seen)
    old = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(120)
    (seen,), network = kept, model.adversary.discriminator
    model.policy.load_state_dict(old)
    buffer = model.rollout_buffer
    flat = [torch.as_tensor(column.reshape(120, -1)) for column in (buffer.observations, buffer.actions)]
    with torch.no_grad():
        log_probs = model.policy.evaluate_actions(*flat)[1]
        here, following = (model.adversary.statistics(part) for part in (seen.observations, seen.next_observations))
        shaping = 0.9 * (1 - seen.dones) * network.h(following) - network.h(here)
        wanted = network.g(torch.cat([here, seen.actions], dim=1)) + shaping - log_probs[:, None]
    assert 0 < seen.dones.sum() < 120
    assert torch.allclose(model.adversary.reward(seen), wanted, atol=1e-5)
    base = model.adversary.base_reward(seen)
    assert torch.allclose(base, wanted - shaping + log_probs[:, None], atol=1e-5)
    shown = model.demonstrations
    with torch.no_grad():
        wanted = model.policy.evaluate_actions(torch.as_tensor(shown.observations), torch.as_tensor(shown.actions))[1]
    assert torch.allclose(model._shown.log_probs[:, 0], wanted, atol=1e-5)


def test_the_penalty_is_on_what_is_learned() -> None:
    network = ShapedDiscriminator(2, 1, 3, 0.9, net_arch=(8,), activation="tanh")
    rows = torch.randn(5, 7)
    slopes = grad(lambda x: network(x).sum())(rows)
    assert (slopes[:, :5] != 0).all() and (slopes[:, 5:] == 0).all()


def test_of_states_alone_g_is_the_reward_up_to_a_constant() -> None:
    """A ring of three states, in which an action stays or goes on: deterministic and decomposable, as in the paper's
    section 6. The expert is the optimum of the return with entropy, by value iteration."""
    gamma, rewards, successors = 0.8, np.array([0.0, 1.0, -0.5]), np.array([[0, 1], [1, 2], [2, 0]])
    values = np.zeros(3)
    for _ in range(300):
        q = rewards[:, None] + gamma * values[successors]
        values = np.log(np.exp(q).sum(axis=1))
    policy = torch.tensor(np.exp(q - values[:, None]), dtype=torch.float32)
    states, acts = np.divmod(np.arange(6), 2)
    one_hot = torch.eye(3)
    columns = [one_hot[states], torch.eye(2)[acts], one_hot[successors.reshape(-1)], torch.ones(6, 1)]
    rows = torch.cat([*columns, policy.reshape(-1, 1).log()], dim=1)
    torch.manual_seed(0)
    network = ShapedDiscriminator(3, 2, 3, gamma, net_arch=(32,), activation="tanh")
    update = DiscriminatorUpdate(
        network, torch.optim.Adam(network.parameters(), lr=1e-2), divergence="js", gradient_penalty=0.0
    )
    weights = policy.reshape(-1, 1)
    for _ in range(1500):
        update(rows, weights, rows, weights, torch.zeros(6, 1))
    with torch.no_grad():
        found = network.g(one_hot)[:, 0].numpy()
    assert np.allclose(found - found[0], rewards - rewards[0], atol=0.05)


def test_airl_has_discrete_actions() -> None:
    shown = Demonstrations.from_dataset(corridor(60, right=1.0))
    options: dict[str, Any] = {"device": "cpu", **SMALL_GAIL}
    model = AIRL("MlpPolicy", rlopt.make_env("rlopt/Corridor-v0", n_envs=2), shown, **options).learn(64)
    assert model.adversary.discriminator.sizes == [1, 2, 1, 1, 1]  # type: ignore[attr-defined, union-attr]
