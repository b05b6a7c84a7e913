"""MuJoCo Warp: many worlds of one model, stepped on a device, whose arrays are torch's too."""

import contextlib
import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rlopt.envs.suite.load import LoadedTask
from rlopt.envs.suite.task import Draw, Worlds, begin
from rlopt.errors import ConfigError, EnvFaultError

KEPT = ("qpos", "qvel", "act", "qacc_warmstart", "sensordata")
"""What the next steps depend on, beside the action; all else is computed from it."""


@cache
def import_warp() -> tuple[Any, Any]:
    """The modules ``warp`` and ``mujoco_warp``.

    :raises rlopt.errors.ConfigError: they are not installed, or dm_control is not, whose models they simulate
    """
    try:
        warp = importlib.import_module("warp")
        warp.config.log_level = warp.LOG_WARNING
        importlib.import_module("dm_control.suite")
        return warp, importlib.import_module("mujoco_warp")
    except ModuleNotFoundError as error:
        raise ConfigError(f"backend 'warp' needs {error.name}: pip install 'rlopt[warp]'") from None


class WarpPhysics:
    """``count`` worlds of a task's model.

    After :meth:`step` and :meth:`start`, positions and velocities and what is derived from them belong together, as
    dm_control has it; readings that depend on accelerations are those of the last physics step.

    A step is captured as a graph when it is first taken, on a GPU a CUDA graph, and launched from then on.

    :param loaded: the task
    :param count: worlds, >= 1
    :param device: the CPU or a CUDA device
    """

    def __init__(self, loaded: LoadedTask, count: int, device: torch.device) -> None:
        self._wp, self._mjw = import_warp()
        self.loaded, self.count, self.device = loaded, count, device
        self._name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
        model, task = loaded.model, loaded.task
        # Each contact is a pyramid of four constraints; every joint may be at a limit and have friction.
        contacts = task.contacts if self._collides() else 0
        with self._wp.ScopedDevice(self._name):
            self._model = self._mjw.put_model(model)
            self._data = self._mjw.make_data(
                model, nworld=count, nconmax=max(contacts, 1), njmax=4 * contacts + 2 * model.nv + 4
            )
        data, view = self._data, self._wp.to_torch
        self.kept: dict[str, Tensor] = {name: view(getattr(data, name)) for name in KEPT}
        self._ctrl = view(data.ctrl)
        self._contacts, self._contact_world = view(data.nacon), view(data.contact.worldid)
        self._constraints = view(data.nefc)
        self._most = torch.zeros(2, dtype=torch.int32, device=device)
        """Contacts of all worlds, and constraints of one, at most since :meth:`check`."""
        self.actions = torch.zeros_like(self._ctrl)
        self.goal = torch.zeros(count, task.goal_size, device=device)
        derived = {name: view(getattr(data, name)) for name in ("xpos", "xmat", "xipos", "geom_xpos", "site_xpos")}
        state = {name: self.kept[name] for name in ("qpos", "qvel", "act", "sensordata")}
        self.worlds = Worlds(**state, **derived, ctrl=self.actions, goal=self.goal)
        """Views of the simulator's own arrays: they change with every step."""
        self._graphs: dict[int, Any] = {}

    def step(self, actions: Tensor) -> None:
        """Takes one environment step.

        :param actions: (n, nu), within their bounds
        """
        self.actions.copy_(actions)
        self._ctrl.copy_(self.loaded.task.control(actions, self.goal))
        self._advance(self.loaded.substeps)

    def start(self, chosen: Tensor, draw: Draw) -> None:
        """Begins new episodes in the worlds ``chosen`` (n,) bool; the others stay exactly where they are.

        :raises rlopt.errors.ConfigError: something touches wherever the task begins
        """
        task, before = self.loaded.task, {name: part.clone() for name, part in self.kept.items()}
        first = begin(task, draw, chosen, self._touching)
        for name, part in self.kept.items():
            part.copy_(getattr(first, name) if name in ("qpos", "qvel") else torch.zeros_like(part))
        self.goal.copy_(torch.where(chosen[:, None], first.goal, self.goal))
        self._ctrl.zero_()
        if task.settling_steps:
            self.refresh()
            self._advance(task.settling_steps)
        self._forward_without_actuators()
        for name, part in self.kept.items():
            part.copy_(torch.where(chosen[:, None], part, before[name]))
        self.actions[chosen] = 0.0
        self.refresh()
        self.check()

    def refresh(self) -> None:
        """Computes what follows from the positions and velocities."""
        with self._on_device():
            self._refresh()

    def check(self) -> None:
        """Raises :class:`rlopt.errors.EnvFaultError` if contacts found no room; waits for the device."""
        contacts, constraints = self._most.tolist()
        self._most.zero_()
        room, rows = self._data.naconmax, self._data.njmax
        if contacts > room or constraints > rows:
            raise EnvFaultError(
                f"{contacts} contacts and {constraints} constraints of one world do not fit into the simulator's "
                f"{room} and {rows}: the model touches itself everywhere, use another backend"
            )

    # ---- calls of the simulator

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Within, Warp's work is on torch's stream, so that each sees what the other has written."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._wp.ScopedDevice(self._name))
            if self.device.type == "cuda":
                stream = self._wp.stream_from_torch(torch.cuda.current_stream(self.device))
                stack.enter_context(self._wp.ScopedStream(stream))
            yield

    def _advance(self, steps: int) -> None:
        """Replays ``steps`` physics steps, which are captured at the first call."""
        if steps not in self._graphs:
            self._graphs[steps] = self._captured(steps)
        with self._on_device():
            self._wp.capture_launch(self._graphs[steps])
        self._note_room()

    def _captured(self, steps: int) -> Any:
        before = {name: part.clone() for name, part in self.kept.items()}
        with self._on_device():
            self._take(steps)  # compiles what it needs
        for name, part in self.kept.items():
            part.copy_(before[name])
        self.refresh()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._wp.ScopedDevice(self._name))
            if self.device.type == "cuda":  # nothing can be captured on the default stream, which may be torch's
                torch.cuda.synchronize(self.device)
                stack.enter_context(self._wp.ScopedStream(self._wp.Stream(self._name)))
            capture = stack.enter_context(self._wp.ScopedCapture())
            self._take(steps)
        return capture.graph

    def _take(self, steps: int) -> None:
        mjw, model, data = self._mjw, self._model, self._data
        whole = steps
        if self._splits():
            # What depends on positions and velocities was computed after the last step: it is not computed twice.
            data.sensordata.zero_()
            mjw.step2(model, data)
            whole -= 1
        for _ in range(whole):
            mjw.step(model, data)
        self._refresh()

    def _splits(self) -> bool:
        return int(self._model.opt.integrator) != int(self._mjw.IntegratorType.RK4)

    def _refresh(self) -> None:
        mjw, model, data = self._mjw, self._model, self._data
        mjw.fwd_position(model, data)
        mjw.sensor_pos(model, data)
        mjw.fwd_velocity(model, data)
        mjw.sensor_vel(model, data)

    def _forward_without_actuators(self) -> None:
        option = self._model.opt
        flags = option.disableflags
        option.disableflags = flags | int(self._mjw.DisableBit.ACTUATION)
        try:
            with self._on_device():
                self._mjw.forward(self._model, self._data)
        finally:
            option.disableflags = flags

    def _touching(self, qpos: Tensor) -> Tensor:
        self.kept["qpos"].copy_(qpos)
        with self._on_device():
            self._mjw.fwd_position(self._model, self._data)
        self._note_room()
        self.check()
        here = torch.arange(len(self._contact_world), device=self.device) < self._contacts
        worlds = torch.where(here, self._contact_world, self.count).long()
        return torch.zeros(self.count + 1, dtype=torch.bool, device=self.device).index_fill_(0, worlds, True)[:-1]

    def _note_room(self) -> None:
        torch.maximum(self._most, torch.stack([self._contacts[0], self._constraints.amax()]), out=self._most)

    def _collides(self) -> bool:
        import mujoco

        off = mujoco.mjtDisableBit
        return not self.loaded.model.opt.disableflags & int(off.mjDSBL_CONTACT | off.mjDSBL_CONSTRAINT)
