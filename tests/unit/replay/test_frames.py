"""Stacks of frames rebuilt from single frames against a plain buffer that was fed the same transitions."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from replay import ACTIONS, assert_equal_batches, draw

from rlopt.checkpoint.buffers import capture_buffer, check_buffer, restore_buffer
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.errors import CheckpointError, ConfigError
from rlopt.optim.compiled_step import compiler_found
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.memory import replay_bytes
from rlopt.replay.n_step import DeviceNStepReplayBuffer

CHANNELS, SIZE = 2, 4


def image_space(k: int) -> spaces.Box:
    return spaces.Box(0, 255, (k * CHANNELS, SIZE, SIZE), np.uint8)


class Pictures:
    """Environments that stack their last k frames; at a reset the older ones are the first frame, or zeros."""

    def __init__(self, k: int, n_envs: int, end: float, padding: str = "repeat", seed: int = 0) -> None:
        self.k, self.n_envs, self.end, self.padding = k, n_envs, end, padding
        self.rng = np.random.default_rng(seed)
        self.stacks = np.stack([self.first() for _ in range(n_envs)])

    def frame(self) -> np.ndarray:
        # Now and then a black picture, so that equal pictures follow each other and look like padding.
        dark = self.rng.random() < 0.2
        return self.rng.integers(0, 1 if dark else 256, (CHANNELS, SIZE, SIZE)).astype(np.uint8)

    def first(self) -> np.ndarray:
        frame = self.frame()
        older = frame if self.padding == "repeat" else np.zeros_like(frame)
        return np.concatenate([*[older] * (self.k - 1), frame])

    def transitions(self, steps: int) -> Iterator[Any]:
        for _ in range(steps):
            frames = np.stack([self.frame() for _ in range(self.n_envs)])
            after = np.concatenate([self.stacks[:, CHANNELS:], frames], axis=1)
            done = self.rng.random(self.n_envs) < self.end
            infos = [{"TimeLimit.truncated": bool(d and self.rng.random() < 0.5)} for d in done]
            actions = self.rng.normal(size=(self.n_envs, 2)).astype(np.float32)
            yield self.stacks.copy(), after.copy(), actions, self.rng.normal(size=self.n_envs), done, infos
            self.stacks = np.stack([self.first() if d else stack for d, stack in zip(done, after, strict=True)])


def feed(source: Pictures, steps: int, *buffers: DeviceReplayBuffer) -> None:
    for transition in source.transitions(steps):
        for buffer in buffers:
            buffer.add(*transition)


def build(k: int, frames: int, n_envs: int = 2, size: int = 40, n_steps: int = 1) -> Any:
    if n_steps > 1:
        return DeviceNStepReplayBuffer(
            size, image_space(k), ACTIONS, device="cpu", n_envs=n_envs, n_steps=n_steps, frames=frames
        )
    return DeviceReplayBuffer(size, image_space(k), ACTIONS, device="cpu", n_envs=n_envs, frames=frames)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("padding", ["repeat", "zeros"])
@pytest.mark.parametrize(("n_envs", "size"), [(1, 40), (3, 40), (1, 1), (1, 2), (2, 6)])
@pytest.mark.parametrize("end", [0.0, 0.1, 0.5, 1.0])
def test_stacks_are_those_that_were_added(k: int, padding: str, n_envs: int, size: int, end: float) -> None:
    source = Pictures(k, n_envs, end, padding)
    plain, framed = build(k, 1, n_envs, size), build(k, k, n_envs, size)
    for steps in (1, 5, 9, 41, 38):
        feed(source, steps, plain, framed)
        rows = torch.arange(plain.size() * n_envs)
        assert_equal_batches(plain.gather(rows), framed.gather(rows))
        assert_equal_batches(draw(plain), draw(framed))


def test_n_step_returns_of_stacks() -> None:
    source = Pictures(3, 2, 0.2)
    plain, framed = build(3, 1, n_steps=3), build(3, 3, n_steps=3)
    for steps in (9, 30):
        feed(source, steps, plain, framed)
        assert_equal_batches(draw(plain), draw(framed))


def test_each_frame_is_kept_once_and_freed_with_its_last_row() -> None:
    source = Pictures(3, 2, 0.05)
    framed = build(3, 3, size=400)
    feed(source, 3000, framed)
    # A row has one frame of its own; an episode, of 20 steps on average, one more to begin with.
    assert len(framed.get_state()["frames"]) < 400 * 1.15
    referred = np.unique(framed.stored("frame_index").numpy())
    free = framed.frame_store._free
    assert len(set(free)) == len(free) and set(free).isdisjoint(referred.tolist())
    assert len(free) + len(referred) == framed.frame_store._used


def test_memory_is_about_one_2kth() -> None:
    space = spaces.Box(0, 255, (9, 84, 84), np.uint8)
    plain, framed = replay_bytes(100_000, space, ACTIONS), replay_bytes(100_000, space, ACTIONS, frames=3)
    assert 1 / 6 < framed / plain < 1.15 / 6
    buffer = DeviceReplayBuffer(1000, space, ACTIONS, device="cpu", n_envs=2, frames=3)
    tensors = [buffer.stored(name) for name in buffer._fields] + [buffer.frame_store.frames]  # type: ignore[union-attr]
    assert sum(tensor.nbytes for tensor in tensors) == replay_bytes(1000, space, ACTIONS, 2, frames=3)


def test_short_episodes_make_the_store_grow_and_say_so() -> None:
    source = Pictures(2, 1, 1.0)
    plain, framed = build(2, 1, 1), build(2, 2, 1)
    version = framed.storage_version
    feed(source, 100, plain, framed)
    assert framed.storage_version > version
    assert_equal_batches(draw(plain), draw(framed))


@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler: torch.compile cannot be tried")
def test_gathering_stacks_compiles_whole() -> None:
    source, framed = Pictures(3, 2, 0.2), build(3, 3)
    torch._dynamo.reset()
    compiled = torch.compile(lambda rows: framed.gather(rows), fullgraph=True, dynamic=False)
    for steps in (9, 31):
        feed(source, steps, framed)
        rows = framed.sample_rows(16)
        assert_equal_batches(framed.gather(rows), compiled(rows))


def test_what_is_no_stack_of_frames_is_refused() -> None:
    framed = build(3, 3, 1)
    noise = np.random.default_rng(0).integers(0, 256, (2, 1, 3 * CHANNELS, SIZE, SIZE)).astype(np.uint8)
    with pytest.raises(ConfigError, match=r"not stacks of 3 frames.*frames=1"):
        framed.add(noise[0], noise[1], np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    for space, frames in ((image_space(3), 4), (spaces.Box(0, 1, (6,), np.float32), 3), (image_space(3), 0)):
        with pytest.raises(ConfigError, match="set frames=1"):
            DeviceReplayBuffer(10, space, ACTIONS, device="cpu", frames=frames)
    with pytest.raises(ConfigError, match="set frames=1"):
        DeviceDictReplayBuffer(10, spaces.Dict({"image": image_space(3)}), ACTIONS, device="cpu", frames=3)
    with pytest.raises(ConfigError, match="optimize_memory_usage"):
        DeviceReplayBuffer(
            10, image_space(3), ACTIONS, frames=3, optimize_memory_usage=True, handle_timeout_termination=False
        )


@pytest.mark.parametrize("steps", [0, 7, 33])
def test_a_restored_buffer_goes_on_alike(steps: int, tmp_path: Path) -> None:
    source = Pictures(3, 2, 0.2)
    plain, framed, restored = build(3, 1), build(3, 3), build(3, 3)
    feed(Pictures(3, 2, 0.2, seed=8), 50, restored)
    feed(source, steps, plain, framed)
    state = read_checkpoint(write_checkpoint(tmp_path, 1, {"replay": capture_buffer(framed)}, {})).trees["replay"]
    check_buffer(restored, state)
    restore_buffer(restored, state)
    copy = pickle.loads(pickle.dumps(framed))
    for more in (11, 23, 40):
        feed(source, more, plain, framed, restored, copy)
        for buffer in (framed, restored, copy):
            assert_equal_batches(draw(plain), draw(buffer))


def test_malformed_frames_are_refused() -> None:
    framed, plain = build(3, 3), build(3, 1)
    feed(Pictures(3, 2, 0.2), 7, framed, plain)
    with pytest.raises(CheckpointError, match="number of frames"):
        build(3, 3).set_state(plain.get_state())
    with pytest.raises(CheckpointError, match="number of frames"):
        build(3, 1).set_state(framed.get_state())
    frames = framed.get_state()["frames"]
    for bad, says in ((frames[:3], "outside"), (frames[:, :1], "other frames"), (frames.astype(int), "other frames")):
        with pytest.raises(CheckpointError, match=says):
            build(3, 3).set_state(framed.get_state() | {"frames": bad})


def test_resetting_forgets_the_frames() -> None:
    source = Pictures(3, 2, 0.2)
    plain, framed = build(3, 1), build(3, 3)
    feed(source, 30, framed)
    framed.reset()
    feed(source, 15, plain, framed)
    assert_equal_batches(draw(plain), draw(framed))
    assert len(framed.get_state()["frames"]) < 60
