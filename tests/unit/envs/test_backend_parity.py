"""EnvPool's tasks against their references, both simulators driven from the same state with the same actions.

EnvPool links MuJoCo 3.6.0, so results differ from the current MuJoCo by rounding first and by chaos later: the first
step is compared closely, later ones loosely. Positions that the observation leaves out are free where the task does
not depend on them (root x, yaw).
"""

import math

import gymnasium
import numpy as np
import pytest

pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'rlopt[fast]'")

from rlopt.envs import names, rendering
from rlopt.envs.backends.envpool_vec import EnvPoolVecEnv
from rlopt.envs.settings import EnvSettings
from rlopt.envs.tables import DM_CONTROL_EPISODE_STEPS, DM_CONTROL_TASKS, POOL_TASKS

rendering.prepare_state()
N = 2
DM_TASKS = [env_id for env_id in POOL_TASKS if names.is_dm_control(env_id)]
MAZES = [env_id for env_id in POOL_TASKS if env_id.startswith("PointMaze_")]
GYM_TASKS = [env_id for env_id in POOL_TASKS if env_id not in DM_TASKS + MAZES and env_id != "parking-v0"]


def make_pool(env_id):
    env = EnvPoolVecEnv(EnvSettings(id=env_id, n_envs=N, seed=5, backend="envpool", num_threads=1))
    env.reset()
    return env, env.pool.reset()[0]


def load_dm(env_id):
    from dm_control import suite

    domain, task = env_id.removeprefix("dm_control/").split("-")
    return suite.load(domain, task, task_kwargs={"random": 0})


def planar_joints(physics, angle_of):
    """Sets hinge joints so that every body has the absolute planar angle given for it."""
    model = physics.model
    for joint in range(model.njnt):
        if model.jnt_type[joint] != 3:
            continue
        body = model.jnt_bodyid[joint]
        parent = angle_of.get(int(model.body_parentid[body]), 0.0)
        turned = model.jnt_axis[joint][1] * (angle_of[int(body)] - parent)
        physics.data.qpos[model.jnt_qposadr[joint]] = math.remainder(turned, 2 * math.pi)


def rotation_with_third_row(row):
    """A quaternion of a rotation matrix whose third row is ``row``; the yaw that this leaves open does not matter."""
    import mujoco

    row = np.asarray(row) / np.linalg.norm(row)
    first = np.cross(row, [1.0, 0.0, 0.0] if abs(row[0]) < 0.9 else [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first)
    matrix = np.stack([first, np.cross(row, first), row])
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, matrix.ravel())
    return quaternion


def set_walker(physics, obs):
    # Rotation about y by a: xx = cos a, xz = sin a.
    turns = obs["orientations"].reshape(7, 2)
    planar_joints(physics, {body + 1: math.atan2(xz, xx) for body, (xx, xz) in enumerate(turns)})
    height = physics.named.model.body_pos["torso", "z"]
    physics.named.data.qpos["rootz"] = float(np.ravel(obs["height"])[0]) - height
    physics.data.qvel[:] = obs["velocity"]


def set_acrobot(physics, obs):
    horizontal, vertical = obs["orientations"].reshape(2, 2)
    ids = [physics.model.name2id(name, "body") for name in ("upper_arm", "lower_arm")]
    planar_joints(physics, {body: math.atan2(x, z) for body, x, z in zip(ids, horizontal, vertical, strict=True)})
    physics.data.qvel[:] = obs["velocity"]


def set_free_x(physics, obs):
    physics.data.qpos[1:] = obs["position"]
    physics.data.qvel[:] = obs["velocity"]


def set_direct(physics, obs):
    physics.data.qpos[: len(obs["position"])] = obs["position"]
    physics.data.qvel[:] = obs["velocity"]


def set_cartpole(physics, obs):
    x, cosine, sine = obs["position"]
    physics.data.qpos[:] = x, math.atan2(sine, cosine)
    physics.data.qvel[:] = obs["velocity"]


