"""Exact resume: a run stopped at any boundary, written to disk and read into fresh objects goes on bit for bit."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

import rlopt
from rlopt.algorithms.resumable import Resumable
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, restore_state, save_checkpoint
from rlopt.errors import CheckpointError, ConfigError, StateUnavailableError
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.her import DeviceHerReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer


class _OnPolicy(Resumable):
    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        return super().collect_rollouts(*args, **kwargs) if self.at_boundary() else False  # type: ignore[misc]


class _OffPolicy(Resumable):
    state_attributes = ("rollouts",)
    rollouts = 0

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        if not self.at_boundary():
            return RolloutReturn(0, 0, False)
        self.rollouts += 1
        return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]


class ResumablePPO(_OnPolicy, PPO):
    pass


class ResumableSAC(_OffPolicy, SAC):
    pass


class ResumableTD3(_OffPolicy, TD3):
    pass


class ResumableDQN(_OffPolicy, DQN):
    pass


class DriftVecEnv(VecEnv):
    """Points that drift at random: each environment has a generator of its own, episodes end or are cut at random."""

    def __init__(self, n_envs: int, kind: str = "box", discrete: bool = False, state: str = "yes") -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        observation: spaces.Space[Any] = box
        if kind == "dict":
            observation = spaces.Dict({"where": box, "phase": spaces.Discrete(4)})
        elif kind == "goal":
            observation = spaces.Dict({"observation": box, "achieved_goal": box, "desired_goal": box})
        action = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(n_envs, observation, action)
        self.kind, self.state = kind, state
        self.generators = [np.random.default_rng(100 + index) for index in range(n_envs)]
        self.x, self.goal = np.zeros((n_envs, 3)), np.zeros((n_envs, 3))
        self.steps, self.limits = np.zeros(n_envs, int), np.zeros(n_envs, int)

    def _restart(self, index: int) -> None:
        generator = self.generators[index]
        self.x[index], self.goal[index] = generator.normal(size=3) * 0.1, generator.normal(size=3)
        self.steps[index], self.limits[index] = 0, generator.integers(4, 9)

    def _observe(self) -> Any:
        x, goal = self.x.astype(np.float32), self.goal.astype(np.float32)
        if self.kind == "dict":
            return {"phase": self.steps % 4, "where": x}
        if self.kind == "goal":
            return {"achieved_goal": x.copy(), "desired_goal": goal, "observation": x}
        return x

    def reset(self) -> Any:
        for index in range(self.num_envs):
            self._restart(index)
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = np.asarray(actions, float).reshape(self.num_envs, -1)

    def step_wait(self) -> Any:
        for index, generator in enumerate(self.generators):
            self.x[index] += 0.3 * self.actions[index].sum() + 0.1 * generator.normal(size=3)
        self.steps += 1
        rewards = -np.abs(self.x).sum(1).astype(np.float32)
        ended, cut = np.abs(self.x).max(1) > 2, self.steps >= self.limits
        observations, infos = self._observe(), []
        for index in range(self.num_envs):
            info: dict[str, Any] = {"noise": float(self.x[index, 0]), "is_success": bool(ended[index])}
            if ended[index] or cut[index]:
                part = {k: v[index].copy() for k, v in observations.items()} if isinstance(observations, dict) else None
                info["terminal_observation"] = observations[index].copy() if part is None else part
                info["TimeLimit.truncated"] = bool(cut[index] and not ended[index])
                self._restart(index)
            infos.append(info)
        return self._observe(), rewards, ended | cut, infos

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, infos: Any) -> np.ndarray:
        return -np.abs(achieved - desired).sum(-1) + np.array([info.get("noise", 0.0) for info in infos])

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [getattr(self, method_name)(*args, **kwargs)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs if attr_name == "render_mode" else [getattr(self, attr_name)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None: ...

    def get_state(self) -> dict[str, Any]:
        if self.state == "no":
            raise StateUnavailableError("this simulator keeps its secrets")
        states = [generator.bit_generator.state for generator in self.generators]
        arrays = {name: getattr(self, name).copy() for name in ("x", "goal", "steps", "limits")}
        return {"generators": states, **arrays}

    def set_state(self, state: dict[str, Any]) -> None:
        for generator, words in zip(self.generators, state["generators"], strict=True):
            generator.bit_generator.state = words
        for name in ("x", "goal", "steps", "limits"):
            setattr(self, name, state[name].copy())


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The paths at which two trees differ in type, dtype, shape or any bit."""
    if type(a) is not type(b):
        return [f"{path}: {type(a)} is not {type(b)}"]
    if isinstance(a, dict):
        keys = [] if a.keys() == b.keys() else [f"{path}: {sorted(a)} are not {sorted(b)}"]
        return keys + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        sizes = [] if len(a) == len(b) else [f"{path}: {len(a)} items are not {len(b)}"]
        return sizes + [d for i, (x, y) in enumerate(zip(a, b, strict=False)) for d in differences(x, y, f"{path}/{i}")]
    if isinstance(a, torch.Tensor):
        a, b = a.detach().numpy(), b.detach().numpy()
    if isinstance(a, (np.ndarray, np.generic)):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, float):
        same = struct.pack("d", a) == struct.pack("d", b)
    else:
        same = a == b
    return [] if same else [f"{path}: {a!r} is not {b!r}"]


