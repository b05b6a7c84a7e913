"""The arguments of :func:`rlopt.make_env`, checked and JSON-able. Imports no torch."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlopt.errors import ConfigError, unknown_name

BACKENDS = ("auto", "envpool", "gymnasium", "warp")
RENDER_MODES = (None, "rgb_array")


@dataclass(frozen=True)
class EnvSettings:
    """The arguments of :func:`rlopt.make_env`; ``make_env(**settings.as_dict())`` makes an equal environment.

    Raises :class:`rlopt.errors.ConfigError` when a value has the wrong type or lies outside its range.
    """

    id: str
    """``dm_control/<domain>-<task>`` or any Gymnasium id."""
    n_envs: int = 1
    """Copies stepped together, [1, 65536]."""
    seed: int = 0
    """Root of the random streams, >= 0; every copy gets its own, and no other root shares one of them."""
    backend: str = "auto"
    """``envpool``, ``gymnasium``, ``warp`` (dm_control on :attr:`device`) or ``auto`` (EnvPool for four or more copies
    of a parity-tested task)."""
    action_repeat: int = 1
    """Environment steps per action, [1, 100]; rewards are summed and the repeat stops where the episode ends."""
    frame_stack: int = 1
    """Observations concatenated along the first axis, oldest first, [1, 100]."""
    from_pixels: bool = False
    """Observe uint8 images [3 * frame_stack, image_size, image_size] instead of the state."""
    image_size: int = 84
    """Height and width of pixel observations, [8, 1024]."""
    camera_id: int = 0
    """MuJoCo camera of pixel observations and videos; -1 is the free camera, and 0 is, too, for a model without any."""
    fast_render: bool = False
    """Drop shadows and anti-aliasing: several times faster on a CPU, but other images than the benchmark's."""
    max_episode_steps: int | None = None
    """Environment steps (before action repeat) after which an episode is truncated; None is the task's own limit."""
    render_mode: str | None = None
    """``rgb_array`` lets ``render()`` return images [H, W, 3]."""
    num_threads: int | None = None
    """EnvPool worker threads, [1, 1024]; None takes one per copy up to the number of cores."""
    env_kwargs: dict[str, Any] | None = None
    """Further arguments of the environment's constructor, JSON-able; only with the gymnasium backend."""
    device: str = "auto"
    """Where the warp backend simulates: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU where there is one."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise ConfigError(f"the environment id must be a string such as 'HalfCheetah-v5', got {self.id!r}")
        for name, low, high in (
            ("n_envs", 1, 65536),
            ("seed", 0, 2**63 - 1),
            ("action_repeat", 1, 100),
            ("frame_stack", 1, 100),
            ("image_size", 8, 1024),
            ("camera_id", -1, 1000),
            ("max_episode_steps", 1, 10**9),
            ("num_threads", 1, 1024),
        ):
            self._check_integer(name, low, high)
        for name in ("from_pixels", "fast_render"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.backend not in BACKENDS:
            raise unknown_name("backend", str(self.backend), BACKENDS)
        if self.render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode must be None or 'rgb_array', got {self.render_mode!r}")
        if not isinstance(self.device, str):
            raise ConfigError(f"device must be a name such as 'cuda', got {self.device!r}")
        self._check_kwargs()

    def _check_integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if value is None and name in ("max_episode_steps", "num_threads"):
            return
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
        if not low <= value <= high:
            raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")
        object.__setattr__(self, name, int(value))

    def _check_kwargs(self) -> None:
        if self.env_kwargs is None:
            return
        if not isinstance(self.env_kwargs, dict):
            raise ConfigError(f"env_kwargs must be a dict, got {self.env_kwargs!r}")
        try:
            copied = json.loads(json.dumps(self.env_kwargs))
        except (TypeError, ValueError):
            raise ConfigError(
                "env_kwargs must be JSON-able (a run writes them down): pass numbers, strings, lists and dicts, or "
                "register the environment with its own arguments"
            ) from None
        object.__setattr__(self, "env_kwargs", copied or None)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON-able keyword arguments of :func:`rlopt.make_env`."""
        return dataclasses.asdict(self)


def derive_seeds(seed: int, n_envs: int, generation: int = 0) -> list[int]:
    """Returns one seed in [0, 2**31) per environment, all different.

    Every seed is drawn from its own child of ``SeedSequence(seed)``, so that the batches of seed 1 and seed 2 share
    nothing, where ``seed + i`` would share all streams but one. The first seeds do not depend on ``n_envs``.

    :param generation: how often the batch has been recreated; each generation has its own streams
    """
    seeds: list[int] = []
    taken: set[int] = set()
    for index in range(n_envs):
        # Two children may draw the same 31 bits: the second then takes its next draw.
        draws = np.random.SeedSequence(seed, spawn_key=(generation, index)).generate_state(8) >> 1
        chosen = next(int(draw) for draw in draws if int(draw) not in taken)
        taken.add(chosen)
        seeds.append(chosen)
    return seeds
