"""What a task is: observation, reward and initial state as functions of the state of n worlds, without a simulator.

Each definition was written from dm_control's (Tunyasuvunakool et al., 2020); tests compare them with its own physics.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlopt.errors import ConfigError


@dataclass(frozen=True)
class Worlds:
    """The state of n worlds and what MuJoCo derives from it, named as in ``MjData``; all of one dtype and device.

    Positions are metres in the world's frame, angles radians.
    """

    qpos: Tensor
    """(n, nq)"""
    qvel: Tensor
    """(n, nv)"""
    act: Tensor
    """(n, na), activations of actuators."""
    ctrl: Tensor
    """(n, nu), the last action."""
    xpos: Tensor
    """(n, nbody, 3), frames of bodies."""
    xmat: Tensor
    """(n, nbody, 3, 3), their orientations."""
    xipos: Tensor
    """(n, nbody, 3), centres of mass of bodies."""
    geom_xpos: Tensor
    """(n, ngeom, 3)"""
    site_xpos: Tensor
    """(n, nsite, 3)"""
    sensordata: Tensor
    """(n, nsensordata)"""
    goal: Tensor
    """(n, goal_size), what a task draws for the whole episode."""


class Start(NamedTuple):
    """What episodes begin with."""

    qpos: Tensor
    """(n, nq)"""
    qvel: Tensor
    """(n, nv)"""
    goal: Tensor
    """(n, goal_size)"""


class Draw:
    """Random numbers for ``count`` worlds, on the generator's device.

    :param generator: whose state decides all that follows
    """

    def __init__(self, generator: torch.Generator, count: int) -> None:
        self.generator, self.count = generator, count

    def uniform(self, low: Any, high: Any, size: int) -> Tensor:
        """(count, size) within [low, high), which are numbers or (size,)."""
        unit = torch.rand(self.count, size, generator=self.generator, device=self.generator.device)
        return low + (high - low) * unit

    def normal(self, size: int) -> Tensor:
        """(count, size), standard normal."""
        return torch.randn(self.count, size, generator=self.generator, device=self.generator.device)

    def direction(self, size: int) -> Tensor:
        """(count, size), uniform on the unit sphere."""
        return torch.nn.functional.normalize(self.normal(size), dim=1)


class Task:
    """Base of the tasks.

    :param model: compiled by dm_control, with the constants that the task gives it
    :param device: device of the worlds
    """

    goal_size: ClassVar[int] = 0
    without_contact: ClassVar[bool] = False
    """Whether starts in which something touches are drawn again."""
    settling_steps: ClassVar[int] = 0
    """Physics steps without action before the episode."""
    contacts: ClassVar[int] = 32
    """Contacts of a world for which there is room."""
    lift: ClassVar[float] = 0.0
    """Metres by which the free joint is raised until nothing touches; 0 to leave it where it is."""

    def __init__(self, model: mujoco.MjModel, device: torch.device) -> None:
        self.model, self.device = model, device
        # Limited joints are drawn within their range, other hinges from the whole circle; the rest stays.
        low, high = (np.array(model.qpos0) for _ in range(2))
        self._free = []
        for joint in range(model.njnt):
            address, kind = model.jnt_qposadr[joint], model.jnt_type[joint]
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                self._free.append(int(address))
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                raise NotImplementedError("no task of the suite has a ball joint")
            elif model.jnt_limited[joint]:
                low[address], high[address] = model.jnt_range[joint]
            elif kind == mujoco.mjtJoint.mjJNT_HINGE:
                low[address], high[address] = -math.pi, math.pi
        self._low, self._high, self.qpos0 = map(self.tensor, (low, high, model.qpos0))

    def observe(self, worlds: Worlds) -> Tensor:
        """(n, d), the entries of dm_control's observation in its order."""
        raise NotImplementedError

    def reward(self, worlds: Worlds) -> Tensor:
        """(n,), of the state reached, within [0, 1]."""
        raise NotImplementedError

    def start(self, draw: Draw) -> Start:
        """What ``draw.count`` episodes begin with; contacts are dealt with by who simulates."""
        return self.started(draw, self.random_joints(draw))

    def placed(self, draw: Draw, start: Start) -> Start:
        """``start`` completed where nothing touches any more."""
        return start

    def control(self, actions: Tensor, goal: Tensor) -> Tensor:
        """(n, nu), what the actuators get for actions (n, nu) within their bounds."""
        return actions

    # ---- for the definitions

    def started(self, draw: Draw, qpos: Tensor, qvel: Tensor | None = None, goal: Tensor | None = None) -> Start:
        """A :class:`Start` with zeros in the place of what is None."""
        return Start(
            qpos,
            qpos.new_zeros(draw.count, self.model.nv) if qvel is None else qvel,
            qpos.new_zeros(draw.count, self.goal_size) if goal is None else goal,
        )

    def random_joints(self, draw: Draw) -> Tensor:
        """Joint positions (count, nq): uniform within limits or on the circle; other slides stay at 0, and free joints
        where they are, turned by a quaternion with positive parts.
        """
        qpos = draw.uniform(self._low, self._high, self.model.nq)
        for address in self._free:
            qpos[:, address + 3 : address + 7] = torch.nn.functional.normalize(draw.uniform(0.0, 1.0, 4), dim=1)
        return qpos

    def tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.array(values, np.float32), device=self.device)

    def body(self, name: str) -> int:
        return int(self.model.body(name).id)

    def geom(self, name: str) -> int:
        return int(self.model.geom(name).id)

    def site(self, name: str) -> int:
        return int(self.model.site(name).id)

    def sensors(self, *names: str) -> list[int]:
        """Where the readings of these sensors are in ``sensordata``."""
        found: list[int] = []
        for name in names:
            sensor = self.model.sensor(name)
            found += range(int(sensor.adr[0]), int(sensor.adr[0] + sensor.dim[0]))
        return found

    def sensors_of(self, *kinds: mujoco.mjtSensor) -> list[int]:
        """The same for all sensors of these kinds, in the model's order."""
        wanted = [int(kind) for kind in kinds]
        chosen = [index for index, kind in enumerate(self.model.sensor_type.tolist()) if kind in wanted]
        return self.sensors(*(self.model.sensor(index).name for index in chosen))