def without_clock(trees: dict[str, Any]) -> dict[str, Any]:
    """``trees`` without the times of day that episodes ended."""
    for info in trees["training"]["ep_info_buffer"]:
        info.pop("t", None)
    return trees


def stop_at(steps: int, model: Any) -> None:
    model.boundary_hook = lambda learner: learner.num_timesteps < steps


def bare(env: VecEnv) -> VecEnv:
    return env


def monitored(env: VecEnv) -> VecEnv:
    return VecMonitor(env)


def normalized(env: VecEnv) -> VecEnv:
    keys = ["where"] if isinstance(env.observation_space, spaces.Dict) else None
    return VecNormalize(VecMonitor(env), gamma=0.9, norm_obs_keys=keys)


def stacked(env: VecEnv) -> VecEnv:
    return VecMonitor(VecFrameStack(env, 3))


def goal_normalized(env: VecEnv) -> VecEnv:
    return VecNormalize(VecMonitor(env), norm_obs_keys=["observation"])


Make = Callable[[], Any]


def ppo(wrap: Any, n_envs: int = 2, policy: str = "MlpPolicy", kind: str = "box", **settings: Any) -> Make:
    def make() -> Any:
        env = wrap(DriftVecEnv(n_envs, kind, discrete))
        chosen = {
            "n_steps": 8,
            "batch_size": 4,
            "n_epochs": 2,
            "policy_kwargs": {"net_arch": [8]},
            "seed": 3,
        } | settings
        model = ResumablePPO(policy, env, device="cpu", **chosen)
        model.constructor_settings = {"policy": policy, **chosen}
        return model

    discrete = settings.pop("discrete", False)
    return make


def off_policy(
    cls: Any, wrap: Any, n_envs: int = 1, policy: str = "MlpPolicy", kind: str = "box", **settings: Any
) -> Make:
    def make() -> Any:
        env = wrap(DriftVecEnv(n_envs, kind, discrete=cls is ResumableDQN))
        chosen = {
            "buffer_size": 60,
            "learning_starts": 20,
            "batch_size": 8,
            "policy_kwargs": {"net_arch": [8]},
            "seed": 3,
        }
        chosen |= {"train_freq": 4, **{key: value() if callable(value) else value for key, value in settings.items()}}
        model = cls(policy, env, device="cpu", **chosen)
        model.constructor_settings = {"policy": policy, **chosen}
        return model

    return make


def ou_noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2))


def her_class() -> type:
    return HerReplayBuffer


def on_device(cls: type) -> Callable[[], type]:
    return lambda: cls


