"""The environment and the model of a run, as its settings describe them."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from rlopt.algorithms.initialization import begin_from
from rlopt.checkpoint.load import load
from rlopt.console.progress import say_once
from rlopt.envs.make import make_env
from rlopt.envs.vec_normalize import Normalize
from rlopt.errors import ConfigError, RloptError, SpaceError, one_line, require
from rlopt.registry import agent_spec, resolve
from rlopt.settings.device import check_device
from rlopt.settings.run import RunConfig
from rlopt.storage.json import parse_json

SMALLEST_IMAGE = 36
"""Height and width at which the last convolution of Stable-Baselines3's NatureCNN still has an output."""


def build(agent: str, run: RunConfig, agent_config: Any) -> tuple[BaseAlgorithm, Any]:
    """Makes the environment and the model of a run.

    The environment is ``make_env(...)``, in a VecMonitor, in a VecNormalize if the settings ask for one.

    :returns: the model and the settings of its environment, the backend resolved
    :raises rlopt.errors.RloptError: for settings or an environment that cannot be used
    :raises rlopt.errors.SpaceError: for spaces that the agent cannot be trained on
    :raises rlopt.errors.ConfigError: for a model that does not fit into memory
    """
    spec = agent_spec(agent)
    if spec.builder:
        require(run.init_from is None, f"{agent} begins from no other policy: leave --init-from out")
        require(run.reward is None, f"{agent} takes no learned reward: leave --reward out")
        built: tuple[BaseAlgorithm, Any] = resolve(spec.builder)(agent, run, agent_config)
        return built
    algorithm = resolve(spec.algorithm)
    if run.reward is not None:
        other = any(getattr(algorithm, name, False) for name in ("needs_demonstrations", "reads_no_rewards"))
        require(not other, f"{agent} learns from demonstrations and not from rewards: leave --reward out")
        shown = getattr(agent_config, "demos", "")
        require(not shown, "demonstrations bring the environment's rewards: leave --demos or --reward out")
    check_device(run.device)
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    arguments = agent_config.algorithm_kwargs() | (resolve(spec.arguments)(run, agent_config) if spec.arguments else {})
    if run.from_pixels and run.frame_stack > 1 and "buffer_size" in arguments:
        # Each frame is kept once: a replay of stacks would take 2 frame_stack times the memory.
        arguments.setdefault("replay_buffer_kwargs", {})["frames"] = run.frame_stack
    base = make_run_env(run)
    try:
        env: VecEnv = VecMonitor(base)
        if run.reward is not None:
            env = _rewarded(env, run)
        if run.normalize_observations or run.normalize_rewards:
            gamma = float(getattr(agent_config, "gamma", 0.99))
            env = Normalize(env, norm_obs=run.normalize_observations, norm_reward=run.normalize_rewards, gamma=gamma)
        check_images(env.observation_space)
        try:
            model: BaseAlgorithm = algorithm(
                policy_name(env.observation_space), env, seed=run.seed, device=run.device, **arguments
            )
        except RloptError:
            raise
        except (AssertionError, ValueError) as error:
            # Stable-Baselines3's own checks of the spaces.
            raise SpaceError(f"{agent} cannot be trained on {run.env}: {' '.join(str(error).split())}") from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise ConfigError(
                f"{agent} does not fit into memory ({one_line(error)}): lower n_steps or buffer_size, or net_arch"
            ) from error
        if run.init_from is not None:
            taken = begin_from(model, load(run.init_from, device=run.device))
            say_once(f"it begins with the policy of {run.init_from}: {taken}")
    except BaseException:
        base.close()
        raise
    return model, base.settings


def _rewarded(env: VecEnv, run: RunConfig) -> VecEnv:
    """``env`` with the reward that is learned from the preferences of the run."""
    from rlopt.preferences.environment import LearnedReward
    from rlopt.preferences.folder import load_preferences

    require(run.backend != "warp", "--reward needs transitions on the host: leave --backend warp out")
    learner = load_preferences(str(run.reward)).learner(env.observation_space, env.action_space, seed=run.seed)
    return LearnedReward(env, learner)


def env_arguments(run: RunConfig) -> dict[str, Any] | None:
    """What the constructor of a run's environment is given."""
    return None if run.env_kwargs is None else parse_json(run.env_kwargs)


def make_run_env(run: RunConfig) -> Any:
    """The environments that the settings of a run describe, without wrappers."""
    return make_env(
        run.env,
        n_envs=run.n_envs,
        seed=run.seed,
        backend=run.backend,
        action_repeat=run.action_repeat,
        frame_stack=run.frame_stack,
        from_pixels=run.from_pixels,
        image_size=run.image_size,
        fast_render=run.fast_render,
        max_episode_steps=run.max_episode_steps,
        env_kwargs=env_arguments(run),
        device=run.device,
    )


def policy_name(space: spaces.Space) -> str:
    """Stable-Baselines3's name of the policy for observations of ``space``."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def check_images(space: spaces.Space) -> None:
    """Raises :class:`rlopt.errors.SpaceError` for images that Stable-Baselines3's NatureCNN cannot take."""
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else [space]:
        # Channels come first or last; the shorter side is in the middle where they are few, as colours are.
        if is_image_space(part) and sorted(part.shape or ())[1] < SMALLEST_IMAGE:
            raise SpaceError(
                f"images of shape {part.shape} are too small for the convolutional network: give at least "
                f"{SMALLEST_IMAGE} x {SMALLEST_IMAGE}, with --image-size where rlopt draws them"
            )
