"""AILBoost and DAC as algorithms: rounds, rewards, learners, mixture, refusals, exact resume."""

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import needs_compiler
from stable_baselines3.common.env_util import make_vec_env
from transitions import expert_of_random_target

import rlopt
from rlopt.agents.ailboost.algorithm import DAC, AILBoost
from rlopt.checkpoint.describe import rebuild_model
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.data.demonstrations import Demonstrations
from rlopt.data.metadata import DemonstrationMetadata
from rlopt.errors import CheckpointError, ConfigError, DataError, NonFiniteError, SpaceError, UnknownNameError
from rlopt.optim.lockstep import Lockstep

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "learner_steps": 20,
    "policy_steps": 30,
    "discriminator_steps": 3,
    "discriminator_batch_size": 16,
    "batch_size": 16,
    "buffer_size": 1000,
    "normalize_inputs": False,
    "policy_kwargs": {"net_arch": [8, 8]},
    "seed": 0,
    "device": "cpu",
}


class Falling(gymnasium.Env[np.ndarray, np.ndarray]):
    """Position moves by the action; leaving [-1, 1] is a true terminal."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = 0.0
        return np.array([0.0], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x += 0.6 * float(action[0])
        return np.array([self.x], np.float32), 0.0, abs(self.x) > 1, False, {}


def expert_that_falls() -> Demonstrations:
    return Demonstrations(
        observations=np.array([[0.0], [0.6]], np.float32),
        actions=np.ones((2, 1), np.float32),
        rewards=np.zeros(2, np.float32),
        next_observations=np.array([[0.6], [1.2]], np.float32),
        discounts=np.array([1, 0], np.float32),
        episode_ends=np.array([False, True]),
        metadata=DemonstrationMetadata(env="unknown"),
    )


def small(algorithm: type[AILBoost] = AILBoost, n_envs: int = 1, **settings: Any) -> AILBoost:
    env = rlopt.make_env("rlopt/RandomTarget-v0", n_envs=n_envs, seed=3, backend="gymnasium")
    return algorithm("MlpPolicy", env, expert_of_random_target(), **{**SMALL, **settings})


def parameters(model: AILBoost) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.actor.parameters()])


def test_a_round_is_a_rollout_of_whole_episodes_then_an_improvement():
    model = small()
    model.learn(21)
    # Step 21 is the first after the warm-up: the first round begins with the next step.
    assert (model.rounds.begun, model.rounds.phase, model.rounds.n_rounds) == (True, "rollout", 0)
    before = parameters(model)
    model.learn(9, reset_num_timesteps=False)  # the rest of the episode that had begun does not count
    assert model.rounds.steps == 0
    model.learn(19, reset_num_timesteps=False)
    assert torch.equal(parameters(model), before), "the policy is not trained while it is rolled out"
    assert model.rounds.phase == "rollout"
    model.learn(1, reset_num_timesteps=False)
    assert (model.rounds.phase, model.rounds.n_rounds) == ("improvement", 1)
    assert model.rounds.rows.row_weights()[0].tolist() == list(range(30, 50))
    model.learn(29, reset_num_timesteps=False)
    assert model._n_updates == 29 and model.rounds.phase == "improvement"
    assert not torch.equal(parameters(model), before)
    model.learn(1, reset_num_timesteps=False)
    assert (model._n_updates, model.rounds.phase) == (30, "rollout")


def test_random_actions_of_a_second_learn_are_nobodys():
    model = small()
    model.learn(30 + 5)  # episodes have ten steps; the first rollout began at step 30
    assert (model.rounds.phase, model.rounds.steps) == ("rollout", 5)
    model.learn(25)  # 20 random ones, then the policy's own from an episode's beginning
    assert model.rounds.steps == 5 + 5
    model.learn(10, reset_num_timesteps=False)
    assert model.rounds.n_rounds == 1
    assert model.rounds.rows.row_weights()[0].tolist() == [*range(30, 35), *range(55, 70)]
    model = small()
    model.learn(35)
    model.learning_starts = 23  # the last random actions are followed by the policy's in their episode
    model.learn(30)
    assert (model.rounds.phase, model.rounds.steps) == ("rollout", 5)


def test_rollouts_without_an_episodes_end_are_warned_of():
    with pytest.warns(UserWarning, match="no episode ended in the 8 transitions"):
        small(n_envs=2, learning_starts=20, learner_steps=8).learn(60)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "no episode")
        small(n_envs=2, learning_starts=20, learner_steps=20).learn(90)
        small(DAC, learner_steps=0).learn(60)
    env = make_vec_env(Falling, 1)
    env.envs[0].unwrapped.step = lambda action: (np.zeros(1, np.float32), 0.0, False, False, {})
    endless = AILBoost("MlpPolicy", env, expert_that_falls(), **{**SMALL, "learner_steps": 3})
    with pytest.warns(UserWarning, match="no episode has ended for 30 transitions"):
        endless.learn(60)


def test_a_loaded_model_trains_in_another_number_of_environments(tmp_path):
    model = small()
    model.learn(30 + 20 + 30 + 9)
    env = rlopt.make_env("rlopt/RandomTarget-v0", n_envs=2, seed=3, backend="gymnasium")
    loaded = rlopt.load(save_checkpoint(model, tmp_path), env=env, device="cpu")
    loaded.set_demonstrations(expert_of_random_target())
    loaded.learn(20 + 20)
    assert loaded.rounds.n_rounds == 2
    assert loaded.rounds.rows.row_weights()[0].tolist() == list(range(20, 40))


def test_rows_that_were_left_behind_are_nobodys(tmp_path):
    model = small()
    model.learn(30 + 20 + 30 + 9)
    assert (model.rounds.n_rounds, model.rounds.phase, model.rounds.steps) == (1, "rollout", 9)
    loaded = rlopt.load(save_checkpoint(model, tmp_path), env=model.env, device="cpu")
    loaded.set_demonstrations(expert_of_random_target())
    loaded.learn(20 + 10)  # without the replay, and 20 random actions
    assert loaded.rounds.steps == 10
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.rounds.n_rounds == 2
    assert loaded.rounds.rows.row_weights()[0].tolist() == list(range(20, 40))


def test_the_discriminator_stays_where_it_is_in_memory():
    """A captured step of the policy reads it there, whatever comes later."""
    model = small()
    own = [parameter.data_ptr() for parameter in model.adversary.discriminator.parameters()]
    before = [parameter.clone() for parameter in model.adversary.discriminator.parameters()]
    model.learn(51)
    model.adversary._update.mode = "compiled"  # as a longer learn() chooses
    model.adversary._update.mode = "eager"
    model.learn(60, reset_num_timesteps=False)
    assert model.rounds.n_rounds == 2
    assert own == [parameter.data_ptr() for parameter in model.adversary.discriminator.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, model.adversary.discriminator.parameters(), strict=True))


def test_without_rollouts_the_transitions_of_an_improvement_are_the_learners():
    model = small(DAC, learner_steps=0, policy_steps=30)
    model.learn(21 + 60)
    assert model.rounds.rows.learner_ids == [0, 1, 2]
    assert model.rounds.rows.row_weights()[0].tolist() == list(range(81))
    assert np.allclose(model.rounds.rows.row_weights()[1], 1 / 81)


def test_rows_of_several_environments_count_from_each_ones_next_episode():
    model = small(n_envs=2, learning_starts=10, learner_steps=12)
    model.learn(12)  # six steps of each; episodes have ten
    assert model.rounds.phase == "rollout"
    model.learn(8, reset_num_timesteps=False)
    assert model.rounds.steps == 0
    model.learn(12, reset_num_timesteps=False)
    assert model.rounds.rows.row_weights()[0].tolist() == list(range(20, 32))


def test_recent_keeps_the_newest_rows_only():
    model = small(DAC, learner_steps=0, weighting="recent", recent_size=40, policy_steps=30)
    model.learn(21 + 60)
    assert model.rounds.rows.row_weights()[0].tolist() == list(range(41, 81))


def test_rows_that_the_replay_overwrites_are_forgotten():
    model = small(DAC, learner_steps=0, buffer_size=50, policy_steps=30)
    model.learn(21 + 60)
    rows = model.rounds.rows.row_weights()[0]
    assert sorted(rows.tolist()) == list(range(50))
    assert rows.tolist()[-30:] == [*range(1, 31)]  # steps 51 to 80 are in rows 1 to 30


def test_rewards_are_those_of_the_newest_discriminator():
    model = small()
    model.learn(60)
    rows = torch.arange(8)
    before = model.replay_buffer.gather(rows).rewards
    with torch.no_grad():
        for parameter in model.adversary.discriminator.parameters():
            parameter.add_(0.1)
    after = model.replay_buffer.gather(rows)
    assert not torch.allclose(before, after.rewards)
    inputs = model.adversary.inputs(after)
    assert inputs.shape == (8, after.observations.shape[1] + after.actions.shape[1])
    assert torch.allclose(after.rewards, model.adversary.discriminator(inputs))


def test_without_relabelling_rewards_stay_as_they_were_stored():
    model = small(relabel=False)
    model.learn(60)
    rows = torch.arange(8)
    before = model.replay_buffer.gather(rows).rewards.clone()
    with torch.no_grad():
        for parameter in model.adversary.discriminator.parameters():
            parameter.add_(0.1)
    assert torch.equal(model.replay_buffer.gather(rows).rewards, before)
    assert before.abs().max() > 0  # those of the discriminator before its first step, not the environment's


def test_several_step_returns_sum_relabelled_rewards():
    model = small(n_steps=3, gamma=0.9)
    model.learn(60)
    buffer: Any = model.replay_buffer
    rows = torch.tensor([20, 27, 28])  # the episode ends with row 29
    single = model.adversary.reward(buffer.transitions(torch.arange(20, 30))).flatten()
    expected = [
        single[0] + 0.9 * single[1] + 0.81 * single[2],
        single[7] + 0.9 * single[8] + 0.81 * single[9],
        single[8] + 0.9 * single[9],
    ]
    assert torch.allclose(buffer.gather(rows).rewards.flatten(), torch.stack(expected))


def test_rewards_are_relative_to_the_absorbing_state_s_where_episodes_end():
    env = make_vec_env(Falling, 1, wrapper_class=gymnasium.wrappers.TimeLimit, wrapper_kwargs={"max_episode_steps": 50})
    model = AILBoost("MlpPolicy", env, expert_that_falls(), **{**SMALL, "gamma": 0.8})
    model.learn(60)
    buffer: Any = model.replay_buffer
    rows = torch.arange(40)
    stored = buffer.transitions(rows)
    ends = stored.dones.flatten() > 0
    assert ends.any() and not ends.all()
    discriminator = model.adversary.discriminator
    own = discriminator(torch.cat([stored.observations, stored.actions], dim=1))
    at_rest = model.adversary.statistics.absorbing_output
    assert at_rest != 0
    assert torch.allclose(buffer.gather(rows).rewards, own - at_rest, atol=1e-5)
    shown = expert_that_falls()
    endless = dataclasses.replace(shown, discounts=np.ones(2, np.float32))
    learner = AILBoost("MlpPolicy", env, endless, **{**SMALL, "gamma": 0.8})
    assert not learner.adversary.knows_ends
    assert learner.learn(60).adversary.knows_ends  # its own, in the replay
    assert not small().learn(60).adversary.knows_ends
    without = AILBoost("MlpPolicy", env, expert_that_falls(), **{**SMALL, "absorbing": False}).learn(60)
    batch = without.replay_buffer.gather(rows)
    assert torch.allclose(batch.rewards, without.adversary.discriminator(without.adversary.inputs(batch)), atol=1e-5)


def test_normalised_inputs_have_the_experts_mean_and_deviation():
    model = small(normalize_inputs=True)
    expert = model.expert
    shown = expert.gather(torch.arange(len(expert)))
    inputs = model.adversary.inputs(shown)
    assert torch.allclose(inputs[:, :2].mean(dim=0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inputs[:, :2].std(dim=0, correction=0), torch.ones(2), atol=1e-5)
    assert torch.equal(inputs[:, 2:3], shown.actions)
    model.learn(60)  # then with a tenth of the learner's distance, in quadrature
    distance = model.adversary.statistics.learner_square.float()
    variance = torch.from_numpy(expert_of_random_target().observations.var(axis=0))
    expected = (variance / (variance + 0.01 * distance)).sqrt()
    assert (distance > 0).all()
    deviation = model.adversary.inputs(shown)[:, :2].std(dim=0, correction=0)
    assert torch.allclose(deviation, expected, atol=1e-5)


def test_dac_is_ailboost_with_uniform_weights_given_the_same_random_numbers():
    shared = {
        "policy_steps": 25, "discriminator_steps": 4, "discriminator_batch_size": 16, "discriminator_output": "tanh",
        "discriminator_net_arch": [8], "discriminator_learning_rate": 1e-3, "divergence": "reverse_kl",
    }  # fmt: skip
    dac = small(DAC, learner_steps=0, **shared).learn(90)
    boosted = small(AILBoost, weighting="uniform", learner_steps=0, **shared).learn(90)
    assert torch.equal(parameters(dac), parameters(boosted))
    weighted = small(AILBoost, weighting="constant", learner_steps=0, **shared).learn(90)
    assert not torch.equal(parameters(dac), parameters(weighted))


def test_snapshots_stay_when_the_policy_is_trained_on():
    model = small()
    model.learn(50)
    kept = {name: value.clone() for name, value in model.learners.parameters(0).items()}
    assert all(torch.equal(kept[name], value) for name, value in model.actor.state_dict().items())
    model.learn(30, reset_num_timesteps=False)
    assert all(torch.equal(kept[name], value) for name, value in model.learners.parameters(0).items())
    assert any(not torch.equal(kept[name], value) for name, value in model.actor.state_dict().items())


def test_the_mixture_draws_one_learner_an_episode_by_weight():
    model = small(weighting="constant", mixture_weight=0.3)
    model.learn(21 + 9 + 3 * 50)
    ids, weights = model.rounds.rows.learner_ids, model.rounds.rows.weights
    assert ids == [0, 1, 2] and np.allclose(weights, [0.49, 0.21, 0.3])
    observations = np.zeros((4000, 2), np.float32)
    np.random.seed(0)
    actions, state = model.predict(observations, deterministic=True, policy="mixture")
    counts = np.bincount(state[0], minlength=3)
    expected = weights * 4000
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square with two degrees of freedom, p = 0.001
    for learner in ids:
        own = model.learners.act(learner, model.actor, torch.zeros(1, 2), deterministic=True).numpy()
        assert np.allclose(actions[state[0] == learner], own)
    starts = np.zeros(4000, bool)
    starts[:2000] = True
    _, later = model.predict(observations, state, starts, deterministic=True, policy="mixture")
    assert np.array_equal(later[0][2000:], state[0][2000:])
    _, on = model.predict(observations, state, deterministic=True, policy="mixture")
    assert np.array_equal(on[0], state[0]), "where no episode begins, who acts goes on"
    assert not np.array_equal(later[0][:2000], state[0][:2000])
    last, _ = model.predict(observations[:1], deterministic=True)
    assert np.allclose(last, model.policy.predict(observations[:1], deterministic=True)[0])
    assert rlopt.evaluate(model.mixture, "rlopt/RandomTarget-v0", 4, backend="gymnasium").returns.shape == (4,)


@pytest.mark.parametrize(
    "settings",
    [{}, {"weighting": "constant", "compile": "on"}, {"n_steps": 2, "relabel": False}],
    ids=["plain", "compiled", "stale"],
)
def test_a_run_goes_on_bit_for_bit(tmp_path, settings):
    whole = small(**settings).learn(150)
    stopped = small(**settings)
    at = 87
    stopped.boundary_hook = lambda model: model.num_timesteps < at
    stopped.learn(150)
    assert stopped.num_timesteps == at and stopped.rounds.phase == "rollout"
    trees = read_checkpoint(save_checkpoint(stopped, tmp_path)).trees
    resumed = small(**settings)
    learn_from(resumed, trees, 150)
    assert torch.equal(parameters(whole), parameters(resumed))
    one, other = capture_state(whole), capture_state(resumed)
    assert one["networks"].keys() == other["networks"].keys()
    for name, tensor in one["networks"]["modules"]["adversary.discriminator"].items():
        assert torch.equal(tensor, other["networks"]["modules"]["adversary.discriminator"][name])
    first, second = (state["training"]["attributes"]["boosting_state"] for state in (one, other))
    assert first["rounds"]["current"].tolist() == second["rounds"]["current"].tolist()
    assert first["learners"].keys() == second["learners"].keys()


class Unmoved(AILBoost):
    """Its critics learn what they say already, but for a constant."""

    def critic_objective(self, critic, step):
        q_values = self.q_values(critic, step.batch.observations, step.batch.actions)
        loss = torch.stack([(q - q.detach() - step.batch.rewards).square().mean() for q in q_values]).sum()
        return loss, {"critic_loss": loss.detach()}


def collected_by(algorithm, seed=0, function=False, **settings):
    """In its second improvement, with a discriminator that was trained; its steps, as a function of tensors or not."""
    model = small(algorithm, seed=seed, **settings)
    if function:
        model._mode = lambda parts: "eager"
    return model.learn(140)


@pytest.mark.parametrize("options", [{}, {"n_steps": 2}, {"relabel": False}], ids=["", "n_steps", "stale"])
def test_the_step_as_a_function_of_tensors_is_the_step(options):
    """Rewards come from the discriminator inside the step."""
    whole, function = collected_by(AILBoost, **options), collected_by(AILBoost, function=True, **options)
    assert whole.update is None and function.update is not None
    assert torch.allclose(parameters(whole), parameters(function), atol=1e-5)


def test_seeds_that_train_together_have_each_its_discriminator():
    together = Lockstep([lambda seed=seed: collected_by(AILBoost, seed, function=True) for seed in (1, 2)]).run()
    assert together[0].update is together[1].update is not None
    for seed, model in zip((1, 2), together, strict=True):
        assert torch.allclose(parameters(model), parameters(collected_by(AILBoost, seed)), atol=1e-5)
    assert not torch.allclose(parameters(together[0]), parameters(together[1]))


@pytest.mark.parametrize("way", ["eager", "function", pytest.param("compiled", marks=needs_compiler)])
def test_a_critics_loss_that_is_changed_once_holds_in_every_mode(way):
    model = collected_by(Unmoved, function=way == "function")
    model.compile = "on" if way == "compiled" else "off"
    rows = model.replay_buffer.sample_rows(16)
    model.replay_buffer.sample_rows = lambda batch_size: rows
    rewards = model.adversary.reward(model.replay_buffer.transitions(rows))
    super(AILBoost, model).train(1, 16)
    logged = model.logger.name_to_value["train/critic_loss"]
    assert (model.update is None) is (way == "eager")
    assert logged == pytest.approx(2 * rewards.square().mean().item(), rel=1e-4)


def test_a_loaded_model_predicts_and_asks_for_demonstrations_before_it_trains(tmp_path):
    model = small().learn(150)
    path = save_checkpoint(model, tmp_path)
    loaded = rlopt.load(path)
    observations = np.array([[0.3, 0.1]], np.float32)
    assert np.array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    assert loaded.rounds.rows.learner_ids == model.rounds.rows.learner_ids
    assert loaded.predict(observations, policy="mixture")[0].shape == (1, 1)
    loaded.set_env(rlopt.make_env("rlopt/RandomTarget-v0", n_envs=1, seed=3, backend="gymnasium"))
    with pytest.raises(ConfigError, match="set_demonstrations"):
        loaded.learn(10)
    loaded.set_demonstrations(expert_of_random_target())
    loaded.learn(150)  # its replay is empty: the learners without rows make place for new ones
    assert loaded.rounds.n_rounds > 3
    assert loaded.rounds.rows.row_weights()[0].max() < 150


def test_a_loaded_model_can_have_another_number_of_environments(tmp_path):
    path = save_checkpoint(small().learn(60), tmp_path)
    env = rlopt.make_env("rlopt/RandomTarget-v0", n_envs=2, seed=3, backend="gymnasium")
    loaded = rlopt.load(path, env=env)
    loaded.set_demonstrations(expert_of_random_target())
    loaded.learn(120)
    assert loaded.rounds.rows.row_weights()[0].max() < 120


@pytest.mark.parametrize(("name", "value"), [("kl_coef", 0.1), ("value_network", True), ("tsallis_q", 1.5)])
def test_checkpoints_of_version_0_1_are_read_unless_a_setting_that_is_gone_mattered(tmp_path, name, value):
    """There AILBoost and DAC had off-policy MDPO's settings, here as such a checkpoint has them."""
    model = small().learn(60)
    description = read_checkpoint(save_checkpoint(model, tmp_path)).trees["model"]
    without_effect = {
        "kl_coef": 0.0, "kl_unit": "reward", "tsallis_q": 1.0, "old_policy_period": 1000, "value_network": False,
        "actor_q": "min", "deterministic_behaviour": False, "critic_log_prob_bound": None, "log_density_floor": None,
        "mean_penalty": 0.0, "log_std_penalty": 0.0, "analytic_kl": False,
    }  # fmt: skip
    description["settings"] |= without_effect
    assert type(rebuild_model(description, device="cpu")) is AILBoost
    description["settings"][name] = value
    with pytest.raises(CheckpointError, match=rf"{name} = .*read it with rlopt 0\.1"):
        rebuild_model(description, device="cpu")


