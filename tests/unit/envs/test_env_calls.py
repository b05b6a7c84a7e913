"""What an environment may return, what becomes of what it raises, and how long it may take."""

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rlopt.envs import calls
from rlopt.envs.calls import call, time_limit
from rlopt.envs.outcomes import Interface, check_batch
from rlopt.errors import ConfigError, EnvFaultError, OutcomeError, environment_traceback

BOX = spaces.Box(-1, 1, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (BOX, np.zeros(2, np.float32)),
        (BOX, np.zeros(2, np.float64)),
        (BOX, np.array([0, 1])),
        (BOX, [0.5, 0.5]),
        (BOX, (0, np.float32(1))),
        (spaces.Box(-1, 1, (1,)), 0.5),
        (spaces.Box(-1, 1, ()), np.array([0.5])),
        (spaces.Discrete(3), 2),
        (spaces.Discrete(3), np.int64(2)),
        (spaces.Discrete(3), np.array([2])),
        (spaces.MultiBinary(2), np.array([True, False])),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2])),
        (IMAGE, np.zeros((2, 2, 3), np.uint8)),
        (spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}), {"a": np.zeros(2), "b": 1, "further": "text"}),
        (spaces.Text(3), "abc"),
    ],
)
def test_observations_of_the_space_pass(space: spaces.Space, observation: Any) -> None:
    Interface("E-v0", space).check_observation(observation, "reset")


@pytest.mark.parametrize(
    ("space", "observation", "said"),
    [
        (BOX, np.zeros(1, np.float32), r"of shape \(1,\) .* says \(2,\)"),
        (BOX, np.zeros((1, 2), np.float32), r"of shape \(1, 2\) .* says \(2,\)"),
        (BOX, 0.5, r"of shape \(\) .* says \(2,\)"),
        (BOX, "ab", r"that is 'ab' .* says \(2,\)"),
        (BOX, [[1], [2, 3]], r"that is 2 values"),
        (BOX, np.array([1j, 2]), r"that is array.* says floats"),
        (BOX, np.array([None, 1.0]), "says floats"),
        (IMAGE, np.zeros((2, 2, 3), np.float32), "of dtype float32 .* says integers"),  # 0.7 would be cut to 0
        (spaces.Discrete(3), 1.0, "of dtype float64 .* says integers"),
        (spaces.Dict({"a": BOX}), {"a": np.zeros(3)}, r"'a' of shape \(3,\) .* says \(2,\)"),
        (spaces.Dict({"a": BOX}), {"b": np.zeros(2)}, r"with the keys \['b'\] .* says \['a'\]"),
        (spaces.Dict({"a": BOX}), np.zeros(2), r"with no dictionary .* says \['a'\]"),
    ],
)
def test_others_are_refused(space: spaces.Space, observation: Any, said: str) -> None:
    with pytest.raises(OutcomeError, match=f"^E-v0 gave an observation.*{said}") as caught:
        Interface("E-v0", space).check_observation(observation, "reset")
    assert "\n" not in str(caught.value) and "in reset()" in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "number"),
    [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.array([2]), 2.0), (np.array(3.0), 3.0), ([4.0], 4.0)],
)
def test_rewards_that_are_one_number(reward: Any, number: float) -> None:
    _, given, *_ = Interface("E-v0", BOX).step((np.zeros(2), reward, False, False, {}))
    assert type(given) is float and given == number


@pytest.mark.parametrize(("flag", "meaning"), [(1, True), (0, False), (np.bool_(True), True), (np.array([0]), False)])
def test_ends_that_are_true_or_false(flag: Any, meaning: bool) -> None:
    outcome = Interface("E-v0", BOX).step((np.zeros(2), 0.0, flag, False, {}))
    assert outcome[2] is meaning and outcome[3] is False


@pytest.mark.parametrize("reset", [np.zeros(2), (np.zeros(2),), (np.zeros(2), None), (np.zeros(3), {})])
def test_a_reset_of_another_interface_is_refused(reset: Any) -> None:
    with pytest.raises(OutcomeError, match=r"^E-v0.* reset\(\)"):
        Interface("E-v0", BOX).reset(reset)


