"""Replay on the device against Stable-Baselines3's buffers with the same random numbers, bit for bit."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from reach import needs_compiler
from replay import ACTIONS, assert_equal_batches, draw, fill, normalizer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from rlopt.errors import ConfigError, SpaceError
from rlopt.replay import memory as replay_memory
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.memory import replay_bytes
from rlopt.replay.n_step import DeviceNStepReplayBuffer, numpy_sum

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACES: dict[str, spaces.Space] = {
    "float32": VECTOR,
    "float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (3, 5, 4), np.uint8),
    "Discrete": spaces.Discrete(6),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(5),
}
DICT = spaces.Dict({"vector": VECTOR, "image": SPACES["image"], "actions": spaces.Discrete(4)})
SAVING = {"optimize_memory_usage": True, "handle_timeout_termination": False}
PAIRS: dict[str, tuple[type[ReplayBuffer], type[DeviceReplayBuffer], spaces.Space, dict[str, Any]]] = {
    **{name: (ReplayBuffer, DeviceReplayBuffer, space, {}) for name, space in SPACES.items()},
    "memory saving": (ReplayBuffer, DeviceReplayBuffer, VECTOR, SAVING),
    "no time limits": (ReplayBuffer, DeviceReplayBuffer, VECTOR, {"handle_timeout_termination": False}),
    "Dict": (DictReplayBuffer, DeviceDictReplayBuffer, DICT, {}),
    **{
        f"{n}-step": (NStepReplayBuffer, DeviceNStepReplayBuffer, VECTOR, {"n_steps": n, "gamma": 0.97})
        for n in (1, 3, 7, 21)
    },
}


def pair(name: str, n_envs: int = 3, size: int = 60) -> tuple[ReplayBuffer, DeviceReplayBuffer]:
    theirs, ours, space, settings = PAIRS[name]
    arguments = {"device": "cpu", "n_envs": n_envs, **settings}
    return theirs(size, space, ACTIONS, **arguments), ours(size, space, ACTIONS, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_samples_are_stable_baselines3s_bit_for_bit(name: str, n_envs: int) -> None:
    theirs, ours = pair(name, n_envs)
    # One transition, a part, exactly full, and past the end twice.
    for steps in (1, 8, 60 // n_envs - 9, 13, 75):
        fill([theirs, ours], steps, seed=steps, end=0.15)
        assert (theirs.pos, theirs.full, theirs.size()) == (ours.pos, ours.full, ours.size())
        for seed in range(4):
            assert_equal_batches(draw(theirs, 200, seed), draw(ours, 200, seed))
        assert np.random.randint(2**31) == (draw(theirs, 200, 3), np.random.randint(2**31))[1]


@pytest.mark.parametrize("name", ["float32", "float64", "memory saving", "Dict", "3-step"])
@pytest.mark.parametrize("rewards", [True, False])
def test_normalised_samples_are_stable_baselines3s(name: str, rewards: bool) -> None:
    theirs, ours = pair(name)
    keys = {"norm_obs_keys": ["vector"]} if name == "Dict" else {}
    env = normalizer(ours.observation_space, 3, norm_reward=rewards, **keys)
    fill([theirs, ours], 50)
    expected = draw(theirs, 300, env=env)
    assert_equal_batches(expected, draw(ours, 300, env=env))
    plain = draw(ours, 300)
    assert torch.equal(plain.rewards, expected.rewards) != rewards
    env.norm_obs = False
    assert_equal_batches(draw(theirs, env=env), draw(ours, env=env))


def test_discrete_actions_and_double_actions() -> None:
    for actions in (spaces.Discrete(5), spaces.Box(-1, 1, (2,), np.float64), spaces.MultiBinary(3)):
        theirs, ours = (cls(40, VECTOR, actions, device="cpu", n_envs=2) for cls in (ReplayBuffer, DeviceReplayBuffer))
        fill([theirs, ours], 30)
        assert_equal_batches(draw(theirs), draw(ours))


def test_a_batch_is_no_view_of_the_buffer_nor_the_buffer_of_what_was_added() -> None:
    _, ours = pair("float32")
    observations = np.ones((3, 3), np.float32)
    ours.add(observations, observations, np.zeros((3, 2)), np.zeros(3), np.zeros(3), [{}] * 3)
    observations[:] = 2
    batch = draw(ours)
    assert (batch.observations == 1).all()
    batch.observations.zero_()
    assert (draw(ours).observations == 1).all()


@pytest.mark.parametrize("name", ["float32", "memory saving", "3-step"])
def test_rows_drawn_by_torch_are_those_that_numpy_can_draw(name: str) -> None:
    """What an accelerator does, on the CPU: the same set of rows, all about equally often."""
    for steps in (7, 47):
        _, ours = pair(name)
        fill([ours], steps)
        by_numpy = ours.sample_rows(6000).bincount(minlength=60)
        ours._on_host = False
        torch.manual_seed(0)
        by_torch = ours.sample_rows(6000).bincount(minlength=60)
        assert ((by_torch > 0) == (by_numpy > 0)).all()
        expected = 6000 / int((by_torch > 0).sum())
        # Five standard deviations of a binomial count.
        assert ((by_torch[by_torch > 0] - expected).abs() < 5 * expected**0.5).all()


@pytest.mark.parametrize("name", PAIRS)
def test_what_an_accelerator_would_store_is_what_is_stored(name: str) -> None:
    _, ours = pair(name)
    _, other = pair(name)
    other._on_host = False
    fill([ours, other], 47)
    rows = torch.arange(60)
    assert_equal_batches(ours.gather(rows), other.gather(rows))


@needs_compiler
@pytest.mark.parametrize("name", ["float32", "memory saving", "Dict", "3-step"])
def test_gather_compiles_whole_and_follows_the_buffer(name: str) -> None:
    """Compiled without torch's guards, as the gradient step is: nothing about the buffer's position may be baked in."""
    _, ours = pair(name)
    torch._dynamo.reset()
    options: Any = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    compiled = torch.compile(lambda rows: ours.gather(rows), fullgraph=True, dynamic=False, options=options)
    for steps in (9, 8, 11, 7):  # partly filled, then past the end with pos anywhere
        fill([ours], steps, seed=steps)
        rows = ours.sample_rows(32)
        expected, got = ours.gather(rows), compiled(rows)
        for wanted, found in zip(expected, got, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_sums_in_numpys_order() -> None:
    rng = np.random.default_rng(0)
    for n in [*range(1, 26), 64, 127, 128]:
        terms = (rng.normal(size=(50, n)) * 10.0 ** rng.integers(-4, 4, (50, n))).astype(np.float32)
        assert np.array_equal(numpy_sum(torch.from_numpy(terms)).numpy(), terms.sum(axis=1)), n


def test_a_return_does_not_see_what_lies_beyond_its_end() -> None:
    """A NaN after the end of an episode, or in memory not yet written, does not reach a return before it."""
    ours = DeviceNStepReplayBuffer(10, VECTOR, ACTIONS, device="cpu", n_steps=3, gamma=0.5)
    zeros = np.zeros((1, 3), np.float32)
    for reward, done in ((1.0, False), (2.0, True), (np.nan, False)):
        ours.add(zeros, zeros, np.zeros((1, 2)), np.array([reward]), np.array([done]), [{}])
    ours.rewards[3:] = np.nan
    batch = ours.gather(torch.tensor([0, 1]))
    assert batch.rewards.tolist() == [[2.0], [2.0]]  # 1 + 0.5 * 2, and 2 alone
    assert batch.discounts.tolist() == [[0.25], [0.5]]
    assert batch.dones.tolist() == [[1.0], [1.0]]


# --- memory ---


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_taken_as_rows_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "free_memory", lambda device: None)
    space = spaces.Box(0, 255, (256, 64), np.uint8)
    before = resident_bytes()
    buffer = DeviceReplayBuffer(1_000_000, space, ACTIONS, device="cpu")
    assert buffer.observations.nbytes == 2**14 * 10**6
    zeros = np.zeros((1, *space.shape), np.uint8)
    for _ in range(100):
        buffer.add(zeros, zeros, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    draw(buffer)
    assert resident_bytes() - before < 100 * 2**20


@pytest.mark.parametrize("name", PAIRS)
def test_bytes_are_stated_before_they_are_taken(name: str) -> None:
    _, ours, space, settings = PAIRS[name]
    buffer = ours(61, space, ACTIONS, device="cpu", n_envs=3, **settings)  # type: ignore[arg-type]
    parts = [getattr(buffer, part) for part in buffer._fields]
    tensors = [tensor for part in parts for tensor in (part.values() if isinstance(part, dict) else [part])]
    saving = settings.get("optimize_memory_usage", False)
    assert replay_bytes(61, space, ACTIONS, 3, saving) == sum(tensor.nbytes for tensor in tensors)
    assert buffer.buffer_size == 20


def test_bytes_by_hand() -> None:
    # Two observations of 3 and an action of 2, reward, done and timeout, each of 4 bytes.
    assert replay_bytes(1000, VECTOR, ACTIONS) == 1000 * 4 * (2 * 3 + 2 + 3)


def test_what_does_not_fit_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "free_memory", lambda device: 44 * 1003)
    with pytest.raises(ConfigError, match=r"buffer_size=1004 needs .* lower buffer_size to at most 1002") as caught:
        DeviceReplayBuffer(1004, VECTOR, ACTIONS, device="cpu", n_envs=2)
    assert "\n" not in str(caught.value)
    DeviceReplayBuffer(1002, VECTOR, ACTIONS, device="cpu", n_envs=2)
    monkeypatch.setattr(replay_memory, "free_memory", lambda device: 43)
    with pytest.raises(ConfigError, match="more memory"):
        DeviceReplayBuffer(10, VECTOR, ACTIONS, device="cpu")


def test_the_free_memory_of_this_machine_is_known() -> None:
    free = replay_memory.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    if free is not None:
        with pytest.raises(ConfigError, match="lower buffer_size to at most"):
            DeviceReplayBuffer(10**12, VECTOR, ACTIONS, device="cpu")


def test_a_model_loaded_to_act_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_memory, "free_memory", lambda device: 0)
    with replay_memory.deferred_storage():
        buffer = DeviceReplayBuffer(1000, VECTOR, ACTIONS, device="cpu")
    assert "observations" not in vars(buffer)
    with pytest.raises(ConfigError, match="more memory"):
        fill([buffer], 1)
    monkeypatch.undo()
    fill([buffer], 5)
    assert draw(buffer).rewards.shape == (64, 1)


# --- what is refused ---


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="handle_timeout_termination=False"):
        DeviceReplayBuffer(10, VECTOR, ACTIONS, optimize_memory_usage=True)
    with pytest.raises(ConfigError, match="n-step"):
        DeviceNStepReplayBuffer(10, VECTOR, ACTIONS, **SAVING)
    with pytest.raises(ConfigError, match="n_steps is 0"):
        DeviceNStepReplayBuffer(10, VECTOR, ACTIONS, n_steps=0)
    with pytest.raises(ConfigError, match="not Dict"):
        DeviceDictReplayBuffer(10, VECTOR, ACTIONS)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="float128"):
        DeviceReplayBuffer(10, spaces.Box(-1, 1, (2,), np.longdouble), ACTIONS)
    for settings in ({}, SAVING):
        empty = DeviceReplayBuffer(10, VECTOR, ACTIONS, device="cpu", **settings)
        with pytest.raises(ConfigError, match="no transition"):
            empty.sample(3)
    with pytest.raises(AttributeError, match="has no attribute 'rewrads'"):
        _ = empty.rewrads


# --- copies ---


@pytest.mark.parametrize("name", ["float32", "memory saving", "Dict", "3-step"])
def test_pickled_buffers_go_on_alike_and_hold_only_filled_rows(name: str) -> None:
    _, ours = pair(name, size=60_000)
    fill([ours], 20)
    text = pickle.dumps(ours)
    assert len(text) < 60_000
    copy = pickle.loads(text)
    fill([ours, copy], 20, seed=2)
    assert_equal_batches(draw(ours), draw(copy))


def test_reset_empties_the_buffer() -> None:
    for name in ("float32", "3-step"):
        theirs, ours = pair(name)
        fill([theirs, ours], 30)
        theirs.reset(), ours.reset()
        fill([theirs, ours], 5)
        assert_equal_batches(draw(theirs), draw(ours))


def test_setting_the_device_moves_the_rows() -> None:
    _, ours = pair("3-step")
    fill([ours], 5)
    ours.device = torch.device("meta")
    assert ours.stored("observations").is_meta and ours._newest.is_meta


@pytest.mark.parametrize("dict_observations", [False, True])
def test_rows_are_read_as_arrays_as_those_of_stable_baselines(dict_observations: bool) -> None:
    """By numpy's functions and methods; on the CPU an array is what is learned from."""
    space = spaces.Box(-1, 1, (2,), np.float32)
    actions, kinds = spaces.Box(-1, 1, (3,), np.float32), (DeviceReplayBuffer, ReplayBuffer)
    observed: Any = space
    if dict_observations:
        observed, kinds = spaces.Dict({"a": space}), (DeviceDictReplayBuffer, DictReplayBuffer)
    ours, theirs = (kind(8, observed, actions, device="cpu", n_envs=2) for kind in kinds)
    generator = np.random.default_rng(0)
    for _ in range(3):
        shown = generator.normal(size=(2, 2)).astype(np.float32)
        seen: Any = {"a": shown} if dict_observations else shown
        step = generator.normal(size=(2, 3)).astype(np.float32), generator.normal(size=2), np.array([False, True])
        for buffer in (ours, theirs):
            buffer.add(seen, seen, *step, [{}, {}])
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        own, other = getattr(ours, name), getattr(theirs, name)
        own, other = (own["a"], other["a"]) if isinstance(other, dict) else (own, other)
        assert isinstance(own, np.ndarray) and own.dtype == other.dtype
        assert np.array_equal(own, other) and np.array_equal(own.copy(), other.copy())
        assert np.mean(own) == np.mean(other) and np.max(own, axis=0).shape == np.max(other, axis=0).shape
    ours.rewards[:] = 7.0
    assert ours.gather(torch.tensor([0, 1])).rewards.tolist() == [[7.0], [7.0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    """Stable-Baselines3 takes the CPU in its place."""
    for cls, space in ((DeviceReplayBuffer, VECTOR), (DeviceNStepReplayBuffer, VECTOR), (DeviceDictReplayBuffer, DICT)):
        with pytest.raises(ConfigError, match=device):
            cls(10, space, ACTIONS, device=device)
