"""The settings of a training run that do not depend on the agent. Imports no torch."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from rlopt.errors import ConfigError
from rlopt.settings.fields import JsonObject, Range


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a training run that do not depend on the agent."""

    env: str = ""
    """Environment id: dm_control/<domain>-<task>, a Gymnasium id such as HalfCheetah-v5, or rlopt/<name>. Required,
    here or in the preset. An agent that learns from a data set is evaluated there; its default is the environment of
    the data."""
    env_kwargs: Annotated[str | None, JsonObject()] = None
    """Arguments of the environment's constructor as a JSON object, such as '{"n_states": 12}' for rlopt/RiverSwim-v0,
    or as a mapping in a preset. EnvPool takes none."""
    preset: str | None = None
    """Name of settings that are known to work, such as dmc/cheetah-run, or the path of a YAML file or of a run's
    config.json; flags override them."""
    seed: Annotated[int, Range(ge=0, lt=2**31)] = 0
    """Seed of the networks, the actions and the environments."""
    seeds: str | None = None
    """Several seeds, such as 0..7 or 0,3,5, trained in one process with joint gradient steps. Each run has its own
    folder in run_dir, and the same result as alone."""
    init_from: str | None = None
    """Run folder or checkpoint whose policy the run starts with: all of it if the networks are the same, else the
    actor, such as a clone by bc. The optimisers start from their initial state. sac and its like act by this
    policy from the first step on, in place of the random steps of learning_starts."""
    reward: str | None = None
    """Folder of preferences (rlopt preferences new), or a run that was trained on one. A model learned from the
    preferences rewards the agent; if the folder names a teacher, the run asks it more questions. Evaluations and
    returns in the logs are the environment's."""
    total_timesteps: Annotated[int, Range(ge=1)] = 1_000_000
    """Environment steps to train for, summed over the environments. For an agent that learns from a data set, this and
    all the intervals below count gradient steps."""
    n_envs: Annotated[int, Range(ge=1)] = 1
    """Number of parallel environments."""
    backend: Literal["auto", "envpool", "gymnasium", "warp"] = "auto"
    """Library that steps the environments; auto takes EnvPool for four or more of them, if the task's parity is
    tested. warp simulates dm_control on the --device and needs pip install 'rlopt[warp]'."""
    device: str = "auto"
    """Torch device: auto, cpu, cuda, cuda:1, mps. Exact resume is promised on the CPU."""
    num_threads: Annotated[int, Range(ge=0, le=1024)] = 1
    """Number of torch's threads; 0 leaves torch's default. One thread makes the results independent of the number of
    cores and is fastest for small networks; large networks gain from more. With seeds, the number of runs that compute
    at once."""
    run_dir: str | None = None
    """Folder of the run, new or empty; default runs/<agent>-<env>-seed<seed>-<UTC time>."""
    checkpoint_every: Annotated[int, Range(ge=0)] = 50_000
    """Environment steps between checkpoints; 0 writes only the last one."""
    keep_checkpoints: Annotated[int, Range(ge=1)] = 3
    """Number of newest checkpoints to keep, besides the best one by evaluation."""
    eval_every: Annotated[int, Range(ge=0)] = 50_000
    """Environment steps between evaluations; 0 for none."""
    eval_episodes: Annotated[int, Range(ge=1)] = 10
    """Episodes of one evaluation, which acts deterministically in separate environments."""
    log_every: Annotated[int, Range(ge=1)] = 5_000
    """Environment steps between rows of progress.csv and of TensorBoard."""
    action_repeat: Annotated[int, Range(ge=1)] = 1
    """Simulator control steps per action; rewards are summed."""
    frame_stack: Annotated[int, Range(ge=1)] = 1
    """Number of most recent observations that the agent sees together."""
    max_episode_steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps, before action repeat, after which an episode is truncated; default is the task's own limit."""
    env_timeout: Annotated[float, Range(gt=0)] | None = None
    """Seconds that a step or reset of an environment may take before the run ends, with a checkpoint; default is no
    limit."""
    from_pixels: bool = False
    """Whether the agent sees images instead of the state."""
    image_size: Annotated[int, Range(ge=8, le=1024)] = 84
    """Height and width of the images."""
    fast_render: bool = False
    """Whether images are drawn without shadows and anti-aliasing, which is several times faster on a CPU; these images
    differ from the benchmark's."""
    normalize_observations: bool = False
    """Whether observations are shifted and scaled by their running mean and variance (VecNormalize)."""
    normalize_rewards: bool = False
    """Whether rewards are scaled by the running deviation of the discounted return (VecNormalize)."""
    profile: bool = False
    """Whether to measure where the time goes: a table at the end, profile.json, and a trace of one second."""
    wandb: str | None = None
    """Weights & Biases project that also receives the rows of progress.csv; needs pip install 'rlopt[wandb]'."""
    wandb_entity: str | None = None
    """User or team that owns the project; default is W&B's own, as WANDB_ENTITY sets it."""
    wandb_group: str | None = None
    """Group of the run in W&B; default is WANDB_RUN_GROUP, or for runs started together the name of their folder."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Whether W&B receives rows during training (online) or they are kept for wandb sync (offline); default is
    WANDB_MODE, then online."""


MOST_SEEDS = 1024
_SEED = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?", re.ASCII)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that ``text`` names: "0..7" is 0 to 7, "0,3,5" and "0..3,8" are lists.

    :raises rlopt.errors.ConfigError: for anything else, a seed outside [0, 2^31), one named twice, or more than 1024
    """
    seeds: list[int] = []
    for part in re.split(r"[,\s]+", text.strip()):
        span = _SEED.fullmatch(part)
        low, high = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if high < low:
            raise ConfigError(f"--seeds: {part[:40]!r} is not a seed: write 0..7 for the seeds 0 to 7, or 0,3,5")
        if high >= 2**31 or high - low >= MOST_SEEDS:
            raise ConfigError(f"--seeds: {part!r}: give at most {MOST_SEEDS} seeds below 2^31")
        seeds += range(low, high + 1)
    repeated = [seed for seed in seeds if seeds.count(seed) > 1]
    if repeated:
        raise ConfigError(f"--seeds: seed {repeated[0]} is named twice")
    if len(seeds) > MOST_SEEDS:
        raise ConfigError(f"--seeds: {len(seeds)} seeds: give at most {MOST_SEEDS}")
    return tuple(seeds)