HER = {"replay_buffer_class": her_class, "learning_starts": 30}
HER_ON_DEVICE = {**HER, "replay_buffer_class": on_device(DeviceHerReplayBuffer)}
CASES: dict[str, Make] = {
    "ppo": ppo(monitored),
    "ppo, normalised": ppo(normalized, n_envs=3, learning_rate=LinearSchedule(1e-3, 1e-4, 0.8)),
    "ppo, gSDE": ppo(normalized, use_sde=True, sde_sample_freq=3),
    "ppo, Dict observations": ppo(normalized, policy="MultiInputPolicy", kind="dict"),
    "ppo, frame stack": ppo(stacked, n_envs=1),
    "ppo, Discrete actions": ppo(monitored, discrete=True),
    "sac": off_policy(ResumableSAC, monitored),
    "sac, 3 envs, normalised": off_policy(ResumableSAC, normalized, 3, gradient_steps=-1),
    "sac, gSDE": off_policy(ResumableSAC, monitored, 2, use_sde=True, use_sde_at_warmup=True),
    "sac, n-step": off_policy(ResumableSAC, normalized, 2, n_steps=3, ent_coef=0.1),
    "sac, memory saving": off_policy(
        ResumableSAC,
        monitored,
        optimize_memory_usage=True,
        replay_buffer_kwargs=lambda: {"handle_timeout_termination": False},
    ),
    "sac, Dict observations": off_policy(ResumableSAC, normalized, 2, "MultiInputPolicy", "dict"),
    "sac, HER": off_policy(ResumableSAC, goal_normalized, 2, "MultiInputPolicy", "goal", **HER),
    "sac, HER with infos": off_policy(
        ResumableSAC, bare, 1, "MultiInputPolicy", "goal", replay_buffer_kwargs=lambda: {"copy_info_dict": True}, **HER
    ),
    "sac, on the device": off_policy(
        ResumableSAC, normalized, 3, replay_buffer_class=on_device(DeviceReplayBuffer), gradient_steps=-1
    ),
    "sac, on the device, memory saving": off_policy(
        ResumableSAC,
        monitored,
        optimize_memory_usage=True,
        replay_buffer_class=on_device(DeviceReplayBuffer),
        replay_buffer_kwargs=lambda: {"handle_timeout_termination": False},
    ),
    "sac, on the device, n-step": off_policy(
        ResumableSAC,
        normalized,
        2,
        replay_buffer_class=on_device(DeviceNStepReplayBuffer),
        replay_buffer_kwargs=lambda: {"n_steps": 3},
    ),
    "sac, on the device, Dict observations": off_policy(
        ResumableSAC, normalized, 2, "MultiInputPolicy", "dict", replay_buffer_class=on_device(DeviceDictReplayBuffer)
    ),
    "sac, on the device, HER": off_policy(
        ResumableSAC, goal_normalized, 2, "MultiInputPolicy", "goal", **HER_ON_DEVICE
    ),
    "sac, on the device, HER with infos": off_policy(
        ResumableSAC,
        bare,
        1,
        "MultiInputPolicy",
        "goal",
        replay_buffer_kwargs=lambda: {"copy_info_dict": True},
        **HER_ON_DEVICE,
    ),
    "sac, noise per env": off_policy(ResumableSAC, monitored, 2, action_noise=ou_noise),
    "sac, AdamW with AMSGrad": off_policy(
        ResumableSAC,
        monitored,
        policy_kwargs=lambda: {
            "net_arch": [8],
            "optimizer_class": torch.optim.AdamW,
            "optimizer_kwargs": {"amsgrad": True},
        },
    ),
    "td3": off_policy(ResumableTD3, monitored, action_noise=ou_noise),
    "td3, 2 envs": off_policy(
        ResumableTD3, monitored, 2, action_noise=lambda: NormalActionNoise(np.zeros(2), np.ones(2) * 0.1)
    ),
    "dqn": off_policy(ResumableDQN, monitored, target_update_interval=8, exploration_fraction=0.5),
}


def mdpo() -> Any:
    env = normalized(rlopt.make_env("Pendulum-v1", n_envs=2, seed=1, backend="gymnasium"))
    settings = {"n_steps": 8, "n_epochs": 2, "value_batch_size": 4, "policy_kwargs": {"net_arch": [8]}, "seed": 3}
    return rlopt.MDPO("MlpPolicy", env, device="cpu", **settings)


def off_policy_mdpo() -> Any:
    env = normalized(rlopt.make_env("Pendulum-v1", n_envs=2, seed=1, backend="gymnasium"))
    settings = {"learning_starts": 20, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}, "seed": 3}
    return rlopt.OffPolicyMDPO(
        "MlpPolicy",
        env,
        device="cpu",
        buffer_size=60,
        kl_coef=0.1,
        old_policy_period=7,
        value_network=True,
        n_steps=2,
        **settings,
    )