def set_pendulum(physics, obs):
    cosine, sine = obs["orientation"]
    physics.data.qpos[:] = math.atan2(sine, cosine)
    physics.data.qvel[:] = obs["velocity"]


def set_finger(physics, obs):
    proximal, distal, tip_x, tip_z = obs["position"]
    # The spinner turns about -y and its tip points up at angle 0.
    physics.data.qpos[:] = proximal, distal, math.atan2(-tip_x, tip_z)
    physics.data.qvel[:] = obs["velocity"]
    if np.any(obs["target_position"]):
        hinge = physics.named.model.body_pos["spinner"]
        target = obs["target_position"] + hinge[[0, 2]]
        physics.named.model.site_pos["target", ["x", "z"]] = target


def set_reacher(physics, obs):
    physics.data.qpos[:] = obs["position"]
    physics.data.qvel[:] = obs["velocity"]
    physics.forward()
    finger = physics.named.data.geom_xpos["finger", :2].copy()
    physics.named.model.geom_pos["target", ["x", "y"]] = finger + obs["to_target"]


def set_humanoid(physics, obs):
    if np.any(obs["position"]):
        physics.data.qpos[:] = obs["position"]
    else:
        # Only run_pure_state shows the position; the others start at rest, with a yaw that does not matter.
        physics.data.qpos[:3] = 0.0
        physics.data.qpos[3:7] = rotation_with_third_row(obs["torso_vertical"])
        physics.data.qpos[7:] = obs["joint_angles"]
        physics.forward()
        physics.data.qpos[2] = float(np.ravel(obs["head_height"])[0]) - physics.named.data.xpos["head", "z"]
    physics.data.qvel[:] = obs["velocity"]


def set_quadruped(physics, obs):
    # origin = -R^T p with p = (0, 0, z): z times minus the third row of R.
    origin = obs["origin"]
    physics.data.qpos[:3] = 0.0, 0.0, np.linalg.norm(origin)
    physics.data.qpos[3:7] = rotation_with_third_row(-origin)
    joints = obs["egocentric_state"]
    physics.data.qpos[7:] = joints[:16]
    physics.data.qvel[6:] = joints[16:32]
    physics.data.act[:] = joints[32:]


SETTERS = {
    "acrobot": set_acrobot,
    "ball_in_cup": set_direct,
    "cartpole": set_cartpole,
    "cheetah": set_free_x,
    "finger": set_finger,
    "hopper": set_free_x,
    "humanoid": set_humanoid,
    "pendulum": set_pendulum,
    "point_mass": set_direct,
    "quadruped": set_quadruped,
    "reacher": set_reacher,
    "walker": set_walker,
}


def without_yaw(obs):
    """The parts of a humanoid's observation that do not turn with it: horizontal vectors by their length."""
    kept = dict(obs)
    for key in ("com_velocity", "velocity"):
        kept[key] = np.r_[np.linalg.norm(obs[key][:2]), obs[key][2:]]
    return kept


YAW_IS_HIDDEN = ("humanoid-stand", "humanoid-walk", "humanoid-run", "quadruped-walk", "quadruped-run")
"""Contact friction acts along the world's axes, so these can be compared until they first touch something."""


def close(pool_values, reference, tolerance, what):
    # Relative where values are large: a humanoid's contact forces go into the hundreds.
    reference = np.asarray(reference)
    error = np.max(np.abs(np.asarray(pool_values) - reference) / np.maximum(1.0, np.abs(reference)))
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance:.0e}"