def test_resuming_with_other_demonstrations_is_refused(tmp_path):
    model = small()
    model.boundary_hook = lambda learner: learner.num_timesteps < 60
    model.learn(100)
    trees = read_checkpoint(save_checkpoint(model, tmp_path)).trees
    env = rlopt.make_env("rlopt/RandomTarget-v0", n_envs=1, seed=3, backend="gymnasium")
    other = AILBoost("MlpPolicy", env, expert_of_random_target(2), **SMALL)
    with pytest.raises(ConfigError, match="other demonstrations"):
        learn_from(other, trees, 100)


def test_malformed_boosting_state_is_refused(tmp_path):
    model = small()
    model.boundary_hook = lambda learner: learner.num_timesteps < 90
    model.learn(100)
    for spoil in (
        lambda state: state["rounds"].update(phase="lunch"),
        lambda state: state["rounds"].update(steps=-1),
        lambda state: state["learners"].pop("0"),
        lambda state: state["learners"]["0"].update(extra=np.zeros(1)),
        lambda state: state["rounds"]["rows"].update(masses=np.array([2.0])),
        lambda state: state["rounds"].update(current=np.array([1000])),
        lambda state: state.pop("rounds"),
    ):
        trees = capture_state(model)
        spoil(trees["training"]["attributes"]["boosting_state"])
        with pytest.raises(CheckpointError):
            learn_from(small(), trees, 100)


