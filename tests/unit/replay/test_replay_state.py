"""The state of replay on the device: through a checkpoint, from Stable-Baselines3's buffers and back, and malformed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from replay import ACTIONS, assert_equal_batches, draw, fill
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rlopt.checkpoint.buffers import capture_buffer, check_buffer, restore_buffer
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.errors import CheckpointError
from rlopt.replay.buffers import DeviceDictReplayBuffer, DeviceReplayBuffer
from rlopt.replay.her import DeviceHerReplayBuffer
from rlopt.replay.n_step import DeviceNStepReplayBuffer
from rlopt.replay.rows import cut_episodes

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
GOALS = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), VECTOR))


class Rewards:
    def env_method(self, name: str, achieved: Any, desired: Any, infos: Any, indices: list[int]) -> list[np.ndarray]:
        return [np.array([info["bonus"] for info in infos]) - np.abs(achieved - desired).sum(-1)]


HER = {"env": Rewards(), "copy_info_dict": True}
SAVING = {"optimize_memory_usage": True, "handle_timeout_termination": False}
KINDS: dict[str, tuple[type[ReplayBuffer], type[ReplayBuffer], spaces.Space, dict[str, Any]]] = {
    "plain": (ReplayBuffer, DeviceReplayBuffer, VECTOR, {}),
    "memory saving": (ReplayBuffer, DeviceReplayBuffer, VECTOR, SAVING),
    "n-step": (NStepReplayBuffer, DeviceNStepReplayBuffer, VECTOR, {"n_steps": 3}),
    "Dict": (DictReplayBuffer, DeviceDictReplayBuffer, GOALS, {}),
    "HER": (HerReplayBuffer, DeviceHerReplayBuffer, GOALS, HER),
}


def build(kind: str, on_device: bool, size: int = 60, n_envs: int = 2, **settings: Any) -> Any:
    space = KINDS[kind][2]
    return KINDS[kind][on_device](size, space, ACTIONS, device="cpu", n_envs=n_envs, **(KINDS[kind][3] | settings))


def through_a_file(state: Any, folder: Path) -> Any:
    return read_checkpoint(write_checkpoint(folder, 1, {"replay": state}, {})).trees["replay"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("of_device", "into_device"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("steps", [0, 11, 37])
def test_a_restored_buffer_goes_on_alike(
    kind: str, of_device: bool, into_device: bool, steps: int, tmp_path: Path
) -> None:
    first, second = build(kind, of_device), build(kind, into_device)
    fill([first], steps)
    fill([second], 50, seed=9)  # what was there before is gone afterwards
    state = capture_buffer(first)
    assert all(len(rows) <= steps + 1 for rows in state["rows"].values() if not isinstance(rows, dict)) or steps > 30
    state = through_a_file(state, tmp_path)
    check_buffer(second, state)
    restore_buffer(second, state)
    for more in (15, 26):
        fill([first, second], more, seed=more)
        assert_equal_batches(draw(first), draw(second))
    assert np.array_equal(np.asarray(first.rewards), np.asarray(second.rewards))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_episodes_are_cut_as_in_stable_baselines3s_buffers(kind: str) -> None:
    for steps in (0, 11, 30, 37):
        theirs, ours, uncut = build(kind, False), build(kind, True), build(kind, True)
        fill([theirs, ours, uncut], steps, end=0.1)
        cut_episodes(theirs), cut_episodes(ours)
        for name in ("dones", "timeouts"):
            assert np.array_equal(getattr(theirs, name), getattr(ours, name))
        if steps and kind in ("n-step", "HER", "memory saving"):
            now, before = ours.get_state()["rows"], uncut.get_state()["rows"]
            assert any(not np.array_equal(now[name], before[name]) for name in ("dones", "timeouts"))
        fill([theirs, ours], 9, seed=3)
        assert_equal_batches(draw(theirs), draw(ours))


def test_capture_is_a_copy_unless_views_are_asked_for() -> None:
    for kind in KINDS:
        buffer = build(kind, True)
        fill([buffer], 7)
        copy, view = capture_buffer(buffer), capture_buffer(buffer, copy=False)
        before = float(buffer.rewards[0, 0])
        buffer.rewards[0, 0] += 1
        assert copy["rows"]["rewards"][0, 0] == before
        assert view["rows"]["rewards"][0, 0] == before + 1


def replaced(*path: str, value: Any) -> Callable[[Any], None]:
    def apply(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("malform", "says"),
    [
        (lambda state: state.pop("rows"), "malformed"),
        (lambda state: state.pop("pos"), "malformed"),
        (replaced("rows", value=[1]), "malformed"),
        (replaced("pos", value=30), "position"),
        (replaced("pos", value=-1), "position"),
        (replaced("pos", value=True), "position"),
        (replaced("full", value=1), "position"),
        (replaced("buffer_size", value=31), "31 rows of 2 environments, this model's 30 of 2"),
        (replaced("n_envs", value=1), "30 rows of 1 environments"),
        (replaced("rows", "rewards", value=np.zeros((10, 2), np.float32)), "rewards"),
        (replaced("rows", "rewards", value=np.zeros((11, 2))), "float64"),
        (replaced("rows", "rewards", value=torch.zeros(11, 2)), "rewards"),
        (replaced("rows", "rewards", value=None), "rewards"),
        (lambda state: state["rows"].pop("next_observations"), "next_observations"),
        (replaced("rows", "observations", value={"a": np.zeros((11, 2, 3), np.float32)}), "other observations"),
        (replaced("class", value="NStepReplayBuffer"), "NStepReplayBuffer, this model's DeviceReplayBuffer"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(malform: Callable[[Any], Any], says: str) -> None:
    source, buffer = build("plain", True), build("plain", True)
    fill([source], 11)
    fill([buffer], 20, seed=5)
    state, before = capture_buffer(source), capture_buffer(buffer)
    malform(state)
    with pytest.raises(CheckpointError, match=says) as caught:
        check_buffer(buffer, state)
    assert "\n" not in str(caught.value)
    if not says.startswith("NStep"):
        with pytest.raises(CheckpointError, match=says):
            buffer.set_state(state)
    after = capture_buffer(buffer)
    assert after["pos"] == before["pos"] == 20
    assert all(np.array_equal(rows, after["rows"][name]) for name, rows in before["rows"].items())


@pytest.mark.parametrize(
    ("malform", "says"),
    [
        (replaced("rows", "ep_start", value=np.full((11, 2), 30)), "episodes outside"),
        (replaced("rows", "ep_length", value=np.full((11, 2), -1)), "episodes outside"),
        (replaced("current_ep_start", value=np.array([0, 30])), "episodes outside"),
        (replaced("current_ep_start", value=np.array([0])), "current_ep_start"),
        (replaced("infos", value=None), "copy_info_dict"),
        (replaced("infos", value=[[{}, {}]]), "one info per transition"),
        (lambda state: state.pop("infos"), "malformed"),
    ],
)
def test_malformed_episodes_are_refused(malform: Callable[[Any], Any], says: str) -> None:
    source = build("HER", True)
    fill([source], 11)
    state = capture_buffer(source)
    malform(state)
    with pytest.raises(CheckpointError, match=says):
        build("HER", True).set_state(state)
