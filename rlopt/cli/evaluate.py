"""``rlopt evaluate RUN``"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlopt.checkpoint.choose import require_run
from rlopt.cli.parsing import (
    OneLineParser,
    add_agent,
    add_optional_engine,
    import_named_agent,
    json_object,
    optional_engine,
)
from rlopt.console.progress import say
from rlopt.errors import ConfigError
from rlopt.run_folder import TRAINED
from rlopt.settings.fields import JsonObject, Range

if TYPE_CHECKING:
    from rlopt.checkpoint.files import Checkpoint
    from rlopt.envs.settings import EnvSettings
    from rlopt.evaluation.evaluate import EvaluationResult
    from rlopt.sweeps.sweep import EngineOptions


def main(argv: list[str]) -> int:
    """Evaluates a checkpoint of a run, prints a table and writes RUN/evaluation.json; returns 0."""
    arguments = _parser().parse(argv)
    import_named_agent(arguments)
    env_kwargs = json_object("--env-kwargs", arguments.env_kwargs)
    engine = optional_engine(arguments)
    if engine is not None and engine.gpus_per_job and arguments.device == "cpu":
        raise ConfigError("--gpus-per-job reserves GPUs that --device cpu leaves idle: add --device cuda")
    if engine is not None and arguments.env_timeout is not None:
        raise ConfigError("--env-timeout watches environments in this process: leave it or --engine out")

    require_run(arguments.run)
    say(f"evaluating {arguments.run}")

    from rlopt.checkpoint.choose import choose_checkpoint, environment_settings, run_folder_of
    from rlopt.envs.rendering import require_pygame

    if arguments.fqe:
        return _fitted_q(arguments)
    which = arguments.checkpoint or "latest"
    checkpoint = choose_checkpoint(arguments.run, which, lambda line: print(f"warning: {line}"))
    settings = environment_settings(checkpoint.metadata, arguments.env, env_kwargs, arguments.max_episode_steps)
    folder = run_folder_of(checkpoint.path)
    if arguments.video is not None:
        require_pygame(settings.id)
    if arguments.average_reward:
        return _average_reward(checkpoint, settings, folder, arguments)
    play = _play_here if engine is None else partial(_play_on, engine)
    result = play(checkpoint, settings, arguments)
    print(format_table(result, checkpoint, settings, "" if engine is None else engine.engine))

    record = {
        "agent": checkpoint.metadata.get("agent"),
        "env": settings.id,
        "policy": arguments.policy,
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "env_settings": settings.as_dict(),
        "engine": None if engine is None else engine.engine,
        **result.as_dict(),
    }
    packaged = folder.is_relative_to(TRAINED)  # what is installed is not written to
    if not packaged:
        print(f"evaluation: {_write(folder / 'evaluation.json', record)}", flush=True)
    if arguments.video is not None:
        beside = (Path() if packaged else folder) / "video.mp4"
        out = beside if arguments.video == Path() else arguments.video
        from rlopt.cli.render import render_in_process

        options = [f"--episodes={arguments.video_episodes}", f"--seed={arguments.seed}", f"--device={arguments.device}"]
        options += ["--stochastic"] if arguments.stochastic else []
        options += ["--env", arguments.env] if arguments.env else []
        options += [word for name in arguments.agent for word in ("--agent", name)]
        options += ["--env-kwargs", arguments.env_kwargs] if arguments.env_kwargs else []
        options += [f"--max-episode-steps={arguments.max_episode_steps}"] if arguments.max_episode_steps else []
        say("drawing the video in a process of its own")
        print(f"video: {render_in_process(checkpoint.path, out, *options)}")
    low, high = result.interval
    say(f"done: return {result.iqm:.1f} [{low:.1f}, {high:.1f}], {checkpoint.path.name} of {arguments.run}")
    return 0


def _average_reward(checkpoint: Checkpoint, settings: EnvSettings, folder: Path, arguments: Any) -> int:
    """Measures the reward rate of one long run, prints it and writes RUN/average_reward.json."""
    from rlopt.checkpoint.load import load
    from rlopt.envs.calls import time_limit
    from rlopt.evaluation.evaluate import named_policy
    from rlopt.evaluation.gain import evaluate_average_reward

    if arguments.engine or arguments.video is not None:
        raise ConfigError("--average-reward is one long run in this process: leave --engine and --video out")
    model: Any = named_policy(load(checkpoint.path, device=arguments.device), arguments.policy)
    with time_limit(arguments.env_timeout):
        estimate = evaluate_average_reward(
            model,
            settings,
            arguments.steps,
            arguments.burn_in,
            n_envs=arguments.n_envs or 1,
            seed=arguments.seed,
            deterministic=not arguments.stochastic,
        )
    warning = "" if estimate.reliable else "; too few steps for a reliable interval: raise --steps"
    rows = {
        "checkpoint": f"{checkpoint.path.name} of {checkpoint.path.parent}",
        "environment": f"{settings.id}, seed {arguments.seed}, without a time limit",
        "reward a step": f"{estimate.gain:.6g} [{estimate.low:.6g}, {estimate.high:.6g}] (95% interval of the long-run "
        f"mean{warning})",
        "steps": f"{estimate.n_steps:,} after {arguments.burn_in:,} of each of {arguments.n_envs or 1}, "
        f"in {estimate.n_batches:,} batches",
    }
    print("\n".join(f"{name:<15}{value}" for name, value in rows.items()))
    record = {
        "agent": checkpoint.metadata.get("agent"),
        "env": settings.id,
        "policy": arguments.policy,
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "seed": arguments.seed,
        "burn_in": arguments.burn_in,
        **dataclasses.asdict(estimate),
    }
    if not folder.is_relative_to(TRAINED):
        print(f"evaluation: {_write(folder / 'average_reward.json', record)}", flush=True)
    return 0


def _fitted_q(arguments: Any) -> int:
    """Estimates checkpoints from a data set, prints a table, the best last, and writes RUN/fitted_q.json."""
    from rlopt.checkpoint.choose import choose_checkpoint, environment_settings, run_folder_of
    from rlopt.checkpoint.files import list_checkpoints
    from rlopt.checkpoint.load import load
    from rlopt.data import load_dataset
    from rlopt.data.description import tell_notes
    from rlopt.evaluation.evaluate import named_policy
    from rlopt.evaluation.fitted_q import fitted_q_evaluation

    if arguments.engine or arguments.video is not None:
        raise ConfigError("--fqe plays no episodes: leave --engine and --video out")
    chosen = choose_checkpoint(arguments.run, arguments.checkpoint or "latest", lambda line: print(f"warning: {line}"))
    folder = run_folder_of(chosen.path)
    whole_run = arguments.checkpoint is None and (folder / "checkpoints").is_dir()
    paths = list_checkpoints(folder / "checkpoints") if whole_run else [chosen.path]
    env_kwargs = json_object("--env-kwargs", arguments.env_kwargs)
    data = load_dataset(arguments.fqe, default_env=environment_settings(chosen.metadata, arguments.env, env_kwargs))
    tell_notes(data)
    rows: list[dict[str, Any]] = []
    print(f"{'checkpoint':<24}{'estimate':>12}{'+-':>10}{'mean Q':>12}{'data':>12}")
    for path in paths:
        model: Any = named_policy(load(path, device=arguments.device), arguments.policy)
        gamma = arguments.gamma if arguments.gamma is not None else min(float(getattr(model, "gamma", 0.99)), 0.999)
        found = fitted_q_evaluation(
            model, data, gamma=gamma, steps=arguments.fqe_steps, seed=arguments.seed, device=arguments.device
        )
        numbers = f"{found.value:>12.4g}{found.spread:>10.2g}{found.q_value:>12.4g}{found.data_return:>12.4g}"
        print(f"{path.name:<24}{numbers}", flush=True)
        rows.append({"checkpoint": path.name, "data": arguments.fqe, **found.as_dict()})
    print(
        "estimate: discounted return of the policy from the states that the data's episodes begin in; +-: standard "
        "deviation of it over the fitted networks, no interval; mean Q: of the recorded actions, all rows; data: what "
        "the recorded episodes returned from those first states"
    )
    if moving := [row for row in rows if not row["converged"]]:
        most = max(moving, key=lambda row: row["remaining"])
        print(
            f"warning: the fit has not converged for {len(moving)} of {len(rows)} checkpoints: the estimate of "
            f"{most['checkpoint']} would still move by about {most['remaining']:.3g}; raise --fqe-steps above "
            f"{arguments.fqe_steps:,}, or lower --gamma"
        )
    best = max(rows, key=lambda row: row["value"])
    print(f"highest estimate: {best['checkpoint']} (discounted returns, gamma {best['gamma']:g}; their order counts)")
    print(f"evaluation: {_write(folder / 'fitted_q.json', {'checkpoints': rows, 'highest': best['checkpoint']})}")
    return 0


def _write(path: Path, record: dict[str, Any]) -> Path:
    from rlopt.errors import RunError
    from rlopt.run_folder import write_json

    try:
        write_json(path, record)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): free space there, or copy the run") from None
    return path


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="rlopt evaluate",
        description="Run whole episodes with a trained policy and report the interquartile mean (IQM) of their "
        "returns with a 95% bootstrap interval. Writes RUN/evaluation.json and, with --video, RUN/video.mp4.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, as rlopt train printed it, a checkpoint, or "
                        "an agent that comes with rlopt, such as rlopt/half-cheetah (rlopt hub list)")  # fmt: skip
    parser.add_number("--episodes", Range(ge=1), default=100, help="number of episodes (default 100)")
    parser.add_argument("--checkpoint", metavar="WHICH", help="checkpoint: latest (default), best, or its name or path")
    parser.add_argument("--env", metavar="ID", help="another environment with the same spaces")
    parser.add_argument(
        "--env-kwargs", metavar="JSON", help=f"other arguments of the environment, such as '{JsonObject.example}'"
    )
    parser.add_number("--max-episode-steps", Range(ge=1, le=10**9), help="a different time limit of the episodes")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the most likely")
    parser.add_argument(
        "--policy", metavar="NAME", default="last", help="last (default), or mixture: the boosted policy of ailboost"
    )
    parser.add_number(
        "--seed", Range(ge=0, lt=2**31), default=0, help="seed of the environments and of sampling (default 0)"
    )
    parser.add_number("--n-envs", Range(ge=1, le=4096), help="parallel environments (default: at most 16; 4 in each "
        "job of an engine)")  # fmt: skip
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="torch device (default cpu)")
    parser.add_number(
        "--env-timeout",
        Range(gt=0),
        float,
        help="seconds that a step or reset of an environment may take (default: no limit)",
    )
    parser.add_argument(
        "--average-reward",
        action="store_true",
        help="measure the reward per step of one long run without a time limit instead; writes RUN/average_reward.json",
    )
    parser.add_number(
        "--steps", Range(ge=20), default=100_000, help="steps of each environment in that run (default 100000)"
    )
    parser.add_number("--burn-in", Range(ge=0), default=1_000, help="first steps to leave out (default 1000)")
    parser.add_argument("--fqe", metavar="DATA", help="estimate the value of every checkpoint's policy (or of the "
                        "given one's) by fitted Q evaluation, from a data set and without the environment; writes "
                        "RUN/fitted_q.json")  # fmt: skip
    parser.add_number("--fqe-steps", Range(ge=1), default=10_000, help="gradient steps of --fqe (default 10000)")
    parser.add_number(
        "--gamma", Range(ge=0, lt=1), float, help="discount factor of --fqe (default the run's, else 0.99)"
    )
    parser.add_argument("--video", metavar="FILE", nargs="?", const=Path(), type=Path, help="also write a video "
                        "(default RUN/video.mp4); needs headless OpenGL, or pygame for classic control")  # fmt: skip
    parser.add_number("--video-episodes", Range(ge=1), default=1, help="episodes in the video (default 1)")
    add_agent(parser)
    add_optional_engine(parser)
    return parser


def _play_here(checkpoint: Checkpoint, settings: EnvSettings, arguments: Any) -> EvaluationResult:
    import torch

    from rlopt.checkpoint.load import load
    from rlopt.envs.calls import time_limit
    from rlopt.evaluation.evaluate import evaluate, named_policy

    run = checkpoint.metadata.get("run")
    threads = run.get("num_threads") if isinstance(run, dict) else None
    if isinstance(threads, int) and 0 < threads <= 1024:
        torch.set_num_threads(threads)
    model: Any = named_policy(load(checkpoint.path, device=arguments.device), arguments.policy)
    with _progress(arguments.episodes) as on_episode, time_limit(arguments.env_timeout):
        return evaluate(
            model,
            settings,
            arguments.episodes,
            deterministic=not arguments.stochastic,
            seed=arguments.seed,
            n_envs=arguments.n_envs,
            on_episode=on_episode,
        )


def _play_on(options: EngineOptions, checkpoint: Checkpoint, settings: EnvSettings, arguments: Any) -> EvaluationResult:
    from rlopt.evaluation.parallel import ENVS_PER_JOB, evaluate_on_engine

    with options.make(threads=1) as engine, _progress(arguments.episodes) as on_episode:
        return evaluate_on_engine(
            engine,
            checkpoint.path,
            arguments.episodes,
            env=settings,
            policy=arguments.policy,
            deterministic=not arguments.stochastic,
            seed=arguments.seed,
            n_envs=arguments.n_envs or ENVS_PER_JOB,
            device=arguments.device,
            on_episode=on_episode,
        )


@contextmanager
def _progress(episodes: int) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=episodes, unit="episode", leave=False) as bar:

        def on_episode(done: int, total: int) -> None:
            bar.update(done - bar.n)

        yield on_episode


def format_table(result: EvaluationResult, checkpoint: Checkpoint, settings: EnvSettings, engine: str = "") -> str:
    """What a person wants to know about an evaluation, a line each.

    :param engine: that played it, by name
    """
    where = f"{result.n_envs} environments"
    if engine:
        jobs = math.ceil(len(result.returns) / result.n_envs)
        where += f" in each of {jobs} {'job' if jobs == 1 else 'jobs'}, {engine} engine, its start included"
    low, high = result.interval
    actions = "most likely actions" if result.deterministic else "sampled actions"
    limit = f", {result.truncated.mean():.0%} ended by the time limit"
    rows = {
        "checkpoint": f"{checkpoint.path.name} of {checkpoint.path.parent}",
        "environment": f"{settings.id}, {actions}, seed {result.seed}",
        "episodes": f"{len(result.returns)}, mean length {result.lengths.mean():.1f}{limit}",
        "return, IQM": f"{result.iqm:.1f} [{low:.1f}, {high:.1f}] ({result.confidence:.0%} interval over episodes)",
        "return, mean": f"{result.mean:.1f}, standard deviation {result.std:.1f}",
        "return, range": f"{result.returns.min():.1f} to {result.returns.max():.1f}",
        "success": "" if result.success_rate is None else f"{result.success_rate:.1%} of episodes",
        "speed": f"{result.env_steps_per_second:,.0f} env steps/s in {where}",
    }
    return "\n".join(f"{name:<15}{value}" for name, value in rows.items() if value)
