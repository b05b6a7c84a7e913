"""Candidates evaluated per second by RankedPolicySearch and by sb3-contrib's ARS: the same linear policy and episodes.

They take turns in one process, so that a busy machine slows both; ratios are within a turn of each. ARS plays its
candidates one after the other in one environment, as it does unless told otherwise; with --processes also in several
processes (its AsyncEval), and RankedPolicySearch spread over as many (engine="local").

python scripts/benchmark_zo_ranksgd.py --env HalfCheetah-v5 --candidates 20 --repeats 5
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gymnasium
from sb3_contrib import ARS
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rlopt import RankedPolicySearch
from rlopt.engine import Engine, make_engine

OWN = "RankedPolicySearch"
Turn = Callable[[], tuple[int, float]]
"""Evaluates candidates; returns how many, and the seconds that this took."""


def ranked(env: str, candidates: int, steps: int, engine: Engine | None = None) -> Turn:
    """A round of ``candidates`` without a line search, here or in the processes of ``engine``."""
    from rlopt.envs.settings import EnvSettings

    settings = EnvSettings(env, max_episode_steps=steps)
    search = RankedPolicySearch(
        "LinearPolicy",
        settings,
        seed=0,
        m=candidates,
        k=candidates,
        line_search_points=0,
        max_envs=candidates,
        engine=engine,
    )

    def turn() -> tuple[int, float]:
        start = time.perf_counter()
        search.learn(1, log_interval=None, reset_num_timesteps=False)  # one round, whatever its steps
        return candidates, time.perf_counter() - start

    return turn


def ars(env: str, candidates: int, steps: int, workers: int) -> Turn:
    """An iteration of ARS, with observations normalised as its authors do. Starting its processes is not counted."""

    def make() -> Any:
        return VecNormalize(make_vec_env(env, n_envs=1, env_kwargs={"max_episode_steps": steps}), norm_reward=False)

    model = ARS("LinearPolicy", make(), n_delta=candidates // 2, seed=0, device="cpu", zero_policy=True)

    def turn() -> tuple[int, float]:
        asynchronous = AsyncEval([make for _ in range(workers)], model.policy) if workers > 1 else None
        if asynchronous is not None:
            asynchronous.get_obs_rms()  # answers once the processes are there
        start = time.perf_counter()
        model.learn(candidates * steps, async_eval=asynchronous, log_interval=10**9)
        return candidates, time.perf_counter() - start

    return turn


def main() -> None:
    """Prints candidates per second of each turn, medians, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5", help="whose episodes all have --steps")
    parser.add_argument("--candidates", type=int, default=20, help="of a round, an even number")
    parser.add_argument("--steps", type=int, default=1000, help="of an episode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1, help="of a further ARS, and of a further search")
    options = parser.parse_args()
    gymnasium.make(options.env).close()

    arguments = (options.env, options.candidates, options.steps)
    turns = {OWN: ranked(*arguments), "ARS": ars(*arguments, workers=1)}
    with ExitStack() as stack:
        if options.processes > 1:
            engine = stack.enter_context(make_engine("local", workers=options.processes))
            turns[f"{OWN}, {options.processes} processes"] = ranked(*arguments, engine=engine)
            turns[f"ARS, {options.processes} processes"] = ars(*arguments, workers=options.processes)
        for turn in turns.values():
            turn()  # imports, pools and processes
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(options.repeats):
            for name, turn in turns.items():
                count, seconds = turn()
                rates[name].append(count / seconds)
                print(f"{name}: {count / seconds:.2f} candidates/s", flush=True)
    print(f"{options.env}, {options.candidates} candidates of {options.steps} steps, {os.cpu_count()} cores")
    for name, values in rates.items():
        shown = " ".join(f"{value:.2f}" for value in values)
        print(f"{name:<32}{statistics.median(values):8.2f} candidates/s  ({shown})")
    for name in list(turns)[1:]:
        ratios = [own / other for own, other in zip(rates[OWN], rates[name], strict=True)]
        low, high = min(ratios), max(ratios)
        print(f"{OWN} / {name}: {statistics.median(ratios):.2f}x ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
