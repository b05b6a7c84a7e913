"""Seconds to make point-maze data and to augment them: ours, and a plain Python loop over transitions.

    python scripts/benchmark_guda.py --rounds 5                # augmentation
    python scripts/benchmark_guda.py --generate --rounds 1     # the generators, 1M transitions a maze

The loop does what the paper's released code does, a transition at a time: draw a free place, turn the step toward the
shortest path, check the walls, compute the reward. It is run on fewer transitions and its time is scaled up. The
contestants take turns, round after round in one process, and the ratio is taken within each round.
"""

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path

import numpy as np

from rlopt.agents.guda.generation import augment
from rlopt.agents.guda.guides import ShortestPath
from rlopt.agents.guda.maze_domains import BALL_MARGIN, PointMaze
from rlopt.collect.generators import generate
from rlopt.data import Dataset
from rlopt.envs.tasks.mazes import Maze
from rlopt.envs.tasks.own_tasks import FIXED_GOAL_MAZES

MAZES = {"umaze": 1500, "medium": 3000, "large": 4000}


class Watch:
    """Wall-clock seconds, and those that this process computed: on a busy machine the first are mostly waiting."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def note(self, rows: dict[str, list[float]], label: str, scale: float = 1.0) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        rows.setdefault(label, []).append(wall * scale)
        rows.setdefault(label + ", CPU", []).append(cpu * scale)


def plain_loop(data: Dataset, maze: Maze, goal_cell: tuple[int, int], n: int) -> list[tuple]:
    """Guided augmentation of ``n`` transitions with nothing but Python."""
    headings = maze.headings(goal_cell)
    free = [tuple(cell) for cell in maze.free_cells.tolist()]
    centres = {cell: maze.cell_to_xy(cell).tolist() for cell in free}
    allowed = {cell: np.flatnonzero(headings[cell]).tolist() for cell in free}
    walls = [maze.cell_to_xy(cell).tolist() for cell in np.argwhere(maze.walls)]
    goal = maze.cell_to_xy(goal_cell).tolist()
    rows = [data.observations.tolist(), data.actions.tolist(), data.next_observations.tolist()]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]

    def clear(x: float, y: float) -> bool:
        return all(max(abs(x - wx), abs(y - wy)) >= 0.5 + BALL_MARGIN for wx, wy in walls)

    made: list[tuple] = []
    while len(made) < n:
        state, action, following = (column[random.randrange(len(data))] for column in rows)
        cell = random.choice(free)
        x, y = (centre + random.uniform(-0.5, 0.5) for centre in centres[cell])
        dx, dy = following[0] - state[0], following[1] - state[1]
        own = round(math.degrees(math.atan2(dy, dx)) / 90) % 4
        c, s = turns[(random.choice(allowed[cell]) - own) % 4]
        end = (x + c * dx - s * dy, y + s * dx + c * dy)
        if not (clear(x, y) and clear(*end)):
            continue
        velocities = [(c * v[2] - s * v[3], s * v[2] + c * v[3]) for v in (state, following)]
        force = (c * action[0] - s * action[1], s * action[0] + c * action[1])
        reward = float(math.dist(end, goal) <= 0.45)
        made.append(((x, y, *velocities[0]), force, reward, (*end, *velocities[1])))
    return made


def augmentation(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    results: dict[str, dict[str, list[float]]] = {}
    for name, size in MAZES.items():
        data = generate(f"pointmaze-{name}", size, seed=0, n_envs=1)
        goal_cell = FIXED_GOAL_MAZES[data.metadata.env].goal_cell
        maze = Maze.from_id(data.metadata.env)
        domain, guide = PointMaze(maze, maze.cell_to_xy(goal_cell)), ShortestPath(maze, goal_cell)
        rows: dict[str, list[float]] = {}
        for number in range(args.rounds):
            for label, chosen in (("guided", guide), ("random", None)):
                watch = Watch()
                augment(data, domain.augmentation(), chosen, args.n, seed=number)
                watch.note(rows, label)
            watch = Watch()
            plain_loop(data, maze, goal_cell, args.loop)
            watch.note(rows, "python loop", args.n / args.loop)
        pairs = zip(rows["python loop, CPU"], rows["guided, CPU"], strict=True)
        rows["python loop / guided, CPU"] = [loop / ours for loop, ours in pairs]
        results[name] = rows
    return results


def generation(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    results: dict[str, dict[str, list[float]]] = {}
    for name in MAZES:
        rows: dict[str, list[float]] = {}
        for number in range(args.rounds):
            watch = Watch()
            generate(f"pointmaze-{name}", args.n, seed=number)
            watch.note(rows, "generate")
        results[name] = rows
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000, help="transitions")
    parser.add_argument("--loop", type=int, default=5_000, help="transitions of the Python loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generate", action="store_true", help="time the generators instead")
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    args = parser.parse_args()

    results = generation(args) if args.generate else augmentation(args)
    print(f"seconds for {args.n:,} transitions\n{'':32}{'median':>10}{'min':>10}{'max':>10}")
    for name, rows in results.items():
        for label, values in rows.items():
            shown = (statistics.median(values), min(values), max(values))
            print(f"{name + ', ' + label:32}" + "".join(f"{value:>10.2f}" for value in shown))
    if args.out:
        args.out.write_text(json.dumps({"n": args.n, "seconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
