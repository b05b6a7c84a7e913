"""What a true end is worth at every stage of training, and a discriminator that knows no units."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from demonstrated import Hold, demonstrations, make
from reach import vec_env

from rlopt.agents.imitation import adversarial_losses as losses
from rlopt.agents.imitation.adversary import Adversary, AdversarySettings
from rlopt.agents.imitation.config import GAILConfig
from rlopt.agents.imitation.input_statistics import InputStatistics
from rlopt.state.networks import capture_networks, check_networks

GAMMA = 0.9


def adversary(size: int = 3, actions: int = 2, **changes: Any) -> Adversary:
    settings: dict[str, Any] = {
        "divergence": "js",
        "reward_form": "gail",
        "discriminator_input": "state_action",
        "discriminator_net_arch": (32, 32),
        "discriminator_output": "none",
        "output_bound": 1.0,
        "discriminator_learning_rate": 1e-3,
        "gradient_penalty": GAILConfig.gradient_penalty,
        "normalize_inputs": True,
        "absorbing": True,
    }
    torch.manual_seed(changes.pop("seed", 0))
    return Adversary(AdversarySettings(**settings | changes), size, actions, torch.device("cpu"))


def transitions(observations: Any, actions: Any, dones: Any = None) -> Any:
    observations = torch.as_tensor(observations, dtype=torch.float32)
    dones = torch.zeros(len(observations), 1) if dones is None else torch.as_tensor(dones).float().reshape(-1, 1)
    return SimpleNamespace(
        observations=observations,
        actions=torch.as_tensor(actions, dtype=torch.float32),
        next_observations=observations,
        dones=dones,
    )


@pytest.mark.parametrize(("divergence", "form"), [("js", "gail"), ("js", "airl"), ("reverse_kl", "airl")])
def test_an_end_is_preferred_in_each_sweep_as_with_a_state_of_its_own(divergence: str, form: str) -> None:
    """A chain of three states: action 0 goes to the next one and on the last stays there, action 1 ends the episode.

    On the one side are the discriminator's rewards and ends that are worth 0, on the other a fourth state with the
    absorbing reward, which is never left. Both are swept from 0.
    """
    judge = adversary(divergence=divergence, reward_form=form, normalize_inputs=False)
    judge.see_ends()
    judge.statistics.absorbing_output.fill_(0.7)
    states, choices = np.repeat(np.eye(3), 2, axis=0), np.tile(np.eye(2), (3, 1))
    given = judge.reward(transitions(states, choices)).numpy().reshape(3, 2).astype(float)
    rest = judge.absorbing_reward().item()
    plain = given + rest
    following = np.array([1, 2, 2])
    values, with_rest = np.zeros(3), np.zeros(4)
    for sweep in range(400):
        q = given + GAMMA * np.stack([values[following], np.zeros(3)], axis=1)
        wanted = plain + GAMMA * np.stack([with_rest[following], with_rest[[3, 3, 3]]], axis=1)
        assert q[:, 1] - q[:, 0] == pytest.approx(wanted[:, 1] - wanted[:, 0], abs=1e-5), sweep
        if sweep == 0:  # nothing is known of what follows, and nothing of it is paid
            assert q[:, 1] - q[:, 0] == pytest.approx(plain[:, 1] - plain[:, 0], abs=1e-6)
        values, with_rest = q.max(axis=1), np.append(wanted.max(axis=1), rest + GAMMA * with_rest[3])
    assert with_rest[3] == pytest.approx(rest / (1 - GAMMA), abs=1e-4)
    assert q[:, 1] + rest / (1 - GAMMA) == pytest.approx(plain[:, 1] + GAMMA * rest / (1 - GAMMA), abs=1e-4)


def test_where_nothing_ends_rewards_are_the_discriminator_s() -> None:
    judge, batch = adversary(), transitions(np.eye(3), np.ones((3, 2)))
    judge.statistics.absorbing_output.fill_(0.7)
    before = judge.reward(batch)
    judge.see_ends()
    assert torch.allclose(judge.reward(batch), before - judge.absorbing_reward())
    without = adversary(absorbing=False)
    without.see_ends()
    assert torch.equal(without.reward(batch), without._rewards(without.discriminator(without.inputs(batch))))


def test_the_absorbing_state_is_judged_by_how_often_either_ends() -> None:
    """D* = ln(e / p) where a table decides, with half an end more; within the bound where there is one."""
    rows = transitions(np.zeros((8, 3)), np.zeros((8, 2)))
    often, seldom = torch.full((8, 1), 0.5), torch.zeros(8, 1)

    def judged(expert: torch.Tensor, policy: torch.Tensor, **changes: Any) -> float:
        judge = adversary(reward_form="airl", **changes)
        judge.see_ends()
        rows.dones = policy
        info = judge.train(2, "eager", lambda: (rows, expert, rows), 50, 0)
        assert info["absorbing_reward"] == judge.absorbing_reward().squeeze()
        return float(judge.absorbing_reward())

    assert judged(often, often) == 0
    assert judged(often, 0.2 * often) == pytest.approx(np.log(0.51 / 0.11), abs=1e-5)
    assert judged(seldom, often) == pytest.approx(np.log(0.01 / 0.51), abs=1e-5)
    assert judged(seldom, often, divergence="reverse_kl", discriminator_output="tanh") == -1
    assert -1 < judged(seldom, often, divergence="wasserstein") < 1
    judge = adversary(reward_form="airl")
    judge.see_ends()
    for ends in (0.5 * torch.ones(8, 1), torch.zeros(8, 1)):  # who has unlearned to end is judged by all trainings
        rows.dones = ends
        judge.train(2, "eager", lambda: (rows, seldom, rows), 50, 0)
    assert float(judge.absorbing_reward()) == pytest.approx(np.log(0.01 / 0.26), abs=1e-5)
    assert losses.absorbing_output(0.1, 0.3, 2.0, -1.0, divergence="wasserstein") == pytest.approx(-0.25)


@pytest.mark.parametrize("name", ["gail"])
def test_ends_are_known_once_the_expert_or_the_learner_has_one(name: str) -> None:
    assert make(name).adversary.knows_ends  # the expert's
    model = make(name, env=vec_env(1, Hold), shown=demonstrations(env=Hold))
    assert not model.learn(64).adversary.knows_ends
    model = make(name, env=vec_env(1), shown=demonstrations(env=Hold), n_steps=512)
    assert not model.adversary.knows_ends
    assert model.learn(512).adversary.knows_ends


@pytest.mark.parametrize(("name", "settings"), [("sqil", {}), ("iq_learn", {"absorbing": True})])
def test_the_value_of_the_absorbing_state_grows_as_that_of_any_state(name: str, settings: dict[str, Any]) -> None:
    """As a table does of a state that is never left, by target networks: to r / (1 - gamma), and not at once."""
    model = make(name, gamma=GAMMA, tau=0.02, learning_starts=10, buffer_size=100, **settings)
    model.learn(20)
    assert 0 < abs(model.absorbing_value) < 0.5  # of up to 10
    ends = np.mean(demonstrations().discounts == 0)
    model.n_collected, model.n_true_ends = 1000, 10
    reward = model.absorbing_reward(ends, 0.01)
    expected = {"sqil": ends / (ends + 0.01), "iq_learn": (ends - 0.01) / (ends + 0.01)}[name]
    assert reward == pytest.approx(expected)
    model.absorbing_value, table = 0.0, 0.0
    for _ in range(30):
        assert model.replay_buffer is not None
        model.train(2, 8)
        ended = model.replay_buffer.gather(torch.zeros(2, dtype=torch.int64))
        assert ended is not None
        for _ in range(2):
            table += 0.02 * (reward + GAMMA * table - table)
        assert model.absorbing_value == pytest.approx(table)
    model.tau = 1.0
    model.train(200, 8)
    assert model.absorbing_value == pytest.approx(reward / (1 - GAMMA))


def shown_and_seen(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Expert's and learner's rows (200, 5): three that vary, one that the expert holds still, one that is constant."""
    generator = np.random.default_rng(seed)
    expert = np.concatenate([generator.normal(0, [0.2, 1, 3], (200, 3)), np.full((200, 2), [0.4, 2.0])], axis=1)
    moving = generator.normal([0.3, 0, -2, 0.1], [1, 1, 3, 0.5], (200, 4))
    return expert, np.concatenate([moving, np.full((200, 1), 2.0)], axis=1)


