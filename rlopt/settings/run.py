"""The settings of a training run that do not depend on the agent. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.settings.fields import JsonObject, Range


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a training run that do not depend on the agent."""

    env: str = ""
    """Environment id: dm_control/<domain>-<task>, a Gymnasium id such as HalfCheetah-v5, or rlopt/<name>. Required,
    here or in the preset; an agent that learns from a data set is evaluated there, by default in that of the data."""
    env_kwargs: Annotated[str | None, JsonObject()] = None
    """Arguments of the environment's constructor as a JSON object, such as '{"n_states": 12}' for rlopt/RiverSwim-v0;
    in a preset a mapping. EnvPool takes none."""
    preset: str | None = None
    """Settings that are known to work, such as dmc/cheetah-run, or the path of a YAML file; flags override it."""
    seed: Annotated[int, Range(ge=0, lt=2**31)] = 0
    """Seed of the networks, the actions and the environments."""
    seeds: str | None = None
    """Several runs in one process instead, one for each of these seeds, their gradient steps taken together: 0..7, or
    0,3,5. Each has a folder of its own in run_dir, with the result of the run that is done alone."""
    init_from: str | None = None
    """Run folder or checkpoint whose policy this one begins with: of the same networks, or a clone by bc. Its
    optimisers begin anew."""
    total_timesteps: Annotated[int, Range(ge=1)] = 1_000_000
    """Environment steps to train for, summed over the environments; gradient steps for an agent that learns from a
    data set, as in all the intervals below."""
    n_envs: Annotated[int, Range(ge=1)] = 1
    """Environments stepped side by side."""
    backend: Literal["auto", "envpool", "gymnasium"] = "auto"
    """What steps the environments; auto takes EnvPool for four or more of them, for a task whose parity is tested."""
    device: str = "auto"
    """Torch device: auto, cpu, cuda, cuda:1, mps. Exact resume is promised on the CPU."""
    num_threads: Annotated[int, Range(ge=0, le=1024)] = 1
    """Threads that torch computes with; 0 leaves torch's default. One makes the results independent of the number of
    cores and is fastest for small networks; large ones gain from more. With seeds: runs that compute at once."""
    run_dir: str | None = None
    """Folder of the run, new or empty; default runs/<agent>-<env>-seed<seed>-<UTC time>."""
    checkpoint_every: Annotated[int, Range(ge=0)] = 50_000
    """Environment steps between checkpoints; 0 writes only the last one."""
    keep_checkpoints: Annotated[int, Range(ge=1)] = 3
    """Newest checkpoints kept, beside the best one by evaluation."""
    eval_every: Annotated[int, Range(ge=0)] = 50_000
    """Environment steps between evaluations; 0 for none."""
    eval_episodes: Annotated[int, Range(ge=1)] = 10
    """Episodes of one evaluation, acted deterministically in environments of their own."""
    log_every: Annotated[int, Range(ge=1)] = 5_000
    """Environment steps between rows of progress.csv and of TensorBoard."""
    action_repeat: Annotated[int, Range(ge=1)] = 1
    """Simulator control steps per action; rewards are summed."""
    frame_stack: Annotated[int, Range(ge=1)] = 1
    """Last observations that the agent sees together."""
    max_episode_steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps, before action repeat, after which an episode is truncated; default is the task's own limit."""
    env_timeout: Annotated[float, Range(gt=0)] | None = None
    """Seconds that a step or reset of an environment may take before the run ends, with a checkpoint; default is no
    limit."""
    from_pixels: bool = False
    """Whether the agent sees images instead of the state."""
    image_size: Annotated[int, Range(ge=8, le=1024)] = 84
    """Height and width of the images."""
    normalize_observations: bool = False
    """Whether observations are shifted and scaled by their running mean and variance (VecNormalize)."""
    normalize_rewards: bool = False
    """Whether rewards are scaled by the running deviation of the discounted return (VecNormalize)."""
    profile: bool = False
    """Whether to measure where the time goes: a table at the end, profile.json, and a trace of one second."""
    wandb: str | None = None
    """Weights & Biases project that the rows of progress.csv are sent to as well; needs pip install 'rlopt[wandb]'."""
    wandb_entity: str | None = None
    """User or team that the project is of; default is W&B's own, as WANDB_ENTITY sets it."""
    wandb_group: str | None = None
    """Group of the run there; default is WANDB_RUN_GROUP, and for runs started together the name of their folder."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """online sends while training, offline keeps the rows for wandb sync; default is WANDB_MODE, then online."""