CASES |= {"mdpo": mdpo, "off_policy_mdpo": off_policy_mdpo}


def final_state(model: Any, total: int, trees: Any = None) -> dict[str, Any]:
    """Trains to the first boundary at or after ``total`` steps; returns the state there."""
    stop_at(total, model)
    log_interval = 4 if isinstance(model, OffPolicyAlgorithm) else None
    if trees is None:
        model.learn(10 * total, log_interval=log_interval)
    else:
        assert learn_from(model, trees, 10 * total, log_interval=log_interval) is model
    return without_clock(capture_state(model))


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(name: str, tmp_path: Any) -> None:
    # Three quarters of a buffer of 60 rows, then past its end: both a partly filled and a full one are restored.
    total = 96
    uninterrupted = final_state(CASES[name](), total)
    assert uninterrupted["training"]["num_timesteps"] >= total
    rng = np.random.default_rng(sum(map(ord, name)))
    stops = {0, 45} if name in ("ppo", "sac") else {int(rng.integers(30, total))}
    for stop in sorted(stops):
        stopped = CASES[name]()
        stop_at(stop, stopped)
        stopped.learn(10 * total, log_interval=4 if isinstance(stopped, OffPolicyAlgorithm) else None)
        path = save_checkpoint(stopped, tmp_path)
        torch.rand(3), np.random.rand(3)  # whatever happens between the two processes
        resumed = final_state(CASES[name](), total, read_checkpoint(path).trees)
        assert differences(uninterrupted, resumed) == [], f"stopped at {stop}"


def test_comparison_sees_a_single_bit() -> None:
    """The comparison of this file would notice what it is there to notice."""
    state = capture_state(CASES["sac"]())
    other = capture_state(CASES["sac"]())
    assert differences(state, other) == []
    other["random"]["torch"][100] ^= 1
    assert len(differences(state, other)) == 1
    other = capture_state(CASES["sac"]())
    key = "actor.latent_pi.0.weight"
    other["networks"]["modules"]["policy"][key] = other["networks"]["modules"]["policy"][key].double()
    assert len(differences(state, other)) == 1


def test_training_is_not_trivially_equal() -> None:
    """Without restoring at the first boundary the runs differ: the test above could fail."""
    uninterrupted = final_state(CASES["sac, noise per env"](), 100)
    stopped = CASES["sac, noise per env"]()
    stop_at(50, stopped)
    stopped.learn(1000)
    resumed = CASES["sac, noise per env"]()
    restore_state(resumed, capture_state(stopped))
    stop_at(100, resumed)
    resumed.learn(1000 - resumed.num_timesteps, reset_num_timesteps=False)  # plain SB3: resets the noise
    assert differences(uninterrupted, without_clock(capture_state(resumed))) != []


def test_capture_is_a_snapshot_unless_views_are_asked_for() -> None:
    model = CASES["sac"]()
    stop_at(40, model)
    model.learn(1000)
    snapshot, views = capture_state(model), capture_state(model, copy=False)
    before = snapshot["replay"]["rows"]["rewards"][0, 0].copy()
    model.replay_buffer.rewards[0, 0] += 1
    next(model.policy.parameters()).data.add_(1)
    assert snapshot["replay"]["rows"]["rewards"][0, 0] == before
    assert views["replay"]["rows"]["rewards"][0, 0] == before + 1
    name = next(iter(dict(model.policy.named_parameters())))
    assert not torch.equal(snapshot["networks"]["modules"]["policy"][name], model.policy.state_dict()[name])


