"""The gymnasium backend: environments stepped one after the other in this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rlopt.envs.backends.batch import Observation, ObservationBuffer, check_settings, float32_space, guard_actions
from rlopt.envs.calls import call, described
from rlopt.envs.outcomes import Interface
from rlopt.envs.settings import EnvSettings, derive_seeds
from rlopt.envs.state import exact_state, objects, shared, snapshots, statistics
from rlopt.envs.state.replay import ActionLog
from rlopt.errors import StateUnavailableError

_CURE = "give the environment get_state() and set_state(state)"


class GymnasiumVecEnv(DummyVecEnv):
    """Stable-Baselines3's in-process ``VecEnv`` with what rlopt adds on top.

    float32 observations, checked and clipped actions, action repeat, frame stack, independent seeds, exact state. What
    an environment raises or returns by mistake becomes a :class:`rlopt.errors.EnvFaultError` that names it.

    :param env_fns: make the environments
    :param settings: with the backend resolved
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]], settings: EnvSettings) -> None:
        self.settings = settings
        envs: list[gymnasium.Env[Any, Any]] = []
        self.seconds_to_make = 0.0
        for make in env_fns:
            started = time.perf_counter()
            envs.append(make())
            if len(envs) > 1:  # the first one imports much that another batch will find
                self.seconds_to_make = len(env_fns) * (time.perf_counter() - started)
        buffer = ObservationBuffer(envs[0].observation_space, len(envs), settings.frame_stack)
        names = [settings.id] if len(envs) == 1 else [f"{settings.id} (environment {i})" for i in range(len(envs))]
        self._interfaces = [Interface(name, envs[0].observation_space) for name in names]
        super().__init__([lambda env=env: env for env in envs])  # type: ignore[misc]
        self._buffer = buffer
        self.observation_space = buffer.space
        self.action_space = float32_space(self.action_space)
        self._methods = [exact_state.method_of(env) for env in self.envs]
        self._reference = snapshots.fresh_model(self.envs[0]) if "snapshot" in self._methods else None
        self._log: ActionLog | None = None
        # What another part of the state has is not looked into.
        self._kept = [
            env.unwrapped for env, method in zip(self.envs, self._methods, strict=True) if method in ("own", "snapshot")
        ]
        self._baseline = shared.Baseline(self.layers(), self._kept)
        if "replay" in self._methods:
            space = self.action_space
            self._log = ActionLog(len(envs), space.shape or (), space.dtype or np.int64, capacity=256)
        self._starts = [exact_state.EpisodeStart(env, self._baseline) for env in self.envs]
        self._totals = np.zeros(len(envs))
        self._started = False
        self.seed(settings.seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds every environment at the next ``reset``, from independent streams derived from ``seed``."""
        root = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._seeds = list(derive_seeds(root, self.num_envs))
        return self._seeds

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = guard_actions(actions, self.action_space, self.num_envs)

    def step_wait(self) -> VecEnvStepReturn:
        if self._log is not None:
            self._log.append(self.actions)
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            observation, rewards[index], terminated, truncated, info = self._step_one(index, self.actions[index])
            self._buffer.write(index, observation)
            dones[index] = terminated or truncated
            infos.append({**info, "TimeLimit.truncated": truncated and not terminated})
        self._buffer.advance()
        for index in np.flatnonzero(dones).tolist():
            infos[index]["terminal_observation"] = self._buffer.read_row(index)
            self._reset_one(index)
        return self._buffer.read(), rewards, dones, infos

    def reset(self) -> VecEnvObs:
        for index in range(self.num_envs):
            self._reset_one(index, self._seeds[index], self._options[index])
        self._started = True
        self._reset_seeds()
        self._reset_options()
        return self._buffer.read()

    def close(self) -> None:
        for interface, env in zip(self._interfaces, self.envs, strict=True):
            try:
                env.close()
            except Exception as error:  # what is to be told is how the work ended, not how it was cleared away
                print(f"warning: {interface.name} failed in close(): {described(error)}", file=sys.stderr)

    def start_episodes(self, seeds: Sequence[int]) -> Observation:
        """Resets the first ``len(seeds)`` environments, each with its own seed, for :meth:`step_rows`.

        :returns: the observations of all environments
        """
        for index, seed in enumerate(seeds):
            self._reset_one(index, int(seed))
        self._started = False  # for get_state: what follows begins with a reset
        return self._buffer.read()

    def step_rows(self, rows: np.ndarray, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray]:
        """Steps the environments ``rows`` only, and resets none; to be called for episodes that have not ended.

        :param rows: [n] indices
        :param actions: [n, *action]
        :returns: the observations of all environments, and rewards [n] and ends [n] of ``rows``
        """
        actions = guard_actions(actions, self.action_space, len(rows))
        rewards, ended = np.zeros(len(rows), np.float32), np.zeros(len(rows), bool)
        for position, index in enumerate(rows.tolist()):
            observation, rewards[position], terminated, truncated, _ = self._step_one(index, actions[position])
            self._buffer.write(index, observation)
            ended[position] = terminated or truncated
        self._buffer.advance()
        return self._buffer.read(), rewards, ended

    def _step_one(self, index: int, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        env, interface, total = self.envs[index], self._interfaces[index], 0.0
        for _ in range(self.settings.action_repeat):
            outcome = call(interface.name, "step", env.step, action)
            observation, reward, terminated, truncated, info = interface.step(outcome)
            total += reward
            if terminated or truncated:
                break
        self._totals[index] += total
        return observation, total, terminated, truncated, info

    def _reset_one(self, index: int, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        arguments: dict[str, Any] = {"options": options} if options else {}
        if self._methods[index] == "replay":
            self._starts[index].before_reset(seed, options)
        if self._log is not None:
            self._log.clear(index)
        self._totals[index] = 0.0
        interface = self._interfaces[index]
        outcome = call(interface.name, "reset", self.envs[index].reset, seed=seed, **arguments)
        observation, self.reset_infos[index] = interface.reset(outcome)
        self._buffer.write(index, observation)
        self._buffer.restart([index])

    def get_state(self) -> dict[str, Any]:
        """Everything that the coming steps depend on, as a tree of arrays, numbers and strings.

        :raises StateUnavailableError: when an environment that defines ``get_state`` says so
        """
        return {
            "settings": self.settings.as_dict(),
            "started": self._started,
            "seeds": None if self._started and not any(self._seeds) else list(self._seeds),
            "frames": self._buffer.get_state(),
            "log": self._log.get_state() if self._log is not None else None,
            "envs": [self._take(index) for index in range(self.num_envs)] if self._started else [],
            "objects": objects.capture(self.layers(), self._kept, self._baseline) if self._started else None,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Brings the environments to ``state``: the next steps are bit for bit those that would have followed.

        :raises StateUnavailableError: when the state is of other settings or another simulator version, when a replay
            does not lead back to it, or when something in it does not fit; all that fits is then restored
        """
        check_settings(state, self.settings)
        if "objects" not in state:
            raise StateUnavailableError("the state is of an older rlopt")
        seeds = [None] * self.num_envs if state["seeds"] is None else state["seeds"]
        if len(seeds) != self.num_envs or not all(exact_state.is_seed(seed) for seed in seeds):
            raise StateUnavailableError(f"the state's seeds are not {self.num_envs} integers or None: it is damaged")
        self._seeds, self._started = list(seeds), bool(state["started"])
        if not self._started:
            return
        if self._log is not None:
            self._log.set_state(state["log"])
        wrong: StateUnavailableError | None = None
        try:
            for index, saved in enumerate(state["envs"]):
                self._put(index, saved)
            self._check_frames(state["frames"])
        except StateUnavailableError as error:
            wrong = error  # what wrappers and attributes hold is kept even then
        try:
            lost = objects.restore(self.layers(), state["objects"], self._kept)
        except ValueError as error:
            raise StateUnavailableError(str(error)) from error
        if wrong is not None:
            if wrong.args == (exact_state.WRONG_REPLAY,):
                unread = ", ".join(f"{path} ({kind})" for path, kind in list(self.opaque().items())[:3])
                why = f", for Python cannot read {unread}" if unread else ""
                raise StateUnavailableError(f"{wrong}{why}: {_CURE}")
            raise wrong
        self._buffer.set_state(state["frames"])
        if lost:
            raise StateUnavailableError(f"{', '.join(dict.fromkeys(lost[:3]))} cannot be restored: {_CURE}")

    def _check_frames(self, frames: dict[str, Any]) -> None:
        """Raises StateUnavailableError unless the replays led to the saved observations."""
        replayed = [index for index, method in enumerate(self._methods) if method == "replay"]
        for key, rows in self._buffer.rows.items():
            if rows[replayed].tobytes() != frames["rows"][key or ""][replayed].tobytes():
                raise StateUnavailableError(exact_state.WRONG_REPLAY)

    def shared_state(self) -> Any:
        """What the classes and modules of the environments hold, for :func:`rlopt.envs.state.objects.put_back`."""
        return objects.shared_state(self.layers(), self._kept)

    def shares_with(self, other: GymnasiumVecEnv) -> str | None:
        """The path of an object that these environments and ``other`` both hold; None if there is none.

        What belongs to classes and modules does not count, see :meth:`shared_state`.
        """
        own, others = (shared.own_objects(env.layers(), env._kept) for env in (self, other))
        return next((path for number, (_, path) in own.items() if number in others), None)

    def opaque(self) -> dict[str, str]:
        """What Python cannot read of the environments: path -> type. A replay may lead back to it all the same."""
        return objects.capture(self.layers(), self._kept)["opaque"]

    def own_contents(self) -> dict[str, str]:
        """What environments hold that give their own state, by path: after a restore it should be the same."""
        own = [env.unwrapped for env, method in zip(self.envs, self._methods, strict=True) if method == "own"]
        return objects.contents([(f"{index}", env) for index, env in enumerate(own)])

    def statistics(self) -> list[Any]:
        """What Gymnasium's normalising wrappers have counted, of each environment, for :meth:`set_statistics`."""
        return [statistics.statistics_of(snapshots.layers(env)) for env in self.envs]

    def set_statistics(self, counted: Sequence[Any], counting: bool) -> bool:
        """Gives Gymnasium's normalising wrappers what others have counted, and says whether they continue counting.

        :param counted: :meth:`statistics` of another batch of such environments, which may have another size
        :returns: False, with nothing changed, if the wrappers are others
        """
        return (
            bool(counted)
            and isinstance(counted, (list, tuple))
            and all(
                statistics.set_statistics(snapshots.layers(env), counted[index % len(counted)], counting)
                for index, env in enumerate(self.envs)
            )
        )

    def layers(self) -> list[tuple[str, Any]]:
        return [named for env in self.envs for named in exact_state.named_layers(env)]

    def _take(self, index: int) -> dict[str, Any]:
        env, method = self.envs[index], self._methods[index]
        if method == "snapshot":
            return snapshots.take(env, self._reference)
        if method == "own":
            return exact_state.take_own(env)
        if method == "objects":
            return {}
        return {
            "start": self._starts[index].record,
            "total": float(self._totals[index]),
            "elapsed": exact_state.elapsed_steps(env),
            "random": exact_state.random_states(env),
        }

    def _put(self, index: int, state: dict[str, Any]) -> None:
        env, method = self.envs[index], self._methods[index]
        if method == "snapshot":
            snapshots.put(env, self._reference, state)
        elif method == "own":
            exact_state.put_own(env, state)
        elif method == "objects":
            env.reset(seed=0)  # some attributes exist only after a reset
        else:
            self._replay(index, state)

    def _replay(self, index: int, state: dict[str, Any]) -> None:
        assert self._log is not None
        observation = self._starts[index].repeat(state["start"])
        self._totals[index] = 0.0
        for step in range(int(self._log.lengths[index])):
            action = self._log.at(np.array([index]), step)[0]
            observation, _, terminated, truncated, _ = self._step_one(index, action)
            if terminated or truncated:
                raise StateUnavailableError(exact_state.WRONG_REPLAY)
        self._buffer.write(index, observation)
        exact_state.check_replay(self.envs[index], self._totals[index], state)