@pytest.mark.parametrize(
    ("observations", "rewards", "said"),
    [
        (np.zeros((2, 1)), np.zeros(2), r"observations as float64 of shape \(2, 1\), not numbers of shape \(2, 2\)"),
        (np.zeros((2, 2)), np.array(["1.5", "2"]), r"rewards as <U3 of shape \(2,\)"),
        (np.zeros((2, 2)), np.zeros((2, 1)), r"rewards as float64 of shape \(2, 1\)"),
        (np.zeros((2, 2)), [0.0, 0.0], "rewards as list"),
    ],
)
def test_a_batch_of_another_shape_is_refused(observations: Any, rewards: Any, said: str) -> None:
    check_batch(np.zeros((2, 2)), np.zeros(2), np.zeros(2, bool), BOX, 2)
    with pytest.raises(OutcomeError, match=said):
        check_batch(observations, rewards, np.zeros(2, bool), BOX, 2)


def test_what_is_raised_has_its_own_traceback() -> None:
    def step() -> None:
        raise KeyError("wheel")

    with pytest.raises(EnvFaultError, match=r"^Cart-v0 failed in step\(\): KeyError: 'wheel'$") as caught:
        call("Cart-v0", "step", step)
    trace = environment_traceback(caught.value).splitlines()
    assert trace[0].startswith("Traceback") and ", in step" in trace[1] and trace[-1] == "KeyError: 'wheel'"
    assert "rlopt/envs/calls.py" not in "".join(trace)


def test_errors_of_rlopt_and_ctrl_c_pass() -> None:
    def step(error: BaseException) -> None:
        raise error

    for error in (ConfigError("no such map"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            call("Cart-v0", "step", step, error)
        assert caught.value is error


def test_only_a_call_that_is_late_is_interrupted() -> None:
    with time_limit(0.2):
        time.sleep(0.5)  # not the environment's
        assert call("Cart-v0", "step", lambda: 1) == 1
        with pytest.raises(EnvFaultError, match=r"^Cart-v0 has not returned from reset\(\) for 0.2 s"):
            call("Cart-v0", "reset", time.sleep, 100)
        assert call("Cart-v0", "step", lambda: 2) == 2
    assert calls._watch is None and call("Cart-v0", "step", lambda: 3) == 3


DEAF = """
import ctypes, threading, time
from rlopt.envs import calls
calls.GRACE_SECONDS, calls.LOCKED_SECONDS = 0.2, 0.2

def catches():
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass

def locks():
    library = ctypes.PyDLL(None)  # calls it without letting other threads run
    while True:
        library.sleep(100)

def in_a_thread():
    threading.Thread(target=lambda: calls.call("Deaf-v0", "step", time.sleep, 100)).start()
    time.sleep(100)

def other():
    calls.call("Deaf-v0", "step", catches)

with calls.time_limit(0.2, lambda: "step 7 is kept"):
    {}
"""


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("other()", 2, "rlopt: error: Deaf-v0 has not returned from step() for 0.2 s (--env-timeout) and cannot be "
         "interrupted; step 7 is kept\n"),
        ("in_a_thread()", 2, "cannot be interrupted; step 7 is kept\n"),
        ('calls.call("Deaf-v0", "step", locks)', 1, "in locks"),
    ],
)  # fmt: skip
def test_what_cannot_be_interrupted_ends_the_process(what: str, code: int, said: str) -> None:
    command = [sys.executable, "-c", DEAF.replace("{}", what)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and said in ended.stderr


def test_an_observation_alone_from_reset_is_answered_with_what_reset_returns() -> None:
    interface = Interface("Mine", spaces.Box(-1, 1, (2,)))
    observation = np.zeros(2, np.float32)
    with pytest.raises(OutcomeError, match=r"Mine: reset\(\) does not return .* make it return \(observation, info\)"):
        interface.reset(observation)
    with pytest.raises(OutcomeError, match=r"Mine gave the info .* in reset\(\): .* returns \(observation, info\)$"):
        interface.reset(tuple(observation))  # as a wrapper takes it apart
    assert interface.reset((observation, {}))[1] == {}