@pytest.mark.parametrize("env_id", DM_TASKS)
def test_dm_control_task(env_id):
    env, observation = make_pool(env_id)
    keys = POOL_TASKS[env_id].keys
    task = env_id.removeprefix("dm_control/")
    domain, hidden_yaw = task.split("-")[0], task in YAW_IS_HIDDEN
    dm_env = load_dm(env_id)
    assert tuple(dm_env.observation_spec()) == keys
    # dm_control ends an episode after time_limit / control_timestep steps.
    assert dm_env._step_limit == DM_CONTROL_EPISODE_STEPS == POOL_TASKS[env_id].episode_steps
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (10, N, *env.action_space.shape)).astype(np.float32)
    actions = np.clip(actions, env.action_space.low, env.action_space.high)
    trajectory = [env.pool.step(action) for action in actions]

    def vector(obs):
        parts = {key: np.ravel(obs[key]) for key in keys}
        if domain == "humanoid" and hidden_yaw:
            parts = without_yaw(parts)
        return np.concatenate(list(parts.values()))

    compared = 0
    for index in range(N):
        dm_env.reset()
        with dm_env.physics.reset_context():
            SETTERS[domain](dm_env.physics, {key: value[index] for key, value in observation.items()})
        start = dm_env.task.get_observation(dm_env.physics)
        close(vector({key: observation[key][index] for key in keys}), vector(start), 1e-9, "reset")
        for step, (obs, reward, terminated, truncated, _) in enumerate(trajectory):
            expected = dm_env.step(actions[step, index].astype(np.float64))
            assert not terminated[index] and not truncated[index] and not expected.last()
            if hidden_yaw and dm_env.physics.data.ncon:
                break
            tolerance = 1e-6 if step == 0 else 1e-3
            found = vector({key: obs[key][index] for key in keys})
            close(found, vector(expected.observation), tolerance, f"step {step + 1}")
            close(reward[index], expected.reward, 1e-5 if step == 0 else 1e-4, f"reward {step + 1}")
            compared += 1
    assert compared >= N


def test_every_suite_task_is_listed():
    from dm_control import suite

    assert {f"{domain}-{task}" for domain, task in suite.ALL_TASKS} == set(DM_CONTROL_TASKS)


GYM_STATES = {
    # observation -> qpos, qvel
    "HalfCheetah-v5": lambda o: (np.r_[0.0, o[:8]], o[8:17]),
    "Hopper-v5": lambda o: (np.r_[0.0, o[:5]], o[5:11]),
    "Walker2d-v5": lambda o: (np.r_[0.0, o[:8]], o[8:17]),
    "Swimmer-v5": lambda o: (np.r_[0.0, 0.0, o[:3]], o[3:8]),
    "Ant-v5": lambda o: (np.r_[0.0, 0.0, o[:13]], o[13:27]),
    "Humanoid-v5": lambda o: (np.r_[0.0, 0.0, o[:22]], o[22:45]),
    "HumanoidStandup-v5": lambda o: (np.r_[0.0, 0.0, o[:22]], o[22:45]),
    "InvertedPendulum-v5": lambda o: (o[:2], o[2:4]),
    "InvertedDoublePendulum-v5": lambda o: (np.r_[o[0], np.arctan2(o[1], o[3]), np.arctan2(o[2], o[4])], o[5:8]),
    "Reacher-v5": lambda o: (np.r_[np.arctan2(o[2:4], o[:2]), o[4:6]], np.r_[o[6:8], 0.0, 0.0]),
}
ONE_STEP = {"Humanoid-v5": 1e-2, "HumanoidStandup-v5": 1e-2}


