"""Compares the warp backend with dm_control: equal states and actions, observations and rewards along whole episodes.

Prints a row for each task: the difference of observations (relative where they are above 1) / of rewards. "One step"
takes dm_control's state before every step of whole episodes, so that a difference is that step's own; "free" only
begins with dm_control's state, and differences grow as the motion makes them grow.
"""

from __future__ import annotations

import argparse
from typing import Any

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
        for part in ("qpos", "qvel", "act", "qacc_warmstart"):
            rows = np.stack([getattr(env.physics.data, part) for env in self.envs])
            self.warp.kept[part].copy_(torch.from_numpy(rows))
        goals = np.stack([goal_of(env.physics, self.name) for env in self.envs])
        self.warp.goal.copy_(torch.from_numpy(goals))
        self.warp.refresh()

    def errors(self, steps: int, each_step: bool) -> np.ndarray:
        """Largest differences of observations and of rewards after each step, [steps, 2].

        Differences of observations are of each entry, relative where its size is above 1.
        """
        for env in self.envs:
            env.reset()
        self.copy_state()
        found = np.zeros((steps, 2))
        for step in range(steps):
            actions = self.random.uniform(self.loaded.low, self.loaded.high, (len(self.envs), len(self.loaded.low)))
            if each_step and step:
                self.copy_state()
            given = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
            self.warp.step(torch.from_numpy(actions.astype(np.float32)).to(self.device))
            expected = np.stack([flatten(entry.observation) for entry in given])
            observed = self.loaded.task.observe(self.warp.worlds).cpu().numpy()
            rewards = self.loaded.task.reward(self.warp.worlds).cpu().numpy()
            found[step, 0] = (np.abs(observed - expected) / np.maximum(1, np.abs(expected))).max()
            found[step, 1] = np.abs(rewards - [entry.reward for entry in given]).max()
        self.warp.check()
        return found


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
    print("| task | one step, largest | one step, 99 of 100 below | free |\n|---|---|---|---|", flush=True)
    for name in arguments.tasks:
        comparison = Comparison(name, arguments.worlds, torch.device(arguments.device))
        single = comparison.errors(arguments.steps, each_step=True)
        free = comparison.errors(arguments.free, each_step=False)
        cells = [cell(single.max(axis=0)), cell(np.quantile(single, 0.99, axis=0)), cell(free.max(axis=0))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
