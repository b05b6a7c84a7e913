"""Tasks as tensor functions against dm_control, on the states of dm_control's own physics."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch
from dm_control import suite
from dm_control.mujoco import Physics

from rlopt.envs.dmc import flatten
from rlopt.envs.suite.load import load_task, obstacle
from rlopt.envs.suite.task import Draw, Worlds, begin, near
from rlopt.envs.suite.tasks import TASKS
from rlopt.envs.tables import DM_CONTROL_TASKS
from rlopt.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _models_compiled_once():
    """Most of the time of ``suite.load`` is spent on compiling what several tasks of a domain share."""
    whole, compiled = Physics.from_xml_string.__func__, {}

    def from_xml_string(cls, xml, assets=None):
        if (cls, xml) not in compiled:
            compiled[cls, xml] = whole(cls, xml, assets)
        return compiled[cls, xml].copy(share_model=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Physics, "from_xml_string", classmethod(from_xml_string))
        yield


def worlds_of(physics, name: str) -> Worlds:
    """The one world that ``physics`` holds."""
    data = physics.data
    names = [field.name for field in dataclasses.fields(Worlds) if field.name != "goal"]
    parts = {name: torch.tensor(np.array(getattr(data, name)))[None] for name in names}
    parts["xmat"] = parts["xmat"].unflatten(2, (3, 3))
    return Worlds(**parts, goal=torch.tensor(np.array(goal_of(physics, name)))[None])


def goal_of(physics, name: str) -> np.ndarray:
    if name.startswith("reacher"):
        return physics.named.model.geom_pos["target", :2]
    if name.startswith("finger"):
        return physics.named.model.site_pos["target"][[0, 2]]
    return physics.model.wrap_prm if name.startswith("point_mass") else np.zeros(0)


@pytest.mark.parametrize("name", TASKS)
def test_observations_and_rewards_are_dm_controls(name):
    domain, _, task_name = name.partition("-")
    env = suite.load(domain, task_name, task_kwargs={"random": 3})
    loaded, random = load_task(name, CPU), np.random.RandomState(0)
    rewards = []
    for _ in range(2):
        given = env.reset()
        for step in range(16):
            expected = flatten(given.observation)
            worlds = worlds_of(env.physics, name)
            seen = loaded.task.observe(worlds)
            np.testing.assert_allclose(seen[0].float().numpy(), expected, rtol=1e-5, atol=1e-6)
            if given.reward is not None:
                rewards.append(given.reward)
                np.testing.assert_allclose(loaded.task.reward(worlds)[0], given.reward, atol=1e-6)
            # The first half of an episode without action, in which more is rewarded.
            action = random.uniform(loaded.low, loaded.high) * (step > 8)
            given = env.step(action)
    assert loaded.substeps == env._n_sub_steps


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith(("humanoid", "quadruped"))])
def test_rewards_near_the_goal(name):
    """States at which a sparse reward is 1 as often as 0, that random actions do not reach."""
    domain, _, task_name = name.partition("-")
    env = suite.load(domain, task_name, task_kwargs={"random": 1})
    task, random, physics = load_task(name, CPU).task, np.random.RandomState(0), env.physics
    given = []
    for _ in range(60):
        env.reset()
        scale = random.choice([1e-3, 0.03, 0.3, 1.0])
        with physics.reset_context():
            physics.data.qpos[:] = physics.model.key_qpos[0] if physics.model.nkey else physics.model.qpos0
            physics.data.qpos[:] += scale * random.randn(physics.model.nq)
            physics.data.qvel[:] = 20 * scale * random.randn(physics.model.nv)
        if domain == "reacher":
            physics.named.model.geom_pos["target", :2] = physics.named.data.geom_xpos["finger", :2] + scale / 3
            physics.forward()
        if domain == "ball_in_cup" and scale < 0.1:
            physics.named.data.qpos[["ball_x", "ball_z"]] += physics.ball_to_target()
            physics.forward()
        given.append(env.task.get_reward(physics))
        np.testing.assert_allclose(task.reward(worlds_of(physics, name))[0], given[-1], atol=1e-6)
    assert len(set(np.round(given, 6))) > 1, "every state had the same reward"


def test_near_is_dm_controls_tolerance():
    from dm_control.utils.rewards import tolerance

    x = np.linspace(-4, 4, 81)
    for ours, theirs in {"bell": "gaussian", "linear": "linear", "quadratic": "quadratic"}.items():
        for low, high, margin, least in ((0, 0, 1, 0.1), (-1, 0.5, 2, 0.3), (0.5, math.inf, 0.7, 0.5), (-1, 1, 0, 0.1)):
            expected = tolerance(x, (low, high), margin, theirs, least)
            got = near(torch.tensor(x), low, high, margin, least, ours)
            np.testing.assert_allclose(got, expected, atol=1e-12)


def contacts(model):
    """Whether MuJoCo finds a contact at positions (n, nq)."""
    import mujoco

    data = mujoco.MjData(model)

    def touching(qpos: torch.Tensor) -> torch.Tensor:
        found = []
        for row in qpos.numpy():
            data.qpos[:], data.qvel[:] = row, 0
            mujoco.mj_fwdPosition(model, data)
            found.append(data.ncon > 0)
        return torch.tensor(found)

    return touching


STARTS = [
    *("acrobot-swingup", "ball_in_cup-catch", "cartpole-balance", "cartpole-swingup", "cartpole-three_poles"),
    *("finger-turn_easy", "hopper-hop", "humanoid-walk", "pendulum-swingup", "point_mass-easy", "point_mass-hard"),
    *("quadruped-walk", "quadruped-fetch", "reacher-hard", "walker-run"),
]
"""A task of each way to begin, but the cheetah's, for which a simulator is needed."""