@pytest.mark.parametrize("name", ["sac, n-step", "sac, HER", "sac, memory saving", "sac, noise per env", "ppo"])
def test_an_env_without_state_starts_fresh_episodes_and_says_so(name: str) -> None:
    stopped = CASES[name]()
    stopped.env.unwrapped.state = "no"
    stop_at(46, stopped)
    stopped.learn(1000, log_interval=None)
    trees = capture_state(stopped)
    assert trees["env"]["available"] is False
    assert "secrets" in trees["env"]["reason"]
    resumed, said = CASES[name](), []
    stop_at(96, resumed)
    learn_from(resumed, trees, 1000, report=said.append, log_interval=None)
    assert len(said) == 1
    assert "secrets" in said[0] and "fresh episodes" in said[0]
    assert resumed.num_timesteps >= 96
    fresh = CASES[name]()
    assert "fresh episodes" in str(restore_state(fresh, trees))
    assert (fresh.env.unwrapped.steps == 0).all()
    assert fresh._last_episode_starts.all()
    buffer = getattr(fresh, "replay_buffer", None)
    if name == "sac, n-step":
        # The row before the cut ends its episodes, as a timeout or an end: no n-step return runs across it.
        row = (stopped.replay_buffer.pos - 1) % buffer.buffer_size
        assert ((buffer.timeouts[row] + buffer.dones[row]) >= 1).all()
    if name == "sac, HER":
        assert (stopped.replay_buffer.ep_length[: buffer.pos] == 0).any()  # an episode was running
        assert (buffer.ep_length[: buffer.pos] > 0).all()
        assert (buffer.timeouts[buffer.pos - 1] * buffer.dones[buffer.pos - 1] == 1).all()
    if name == "sac, memory saving":
        assert buffer.dones[buffer.pos - 1] == 1


def test_a_wrapper_without_state_is_named() -> None:
    class Foreign(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            return self.venv.step_wait()

    model = ResumablePPO("MlpPolicy", Foreign(DriftVecEnv(1)), n_steps=8, batch_size=8, device="cpu")
    model.constructor_settings = {"policy": "MlpPolicy"}
    state = capture_state(model)["env"]
    assert state["available"] is False
    assert "Foreign" in state["reason"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (CASES["ppo"], "agent"),
        (off_policy(ResumableSAC, monitored, 2), "n_envs 1, this model 2"),
        (off_policy(ResumableSAC, monitored, 1, "MultiInputPolicy", "dict"), "observation_space Box(-inf, inf, (3,)"),
        (off_policy(ResumableSAC, monitored, policy_kwargs=lambda: {"net_arch": [9]}), "(8, 3), this model of"),
        (off_policy(ResumableSAC, monitored, buffer_size=61), "60 rows of 1 environments, this model's 61"),
        (off_policy(ResumableSAC, monitored, n_steps=3), "ReplayBuffer, this model's NStepReplayBuffer"),
        (off_policy(ResumableSAC, monitored, ent_coef=0.1), "should be"),
        (off_policy(ResumableSAC, normalized), "[VecMonitor], this one [VecNormalize, VecMonitor]"),
    ],
)
def test_another_models_checkpoint_is_refused_naming_both(other: Make, says: str) -> None:
    model = CASES["sac"]()
    stop_at(40, model)
    model.learn(1000)
    trees, misfit = capture_state(model), other()
    before = capture_state(misfit)
    with pytest.raises(CheckpointError) as caught:
        restore_state(misfit, trees)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert differences(before["networks"], capture_state(misfit)["networks"]) == []


def test_a_setting_that_cannot_be_written_is_named_with_the_cure() -> None:
    model = CASES["sac"]()
    model.constructor_settings = {"policy": "MlpPolicy", "learning_rate": lambda progress: 1e-3 * progress}
    with pytest.raises(ConfigError, match=r"learning_rate is a function.*LinearSchedule"):
        capture_state(model)
    model.constructor_settings = {"policy_kwargs": {"features_extractor_class": DriftVecEnv}}
    with pytest.raises(ConfigError, match=r"policy_kwargs\['features_extractor_class'\] is the class DriftVecEnv"):
        capture_state(model)


def test_the_number_of_torch_threads_is_part_of_the_state() -> None:
    threads = torch.get_num_threads()
    model = CASES["ppo"]()
    try:
        torch.set_num_threads(2)
        trees = capture_state(model)
        torch.set_num_threads(1)
        restore_state(model, trees)
        assert torch.get_num_threads() == 2
        trees["random"]["threads"] = 10**9
        with pytest.raises(CheckpointError, match="threads"):
            restore_state(model, trees)
    finally:
        torch.set_num_threads(threads)


def test_a_random_state_outside_its_key_is_refused() -> None:
    model = CASES["ppo"]()
    trees = capture_state(model)
    trees["random"]["numpy"]["pos"] = 10**6
    with pytest.raises(CheckpointError, match="numpy random state"):
        restore_state(model, trees)