def near(
    x: Tensor, low: float, high: float, margin: float = 0.0, at_margin: float = 0.1, shape: str = "bell"
) -> Tensor:
    """1 where low <= x <= high, and less with the distance from there; 0 outside where ``margin`` is 0.

    :param at_margin: the value at the distance ``margin``
    :param shape: "bell" (Gaussian), or "linear" or "quadratic" down to 0
    """
    distance = torch.clamp(torch.maximum(low - x, x - high), min=0.0)
    if margin == 0:
        return (distance == 0).to(x.dtype)
    scaled = distance / margin
    if shape == "bell":
        return torch.exp(math.log(at_margin) * scaled**2)
    power = {"linear": 1, "quadratic": 2}[shape]
    return torch.clamp(1 - (1 - at_margin) * scaled**power, min=0.0)


def small_control(worlds: Worlds) -> Tensor:
    """(n,), between 0.8 at full actions and 1 without any."""
    return (4 + near(worlds.ctrl, 0, 0, 1, 0, "quadratic").mean(dim=1)) / 5


def in_frame(vectors: Tensor, frame: Tensor) -> Tensor:
    """Vectors (n, k, 3) of the world's frame in the frames (n, 3, 3)."""
    return vectors @ frame


MAX_ATTEMPTS = 10_000
"""Times that starts are drawn again or raised before the task is called impossible."""


def begin(task: Task, draw: Draw, chosen: Tensor, touching: Callable[[Tensor], Tensor]) -> Start:
    """What the worlds ``chosen`` (n,) begin an episode with; the rows of others mean nothing.

    :param touching: positions (n, nq) -> (n,), whether anything touches there
    :raises rlopt.errors.ConfigError: something touches wherever the task begins
    """
    start = task.start(draw)
    if task.without_contact or task.lift:
        for _ in range(MAX_ATTEMPTS):
            again = touching(start.qpos) & chosen
            if not bool(again.any()):
                break
            if task.lift:
                start.qpos[:, 2] += task.lift * again
            else:
                start = Start(
                    *(torch.where(again[:, None], *pair) for pair in zip(task.start(draw), start, strict=True))
                )
        else:
            raise ConfigError(f"no start without contact was found in {MAX_ATTEMPTS} attempts")
    return task.placed(draw, start)
