"""Compares the warp backend with dm_control: equal states and actions, observations and rewards along whole episodes.

Prints a row for each task: the difference of observations (relative where they are above 1) / of rewards. "One step"
takes dm_control's state before every step of whole episodes, so that a difference is that step's own; "free" only
begins with dm_control's state, and differences grow as the motion makes them grow.

Where a capsule stands upright on the floor, within 30 degrees, MuJoCo Warp lays the pyramid of friction along the axes
of the world, and MuJoCo along the capsule. "No capsule upright" leaves out the steps in which that happens.
"""

import argparse
from typing import Any

import mujoco
import numpy as np
import torch
from dm_control import suite

from rlopt.envs.backends.warp_physics import WarpPhysics
from rlopt.envs.dmc import flatten
from rlopt.envs.suite.load import load_task
from rlopt.envs.suite.tasks import TASKS


def goal_of(physics: Any, name: str) -> np.ndarray:
    """What dm_control has drawn for the episode, as the tasks have it."""
    if name.startswith("reacher"):
        return physics.named.model.geom_pos["target", :2]
    if name.startswith("finger"):
        return physics.named.model.site_pos["target"][[0, 2]]
    return physics.model.wrap_prm if name.startswith("point_mass") else np.zeros(0)


PARTS = ("qpos", "qvel", "act", "qacc_warmstart")


def capsule_upright(model: mujoco.MjModel, data: mujoco.MjData, substeps: int) -> bool:
    """Takes the physics steps of an environment step: whether a capsule within 30 degrees of a plane's normal touches
    that plane in one of them."""
    plane, capsule = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_CAPSULE
    found = False
    for _ in range(substeps):
        mujoco.mj_step1(model, data)
        for contact in data.contact:
            kinds = {model.geom_type[geom]: geom for geom in contact.geom}
            if {plane, capsule} <= kinds.keys():
                normal, axis = (data.geom_xmat[kinds[kind]][2::3] for kind in (plane, capsule))
                found |= bool(abs(normal @ axis) > np.cos(np.radians(30.5)))
        mujoco.mj_step2(model, data)
    return found


class Comparison:
    """One task in both simulators.

    :param worlds: episodes side by side
    """

    def __init__(self, name: str, worlds: int, device: torch.device) -> None:
        domain, _, task = name.partition("-")
        self.name, self.device = name, device
        self.envs = [suite.load(domain, task, task_kwargs={"random": seed}) for seed in range(worlds)]
        self.loaded = load_task(name, device)
        self.warp = WarpPhysics(self.loaded, worlds, device)
        self.random = np.random.RandomState(0)

    def copy_state(self) -> None:
        """Gives the worlds dm_control's states."""
        for part in PARTS:
            rows = np.stack([getattr(env.physics.data, part) for env in self.envs])
            self.warp.kept[part].copy_(torch.from_numpy(rows))
        goals = np.stack([goal_of(env.physics, self.name) for env in self.envs])
        self.warp.goal.copy_(torch.from_numpy(goals))
        self.warp.refresh()

    def errors(self, steps: int, each_step: bool) -> tuple[np.ndarray, np.ndarray]:
        """Largest differences of observations and of rewards after each step of each world, [steps, worlds, 2].

        Differences of observations are of each entry, relative where its size is above 1.

        :returns: these, and in which steps a capsule was upright, [steps, worlds]
        """
        for env in self.envs:
            env.reset()
        self.copy_state()
        found = np.zeros((steps, len(self.envs), 2))
        upright = np.zeros((steps, len(self.envs)), bool)
        for step in range(steps):
            actions = self.random.uniform(self.loaded.low, self.loaded.high, (len(self.envs), len(self.loaded.low)))
            if each_step and step:
                self.copy_state()
            before = [mujoco.MjData(env.physics.model.ptr) for env in self.envs]
            for data, env in zip(before, self.envs, strict=True):
                for part in PARTS:
                    getattr(data, part)[:] = getattr(env.physics.data, part)
            given = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
            self.warp.step(torch.from_numpy(actions.astype(np.float32)).to(self.device))
            expected = np.stack([flatten(entry.observation) for entry in given])
            observed = self.loaded.task.observe(self.warp.worlds).cpu().numpy()
            rewards = self.loaded.task.reward(self.warp.worlds).cpu().numpy()
            found[step, :, 0] = (np.abs(observed - expected) / np.maximum(1, np.abs(expected))).max(axis=1)
            found[step, :, 1] = np.abs(rewards - [entry.reward for entry in given])
            for index, (data, env) in enumerate(zip(before, self.envs, strict=True)):
                data.ctrl[:] = env.physics.data.ctrl
                upright[step, index] = capsule_upright(env.physics.model.ptr, data, self.loaded.substeps)
        self.warp.check()
        return found, upright


def cell(values: np.ndarray) -> str:
    """Observations and rewards, in one cell."""
    return " / ".join(f"{value:.0e}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--worlds", type=int, default=4, help="episodes of each task")
    parser.add_argument("--steps", type=int, default=999, help="steps of an episode")
    parser.add_argument("--free", type=int, default=100, help="steps without dm_control's states")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print("| task | one step, largest | the same, no capsule upright | one step, 99 of 100 below | free |")
    print("|---|---|---|---|---|", flush=True)
    for name in arguments.tasks:
        comparison = Comparison(name, arguments.worlds, torch.device(arguments.device))
        single, upright = comparison.errors(arguments.steps, each_step=True)
        free, _ = comparison.errors(arguments.free, each_step=False)
        cells = [
            cell(single.max(axis=(0, 1))),
            cell(single[~upright].max(axis=0)),
            cell(np.quantile(single, 0.99, axis=(0, 1))),
            cell(free.max(axis=(0, 1))),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
