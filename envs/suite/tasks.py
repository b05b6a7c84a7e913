"""The tasks of dm_control that can be simulated for many worlds at once."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import mujoco
import torch
from torch import Tensor

from rlopt.envs.suite.task import Draw, Start, Task, Worlds, in_frame, near, small_control

INFINITY = math.inf


class Cartpole(Task):
    """A cart with one pole or several on it."""

    def __init__(self, model: mujoco.MjModel, device: torch.device, *, swing_up: bool, sparse: bool = False) -> None:
        super().__init__(model, device)
        self.swing_up, self.sparse = swing_up, sparse

    def start(self, draw: Draw) -> Start:
        poles = self.model.nv - 1
        if self.swing_up:
            hanging = torch.cat([draw.normal(2) * 0.01, draw.normal(poles - 1) * 0.1], dim=1)
            qpos = hanging + self.tensor([0.0, math.pi] + [0.0] * (poles - 1))
        else:
            qpos = torch.cat([draw.uniform(-0.1, 0.1, 1), draw.uniform(-0.034, 0.034, poles)], dim=1)
        return self.started(draw, qpos, 0.01 * draw.normal(self.model.nv))

    def observe(self, worlds: Worlds) -> Tensor:
        poles = worlds.xmat[:, 2:]
        angles = torch.stack([poles[:, :, 2, 2], poles[:, :, 0, 2]], dim=2).flatten(1)
        return torch.cat([worlds.qpos[:, :1], angles, worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        cart, cosines = worlds.qpos[:, 0], worlds.xmat[:, 2:, 2, 2]
        if self.sparse:
            return near(cart, -0.25, 0.25) * near(cosines, 0.995, 1).prod(dim=1)
        upright = ((cosines + 1) / 2).mean(dim=1)
        centered = (1 + near(cart, 0, 0, 2)) / 2
        slow = (1 + near(worlds.qvel[:, 1:], 0, 0, 5).amin(dim=1)) / 2
        return upright * small_control(worlds) * slow * centered


class Pendulum(Task):
    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        super().__init__(model, device)
        self._pole = self.body("pole")

    def observe(self, worlds: Worlds) -> Tensor:
        pole = worlds.xmat[:, self._pole]
        return torch.cat([pole[:, 2, 2:], pole[:, 0, 2:], worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        return near(worlds.xmat[:, self._pole, 2, 2], math.cos(math.radians(8)), 1)


class Acrobot(Task):
    def __init__(self, model: mujoco.MjModel, device: torch.device, *, sparse: bool) -> None:
        super().__init__(model, device)
        self._arms = [self.body("upper_arm"), self.body("lower_arm")]
        self._target, self._tip = self.site("target"), self.site("tip")
        self._radius, self._margin = float(model.site_size[self._target, 0]), 0 if sparse else 1

    def observe(self, worlds: Worlds) -> Tensor:
        arms = worlds.xmat[:, self._arms]
        return torch.cat([arms[:, :, 0, 2], arms[:, :, 2, 2], worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        gap = worlds.site_xpos[:, self._target] - worlds.site_xpos[:, self._tip]
        return near(gap.norm(dim=1), 0, self._radius, self._margin)


class PointMass(Task):
    """A point moved to the middle; in the hard task each action pushes in a direction of its own."""

    goal_size = 4
    """The directions of the two actions, one after the other."""

    def __init__(self, model: mujoco.MjModel, device: torch.device, *, hard: bool) -> None:
        super().__init__(model, device)
        self.hard = hard
        # Mixed actions may exceed the bounds of one: those of the actions themselves are kept by who gives them.
        model.actuator_ctrllimited[:] = 0
        # The directions are worlds' own, which the coefficients of the tendons, one model's, cannot be.
        model.wrap_prm[:] = [1, 0, 0, 1]
        self._target, self._mass = self.geom("target"), self.geom("pointmass")
        self._radius = float(model.geom_size[self._target, 0])

    def start(self, draw: Draw) -> Start:
        qpos, goal = self.random_joints(draw), self.tensor([1, 0, 0, 1]).expand(draw.count, -1)
        if self.hard:
            # The angle between two uniform directions is uniform: it is drawn where they are not too parallel.
            first, least = draw.direction(2), math.acos(0.9)
            angle = draw.uniform(least, math.pi - least, 1)
            side = torch.where(draw.uniform(0.0, 1.0, 1) < 0.5, -1.0, 1.0)
            across = torch.stack([-first[:, 1], first[:, 0]], dim=1) * side
            goal = torch.cat([first, torch.cos(angle) * first + torch.sin(angle) * across], dim=1)
        return self.started(draw, qpos, goal=goal)

    def control(self, actions: Tensor, goal: Tensor) -> Tensor:
        # Row i of wrap_prm's table is tendon i, which action i pulls: joint j gets sum_i action_i * row_ij.
        return torch.einsum("ni,nij->nj", actions, goal.unflatten(1, (2, 2)))

    def observe(self, worlds: Worlds) -> Tensor:
        return torch.cat([worlds.qpos, worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        distance = (worlds.geom_xpos[:, self._target] - worlds.geom_xpos[:, self._mass]).norm(dim=1)
        return near(distance, 0, self._radius, self._radius) * small_control(worlds)


class Reacher(Task):
    goal_size = 2
    """The target's x and y."""

    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        super().__init__(model, device)
        self._finger = self.geom("finger")
        self._radius = float(model.geom_size[[self._finger, self.geom("target")], 0].sum())

    def start(self, draw: Draw) -> Start:
        qpos, angle, radius = self.random_joints(draw), draw.uniform(0, 2 * math.pi, 1), draw.uniform(0.05, 0.2, 1)
        return self.started(draw, qpos, goal=radius * torch.cat([torch.sin(angle), torch.cos(angle)], dim=1))

    def _to_target(self, worlds: Worlds) -> Tensor:
        return worlds.goal - worlds.geom_xpos[:, self._finger, :2]

    def observe(self, worlds: Worlds) -> Tensor:
        return torch.cat([worlds.qpos, self._to_target(worlds), worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        return near(self._to_target(worlds).norm(dim=1), 0, self._radius)


class BallInCup(Task):
    without_contact = True

    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        super().__init__(model, device)
        self._target, self._ball = self.site("target"), self.body("ball")
        self._x, self._z = (int(model.joint(name).qposadr[0]) for name in ("ball_x", "ball_z"))
        room = model.site_size[self._target, [0, 2]] - model.geom_size[self.geom("ball"), 0]
        self._room = self.tensor(room)

    def start(self, draw: Draw) -> Start:
        qpos = self.qpos0.repeat(draw.count, 1)
        qpos[:, self._x : self._x + 1] = draw.uniform(-0.2, 0.2, 1)
        qpos[:, self._z : self._z + 1] = draw.uniform(0.2, 0.5, 1)
        return self.started(draw, qpos)

    def observe(self, worlds: Worlds) -> Tensor:
        return torch.cat([worlds.qpos, worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        gap = (worlds.site_xpos[:, self._target] - worlds.xpos[:, self._ball])[:, [0, 2]].abs()
        return (gap < self._room).all(dim=1).to(gap.dtype)


class Cheetah(Task):
    settling_steps = 200

    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        super().__init__(model, device)
        self._speed = self.sensors("torso_subtreelinvel")[0]
        limited = self.tensor(model.jnt_limited).bool()  # every joint of the cheetah has one coordinate
        self._low, self._high = (torch.where(limited, bound, self.qpos0) for bound in (self._low, self._high))

    def observe(self, worlds: Worlds) -> Tensor:
        return torch.cat([worlds.qpos[:, 1:], worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        return near(worlds.sensordata[:, self._speed], 10, INFINITY, 10, 0, "linear")


class Hopper(Task):
    def __init__(self, model: mujoco.MjModel, device: torch.device, *, hop: bool) -> None:
        super().__init__(model, device)
        self.hop = hop
        self._torso, self._foot = self.body("torso"), self.body("foot")
        self._speed = self.sensors("torso_subtreelinvel")[0]
        self._touch = self.sensors("touch_toe", "touch_heel")

    def observe(self, worlds: Worlds) -> Tensor:
        touch = torch.log1p(worlds.sensordata[:, self._touch])
        return torch.cat([worlds.qpos[:, 1:], worlds.qvel, touch], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        height = worlds.xipos[:, self._torso, 2] - worlds.xipos[:, self._foot, 2]
        standing = near(height, 0.6, 2)
        if self.hop:
            return standing * near(worlds.sensordata[:, self._speed], 2, INFINITY, 1, 0.5, "linear")
        return standing * small_control(worlds)


class Walker(Task):
    def __init__(self, model: mujoco.MjModel, device: torch.device, *, speed: float) -> None:
        super().__init__(model, device)
        self.speed = speed
        self._torso, self._velocity = self.body("torso"), self.sensors("torso_subtreelinvel")[0]

    def observe(self, worlds: Worlds) -> Tensor:
        bodies = worlds.xmat[:, 1:]
        orientations = torch.stack([bodies[:, :, 0, 0], bodies[:, :, 0, 2]], dim=2).flatten(1)
        return torch.cat([orientations, worlds.xpos[:, self._torso, 2:], worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        standing = near(worlds.xpos[:, self._torso, 2], 1.2, INFINITY, 0.6)
        upright = (1 + worlds.xmat[:, self._torso, 2, 2]) / 2
        stands = (3 * standing + upright) / 4
        if not self.speed:
            return stands
        moving = near(worlds.sensordata[:, self._velocity], self.speed, INFINITY, self.speed / 2, 0.5, "linear")
        return stands * (5 * moving + 1) / 6


class Finger(Task):
    """A finger that spins a body, or turns it until its tip is at a target."""

    without_contact = True
    goal_size = 2
    """The target's x and z; not used where the body is spun."""

    def __init__(self, model: mujoco.MjModel, device: torch.device, *, turn: bool) -> None:
        super().__init__(model, device)
        self.turn = turn
        self._joints = self.sensors("proximal", "distal")
        self._velocities = self.sensors("proximal_velocity", "distal_velocity", "hinge_velocity")
        self._touch = self.sensors("touchtop", "touchbottom")
        self._tip, self._spinner = ([first, first + 2] for first, _, _ in map(self.sensors, ("tip", "spinner")))
        self._radius = float(model.site_size[self.site("target"), 0])
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        hinge = model.joint("hinge").id
        self._hinge, self._reach = self.tensor(data.xanchor[hinge, [0, 2]]), float(model.geom("cap1").size.sum())

    def start(self, draw: Draw) -> Start:
        angle = draw.uniform(-math.pi, math.pi, 1)
        goal = self._hinge + self._reach * torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        return self.started(draw, self.random_joints(draw), goal=goal)

    def observe(self, worlds: Worlds) -> Tensor:
        sensors = worlds.sensordata
        tip = sensors[:, self._tip] - sensors[:, self._spinner]
        touch = torch.log1p(sensors[:, self._touch])
        parts = [sensors[:, self._joints], tip, sensors[:, self._velocities], touch]
        if self.turn:
            parts += [worlds.goal - sensors[:, self._spinner], self._distance(worlds)[:, None]]
        return torch.cat(parts, dim=1)

    def _distance(self, worlds: Worlds) -> Tensor:
        """(n,), from the tip to the target's surface; negative inside."""
        return (worlds.goal - worlds.sensordata[:, self._tip]).norm(dim=1) - self._radius

    def reward(self, worlds: Worlds) -> Tensor:
        done = self._distance(worlds) <= 0 if self.turn else worlds.sensordata[:, self._velocities[2]] <= -15
        return done.to(worlds.qpos.dtype)


class Humanoid(Task):
    without_contact = True
    contacts = 96

    def __init__(self, model: mujoco.MjModel, device: torch.device, *, speed: float, pure_state: bool = False) -> None:
        super().__init__(model, device)
        self.speed, self.pure_state = speed, pure_state
        self._torso, self._head = self.body("torso"), self.body("head")
        self._limbs = [self.body(f"{side}_{limb}") for side in ("left", "right") for limb in ("hand", "foot")]
        self._velocity = self.sensors("torso_subtreelinvel")

    def observe(self, worlds: Worlds) -> Tensor:
        if self.pure_state:
            return torch.cat([worlds.qpos, worlds.qvel], dim=1)
        frame, torso = worlds.xmat[:, self._torso], worlds.xpos[:, self._torso]
        limbs = in_frame(worlds.xpos[:, self._limbs] - torso[:, None], frame).flatten(1)
        height, velocity = worlds.xpos[:, self._head, 2:], worlds.sensordata[:, self._velocity]
        return torch.cat([worlds.qpos[:, 7:], height, limbs, frame[:, 2], velocity, worlds.qvel], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        standing = near(worlds.xpos[:, self._head, 2], 1.4, INFINITY, 0.35)
        upright = near(worlds.xmat[:, self._torso, 2, 2], 0.9, INFINITY, 1.9, 0, "linear")
        stands = small_control(worlds) * standing * upright
        velocity = worlds.sensordata[:, self._velocity][:, :2]
        if not self.speed:
            return stands * near(velocity, 0, 0, 2).mean(dim=1)
        moving = near(velocity.norm(dim=1), self.speed, INFINITY, self.speed, 0, "linear")
        return stands * (5 * moving + 1) / 6


class Quadruped(Task):
    """Moves forward in its own frame."""

    lift = 0.01
    contacts = 96

    def __init__(self, model: mujoco.MjModel, device: torch.device, *, speed: float = 0.0) -> None:
        super().__init__(model, device)
        self.speed = speed
        self._torso = self.body("torso")
        hinges = [joint for joint in range(model.njnt) if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE]
        self._positions, self._velocities = model.jnt_qposadr[hinges].tolist(), model.jnt_dofadr[hinges].tolist()
        kinds = mujoco.mjtSensor
        self._torso_velocity = self.sensors("velocimeter")
        self._imu = self.sensors_of(kinds.mjSENS_GYRO, kinds.mjSENS_ACCELEROMETER)
        self._forces = self.sensors_of(kinds.mjSENS_FORCE, kinds.mjSENS_TORQUE)

    def start(self, draw: Draw) -> Start:
        qpos = self.qpos0.repeat(draw.count, 1)
        qpos[:, :3], qpos[:, 3:7] = 0.0, draw.direction(4)
        return self.started(draw, qpos)

    def observe(self, worlds: Worlds) -> Tensor:
        sensors = worlds.sensordata
        return torch.cat(
            [
                worlds.qpos[:, self._positions],
                worlds.qvel[:, self._velocities],
                worlds.act,
                sensors[:, self._torso_velocity],
                worlds.xmat[:, self._torso, 2, 2:],
                sensors[:, self._imu],
                torch.asinh(sensors[:, self._forces]),
            ],
            dim=1,
        )

    def upright(self, worlds: Worlds) -> Tensor:
        return near(worlds.xmat[:, self._torso, 2, 2], 1, INFINITY, 2, 0, "linear")

    def reward(self, worlds: Worlds) -> Tensor:
        velocity = worlds.sensordata[:, self._torso_velocity[0]]
        return self.upright(worlds) * near(velocity, self.speed, INFINITY, self.speed, 0.5, "linear")


class QuadrupedFetch(Quadruped):
    """Brings a ball to the middle."""

    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        super().__init__(model, device)
        self._ball, self._target, self._workspace = self.body("ball"), self.site("target"), self.site("workspace")
        ball = model.joint("ball_root")
        self._ball_qpos, self._ball_qvel = int(ball.qposadr[0]), int(ball.dofadr[0])
        self._floor = float(model.geom("floor").size[0])
        self._reach = float(model.site_size[self._workspace, 0] + model.geom("ball").size[0])
        self._target_radius = float(model.site_size[self._target, 0])

    def start(self, draw: Draw) -> Start:
        qpos = self.qpos0.repeat(draw.count, 1)
        half = draw.uniform(0, math.pi, 1)
        qpos[:, :2], qpos[:, 2], qpos[:, 3:7] = self._anywhere(draw), 0.0, 0.0
        qpos[:, 3:4], qpos[:, 6:7] = torch.cos(half), torch.sin(half)
        return self.started(draw, qpos)

    def placed(self, draw: Draw, start: Start) -> Start:
        at, moves = self._ball_qpos, self._ball_qvel
        start.qpos[:, at : at + 2], start.qpos[:, at + 2] = self._anywhere(draw), 2.0
        start.qvel[:, moves : moves + 2] = 5 * draw.normal(2)
        return start

    def _anywhere(self, draw: Draw) -> Tensor:
        return draw.uniform(-0.9 * self._floor, 0.9 * self._floor, 2)

    def observe(self, worlds: Worlds) -> Tensor:
        frame, torso, moves = worlds.xmat[:, self._torso], worlds.xpos[:, self._torso], self._ball_qvel
        to_ball = worlds.xpos[:, self._ball] - torso
        velocity = worlds.qvel[:, moves : moves + 3] - worlds.qvel[:, :3]
        spin = worlds.qvel[:, moves + 3 : moves + 6]
        to_target = worlds.site_xpos[:, self._target] - torso
        seen = in_frame(torch.stack([to_ball, velocity, spin, to_target], dim=1), frame)
        return torch.cat([super().observe(worlds), seen.flatten(1)], dim=1)

    def reward(self, worlds: Worlds) -> Tensor:
        ball, margin = worlds.xpos[:, self._ball, :2], self._floor * math.sqrt(2)
        to_ball = (worlds.site_xpos[:, self._workspace, :2] - ball).norm(dim=1)
        to_target = (worlds.site_xpos[:, self._target, :2] - ball).norm(dim=1)
        reach = near(to_ball, 0, self._reach, margin, 0, "linear")
        fetch = near(to_target, 0, self._target_radius, margin, 0, "linear")
        return self.upright(worlds) * reach * (0.5 + 0.5 * fetch)


MakeTask = Callable[[mujoco.MjModel, torch.device], Task]

TASKS: Mapping[str, MakeTask] = {
    "acrobot-swingup": partial(Acrobot, sparse=False),
    "acrobot-swingup_sparse": partial(Acrobot, sparse=True),
    "ball_in_cup-catch": BallInCup,
    "cartpole-balance": partial(Cartpole, swing_up=False),
    "cartpole-balance_sparse": partial(Cartpole, swing_up=False, sparse=True),
    "cartpole-swingup": partial(Cartpole, swing_up=True),
    "cartpole-swingup_sparse": partial(Cartpole, swing_up=True, sparse=True),
    "cartpole-two_poles": partial(Cartpole, swing_up=True),
    "cartpole-three_poles": partial(Cartpole, swing_up=True),
    "cheetah-run": Cheetah,
    "finger-spin": partial(Finger, turn=False),
    "finger-turn_easy": partial(Finger, turn=True),
    "finger-turn_hard": partial(Finger, turn=True),
    "hopper-stand": partial(Hopper, hop=False),
    "hopper-hop": partial(Hopper, hop=True),
    "humanoid-stand": partial(Humanoid, speed=0.0),
    "humanoid-walk": partial(Humanoid, speed=1.0),
    "humanoid-run": partial(Humanoid, speed=10.0),
    "humanoid-run_pure_state": partial(Humanoid, speed=10.0, pure_state=True),
    "pendulum-swingup": Pendulum,
    "point_mass-easy": partial(PointMass, hard=False),
    "point_mass-hard": partial(PointMass, hard=True),
    "quadruped-walk": partial(Quadruped, speed=0.5),
    "quadruped-run": partial(Quadruped, speed=5.0),
    "quadruped-fetch": QuadrupedFetch,
    "reacher-easy": Reacher,
    "reacher-hard": Reacher,
    "walker-stand": partial(Walker, speed=0.0),
    "walker-walk": partial(Walker, speed=1.0),
    "walker-run": partial(Walker, speed=8.0),
}
"""``<domain>-<task>`` -> the task for a compiled model."""

LEFT_OUT: Mapping[str, str] = {
    "quadruped-escape": "its terrain is drawn anew for each episode, and all worlds share one"
}
"""Tasks of these domains that are not among them, with the reason."""