@pytest.mark.parametrize("env_id", GYM_TASKS)
def test_gymnasium_task(env_id):
    env, observation = make_pool(env_id)
    reference = gymnasium.make(env_id, disable_env_checker=True)
    assert reference.spec.max_episode_steps == POOL_TASKS[env_id].episode_steps
    assert env.action_space.shape == reference.action_space.shape
    np.testing.assert_array_equal(env.action_space.high, reference.action_space.high)
    rng = np.random.default_rng(1)
    actions = rng.uniform(env.action_space.low, env.action_space.high, (40, N, *env.action_space.shape))
    actions = actions.astype(np.float32)
    trajectory = [env.pool.step(action) for action in actions]
    ends = 0
    for index in range(N):
        reference.reset(seed=0)
        base = reference.unwrapped
        qpos, qvel = GYM_STATES[env_id](observation[index])
        base.set_state(qpos, qvel)
        dense = ONE_STEP.get(env_id, 1e-9)
        for step, (obs, reward, terminated, truncated, _) in enumerate(trajectory):
            expected, expected_reward, expected_end, _, _ = reference.step(actions[step, index])
            tolerance = dense if step == 0 else max(1e-5, 100 * dense)
            if step < 10:
                close(obs[index], expected, tolerance, f"step {step + 1}")
                close(reward[index], expected_reward, 1e-5 if step == 0 else 1e-3, f"reward {step + 1}")
            assert (bool(terminated[index]), bool(truncated[index])) == (expected_end, False), f"end at {step + 1}"
            if expected_end:
                ends += 1
                break
    assert ends or env_id not in ("Humanoid-v5", "InvertedDoublePendulum-v5"), "no episode ended: nothing compared"


@pytest.mark.parametrize("env_id", MAZES)
def test_point_maze(env_id):
    gymnasium_robotics = pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    gymnasium.register_envs(gymnasium_robotics)
    env, observation = make_pool(env_id)
    reference = gymnasium.make(env_id, disable_env_checker=True)
    assert reference.spec.max_episode_steps == POOL_TASKS[env_id].episode_steps
    # Held for ten steps each, the actions drive the ball into walls.
    directions = np.random.default_rng(2).uniform(-1.0, 1.0, (8, N, 2)).astype(np.float32)
    actions = np.repeat(directions, 10, axis=0)
    trajectory = [env.pool.step(action) for action in actions]
    for index in range(N):
        reference.reset(seed=0)
        base = reference.unwrapped
        base.goal = observation["desired_goal"][index].copy()
        base.update_target_site_pos()
        base.point_env.set_state(observation["observation"][index, :2], observation["observation"][index, 2:])
        for step, (obs, reward, terminated, _, info) in enumerate(trajectory):
            expected, expected_reward, expected_end, _, expected_info = reference.step(actions[step, index])
            for key, values in expected.items():
                close(obs[key][index], values, 1e-9 if step == 0 else 1e-5, f"{key} {step + 1}")
            close(reward[index], expected_reward, 1e-6, f"reward {step + 1}")
            assert bool(terminated[index]) == expected_end
            assert bool(info["success"][index]) == expected_info["success"]
    env.close()


def test_parking():
    pytest.importorskip("highway_env")
    from rlopt.agents.guda.goal_domains import Parking

    env, observation = make_pool("parking-v0")
    simulator = Parking().simulator()
    assert simulator.env.unwrapped.config["duration"] * 5 == POOL_TASKS["parking-v0"].episode_steps
    rng = np.random.default_rng(0)
    running, compared = np.ones(N, bool), 0
    for _ in range(80):
        actions = rng.uniform(-1.0, 1.0, (N, 2)).astype(np.float32)
        following, reward, terminated, truncated, _ = env.pool.step(actions)
        for index in np.flatnonzero(running):
            row = np.concatenate([observation[key][index] for key in ("observation", "desired_goal")])
            expected, expected_reward = simulator.transition(row, actions[index])
            found = np.concatenate([following[key][index] for key in ("observation", "desired_goal")])
            close(found, expected, 1e-12, "step")
            close(reward[index], expected_reward, 1e-6, "reward")
            assert terminated[index] == simulator.env.unwrapped._is_terminated() and not truncated[index]
            compared += 1
        running &= ~terminated
        observation = {key: value.copy() for key, value in following.items()}
    assert compared > 50
    achieved, desired = (rng.normal(size=(9, 6)) for _ in range(2))
    theirs = [simulator.env.unwrapped.compute_reward(a, d, {}) for a, d in zip(achieved, desired, strict=True)]
    assert np.allclose(env.env_method("compute_reward", achieved, desired, {})[0], theirs, rtol=1e-12)