@pytest.mark.parametrize("name", STARTS)
def test_initial_states_have_dm_controls_distribution(name):
    domain, _, task_name = name.partition("-")
    env = suite.load(domain, task_name, task_kwargs={"random": 5})
    loaded, count = load_task(name, CPU), 40 if domain == "quadruped" else 300
    expected = []
    for _ in range(count):
        env.reset()
        data = env.physics.data
        expected.append(np.concatenate([data.qpos, data.qvel, goal_of(env.physics, name)]))
    draw = Draw(torch.Generator().manual_seed(0), 2 * count)
    start = begin(loaded.task, draw, torch.ones(draw.count, dtype=bool), contacts(loaded.model))
    parts = [start.qpos, start.qvel, start.goal]
    # Whether something touches at one height is decided by rounding: the next may be taken.
    assert_alike(torch.cat(parts, dim=1).numpy(), np.stack(expected), loaded.task.lift * 1.01 or 1e-5)


def assert_alike(got: np.ndarray, expected: np.ndarray, step: float) -> None:
    """Coordinates, and products of neighbours, by the two-sample test of Kolmogorov and Smirnov.

    :param step: within which constants agree
    """
    assert got.shape[1] == expected.shape[1]
    for column in range(got.shape[1]):
        ours, theirs = got[:, column], expected[:, column]
        if np.ptp(theirs) < 1e-9:
            np.testing.assert_allclose(ours, theirs[0], rtol=0, atol=step)
        else:
            assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-4, f"coordinate {column}"
    for first, second in zip(range(got.shape[1] - 1), range(1, got.shape[1]), strict=True):
        ours, theirs = (table[:, first] * table[:, second] for table in (got, expected))
        if np.ptp(theirs) > 1e-9:
            assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-4, f"coordinates {first} and {second}"


def test_starts_without_contact_are_drawn_again_only_where_chosen():
    loaded = load_task("ball_in_cup-catch", CPU)
    asked = []

    def touching(qpos):
        asked.append(qpos.clone())
        return torch.tensor([len(asked) < 3, False, True])

    start = begin(loaded.task, Draw(torch.Generator().manual_seed(0), 3), torch.tensor([True, True, False]), touching)
    assert len(asked) == 3
    assert torch.equal(asked[0][1:], asked[2][1:]) and not torch.equal(asked[0][0], asked[1][0])
    assert torch.equal(start.qpos, asked[2])


def test_other_tasks_give_the_reason():
    missing = [name for name in DM_CONTROL_TASKS if obstacle(name)]
    assert set(missing) == set(DM_CONTROL_TASKS) - set(TASKS)
    with pytest.raises(ConfigError, match="terrain is drawn anew"):
        load_task("quadruped-escape", CPU)