def trained(scale: np.ndarray | float = 1.0, steps: int = 150, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of the expert's and the learner's rows after training on both, in units of ``scale``."""
    expert, learner = (rows * scale for rows in shown_and_seen())
    judge = adversary(5, 1, **changes)
    shown, seen = (transitions(rows, np.zeros((200, 1))) for rows in (expert, learner))
    judge.compare_with(shown.observations)
    judge.see_learner(seen.observations)
    torch.manual_seed(7)
    judge.train(steps, "eager", lambda: (shown, shown.dones, seen), 200, 0)
    return judge.reward(shown).numpy(), judge.reward(seen).numpy()


@pytest.mark.parametrize("scale", [1e-3, 1e3, np.array([1e3, 1e-3, 1, 1e-3, 1e3])], ids=["mm", "km", "mixed"])
def test_rewards_do_not_depend_on_units(scale: Any) -> None:
    for own, other in zip(trained(), trained(scale), strict=True):
        assert own.std() > 0.01 and np.allclose(own, other, atol=1e-3)


def test_what_never_varied_is_not_seen_and_what_the_expert_holds_still_is() -> None:
    expert, learner = (torch.tensor(rows, dtype=torch.float32) for rows in shown_and_seen())
    statistics = InputStatistics(5)
    statistics.see_expert(expert)
    assert (statistics(learner)[:, 3:] == 0).all()  # nothing yet says how far is far
    statistics.see_learner(learner)
    scaled = statistics(learner)
    distance = (learner - expert.mean(0)).square().mean(0)
    assert 5 < scaled[:, 3].square().mean().sqrt() <= 10  # in tenths of the learner's own deviation
    assert (scaled[:, 4] == 0).all() and scaled.abs().max() <= 10
    wanted = ((learner - expert.mean(0)) / (expert.var(0, correction=0) + 0.01 * distance).sqrt()).clamp(-10, 10)
    assert torch.allclose(scaled[:, :4], wanted[:, :4], atol=1e-4)
    assert torch.allclose(statistics(expert).mean(0), torch.zeros(5), atol=1e-4)
    statistics.see_learner(learner + 1)  # the mean of all trainings
    both = torch.cat([learner, learner + 1]) - expert.mean(0)
    assert torch.allclose(statistics.learner_square.float(), both.square().mean(0), rtol=1e-4)


def test_the_gap_between_expert_and_learner_does_not_depend_on_the_first_weights() -> None:
    gaps = []
    for seed in range(3):
        shown, seen = trained(seed=seed, steps=400, reward_form="airl")
        gaps.append(float(shown.mean() - seen.mean()))
    assert min(gaps) > 0.5 and max(gaps) / min(gaps) < 1.2, gaps


def test_a_checkpoint_of_version_0_1_acts_and_has_a_new_discriminator(capsys: pytest.CaptureFixture[str]) -> None:
    model = make("gail")
    saved = capture_networks(model)
    former = {name: part for name, part in saved["modules"].items() if not name.startswith("adversary")}
    old = {
        "modules": {**former, "discriminator": {"network.0.weight": torch.zeros(8, 5)}},
        "optimizers": {"policy.optimizer": saved["optimizers"]["policy.optimizer"], "discriminator_optimizer": {}},
        "tensors": {},
    }
    old["optimizers"]["value_optimizer"] = saved["optimizers"]["value_optimizer"]
    fitted = model.fitted_networks(old)
    check_networks(model, fitted)
    assert "discriminator is of version 0.1" in "".join(capsys.readouterr())
    assert model.fitted_networks(saved) is saved