def test_a_discriminator_that_diverges_is_named_and_left_as_it_was():
    model = small(discriminator_output="none")
    model.learn(40)
    with torch.no_grad():
        model.adversary.discriminator.network[-1].bias.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="the discriminator diverged"):
        model.learn(60, reset_num_timesteps=False)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"weighting": "constnat"}, UnknownNameError, "did you mean 'constant'"),
        ({"learner_steps": -1}, ConfigError, "learner_steps"),
        ({"policy_steps": 0}, ConfigError, "policy_steps"),
        ({"mixture_weight": 0.0}, ConfigError, "mixture_weight"),
        ({"reward_form": "gail"}, ConfigError, "js"),
        ({"divergence": "kl"}, UnknownNameError, "divergence"),
        ({"divergence": "waserstein"}, UnknownNameError, "did you mean 'wasserstein'"),
        ({"output_bound": 0}, ConfigError, r"output_bound = 0.0 is outside \(0, inf\)"),
        ({"normalize_inputs": "no"}, ConfigError, "normalize_inputs = 'no' is not true or false"),
        ({"relabel": 1}, ConfigError, "relabel = 1 is not true or false"),
        ({"absorbing": None}, ConfigError, "absorbing = none is not true or false"),
        ({"truncated_mass": 1}, ConfigError, r"outside \[0, 1\)"),
        ({"discriminator_input": "state_actoin"}, UnknownNameError, "did you mean 'state_action'"),
        ({"discriminator_output": "tan"}, UnknownNameError, "did you mean 'tanh'"),
        ({"discriminator_net_arch": (64, 0)}, ConfigError, r"0 is outside \[1, 65536\]"),
        ({"gradient_penalty": -1.0}, ConfigError, "gradient_penalty"),
        ({"kl_coef": 0.1}, ConfigError, "kl_coef"),
        ({"gamma": 1.0}, ConfigError, "absorbing"),
        ({"n_demonstrations": 4}, DataError, "there are 3"),
        ({"replay_buffer_class": "replay"}, ConfigError, "device"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        small(**settings)


def test_dict_observations_and_normalised_ones_are_refused():
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    with pytest.raises(SpaceError, match="flat"):
        AILBoost("MultiInputPolicy", _dict_env(), None, **SMALL)
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("rlopt/RandomTarget-v0")]))
    with pytest.raises(ConfigError, match="normalize"):
        AILBoost("MlpPolicy", env, expert_of_random_target(), **SMALL).learn(1)


def _dict_env() -> Any:
    class Wrapped(gymnasium.ObservationWrapper):
        def __init__(self) -> None:
            super().__init__(gymnasium.make("rlopt/RandomTarget-v0"))
            self.observation_space = spaces.Dict({"state": self.env.observation_space})

        def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
            return {"state": observation}

    return Wrapped()
