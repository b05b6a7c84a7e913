"""Environments with hidden state, in Gymnasium's wrappers: restored, they go on bit for bit, or it is said."""

import random

import gymnasium
import numpy as np
import pytest
import torch
from hidden_state import CLASSES, UNREADABLE, WRAPPERS

import rlopt
from rlopt.checkpoint.files import read_checkpoint, write_checkpoint
from rlopt.envs.state.shared import shared_values
from rlopt.envs.state.walk import Walk
from rlopt.errors import StateUnavailableError
from rlopt.state.isolate import seed_everything
from rlopt.state.proof import EXACT, FRESH, INEXACT, UNPROVED, Recording, prove

BEFORE, AFTER = 17, 22


class Common(CLASSES["OwnNumpy"]):
    """Holds an object that its maker gives to all."""

    def __init__(self, common):
        self.common = common
        super().__init__()

    def bonus(self):
        self.common["calls"] += 1
        return self.common["calls"]


class Given(CLASSES["OwnNumpy"]):
    """Changes the list that it is given."""

    def __init__(self, left):
        self.left = left
        super().__init__()

    def bonus(self):
        return self.left.pop()


gymnasium.register("hidden/Given-v0", entry_point=Given, max_episode_steps=9)


def made(name, wrapper="none", n_envs=2):
    return rlopt.make_env("hidden/State-v0", n_envs, seed=3, env_kwargs={"name": name, "wrapper": wrapper})


def steps(env, count, seed):
    """Everything that a run sees of ``count`` steps, as bytes."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(count):
        observation, reward, done, infos = env.step(rng.uniform(-1, 1, (env.num_envs, 1)).astype(np.float32))
        last = [np.asarray(info.get("terminal_observation", ())).tobytes() for info in infos]
        seen.append((observation.tobytes(), reward.tobytes(), done.tobytes(), last))
    return seen


def new_process(name):
    """Puts classes and modules where they are when a process has just imported them."""
    getattr({**CLASSES, **UNREADABLE}[name], "new_process", lambda: None)()


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_restored_environments_go_on_bit_for_bit_in_all_wrappers(name):
    go_on_bit_for_bit(name, WRAPPERS)


@pytest.mark.parametrize("name", CLASSES)
def test_restored_environments_go_on_bit_for_bit(name):
    first = 4 * list(CLASSES).index(name)
    go_on_bit_for_bit(name, ["none", *(list(WRAPPERS)[(first + i) % len(WRAPPERS)] for i in range(4))])


def go_on_bit_for_bit(name, wrappers):
    differing = []
    for wrapper in wrappers:
        new_process(name)
        seed_everything(5)
        env = made(name, wrapper, n_envs := 2 if wrapper == "none" else 1)
        env.reset()
        steps(env, BEFORE, 0)
        state = env.get_state()
        generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
        expected = steps(env, AFTER, 1)
        assert any(any(done) for _, _, done, _ in expected), "episodes end among the steps"
        new_process(name)
        fresh = made(name, wrapper, n_envs)
        fresh.set_state(state)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if steps(fresh, AFTER, 1) != expected:
            differing.append(wrapper)
    assert not differing


@pytest.mark.parametrize("name", ["Inventory", "OddValues", "Ring", "GeneratorsInList", "TorchModule", "ModuleCounter"])
def test_a_state_survives_its_file(name, tmp_path):
    new_process(name)
    env = made(name, "several")
    env.reset()
    steps(env, BEFORE, 0)
    path = write_checkpoint(tmp_path, 1, {"env": env.get_state()}, {})
    expected = steps(env, AFTER, 1)
    new_process(name)
    fresh = made(name, "several")
    fresh.set_state(read_checkpoint(path).trees["env"])
    assert steps(fresh, AFTER, 1) == expected


def proved(name, wrapper="none", before=BEFORE):
    seed_everything(5)
    env = made(name, wrapper)
    env.reset()
    steps(env, before, 0)
    state, recording = env.get_state(), Recording(env)
    steps(env, 40, 1)
    assert not recording.complete
    recording.stop()
    return env, prove(env, state, recording.steps, before, 60.0)


@pytest.mark.parametrize("wrapper", ["none", "FrameStackObservation", "NormalizeObservation", "several"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_restored_is_not_called_exact(name, wrapper):
    verdict = proved(name, wrapper)[1]
    kind, named = {
        "Clock": (INEXACT, "a clock"),
        "BegunGenerator": (FRESH, "numbers (generator)"),
        "InC": (FRESH, "state (HASH)"),
        "OpenFile": (FRESH, "file (TextIOWrapper)"),
        "CounterFile": (INEXACT, "a file"),
        "RareInC": (UNPROVED, "rounds (cycle)"),
        "ForgetfulOwnState": (UNPROVED, "leave out total,"),
    }[name]
    assert verdict.kind == kind
    assert named in verdict.sentence()


@pytest.mark.parametrize("name", [*CLASSES])
def test_a_proof_says_exact_and_leaves_the_environments_alone(name):
    new_process(name)
    env, verdict = proved(name)
    assert verdict.kind == EXACT, verdict.sentence()
    assert verdict.steps > 9 and verdict.ends >= 2
    after = steps(env, AFTER, 2)
    new_process(name)
    seed_everything(5)
    alone = made(name)
    alone.reset()
    steps(alone, BEFORE, 0)
    steps(alone, 40, 1)
    assert steps(alone, AFTER, 2) == after


def test_environments_that_share_an_object_are_not_disturbed_by_a_proof():
    common = {"calls": 0}
    gymnasium.register("hidden/Common-v0", entry_point=lambda: Common(common), max_episode_steps=9)
    env = rlopt.make_env("hidden/Common-v0", 1)
    env.reset()
    state, recording = env.get_state(), Recording(env)
    steps(env, 12, 1)
    recording.stop()
    verdict = prove(env, state, recording.steps, 0, 60.0)
    assert verdict.sentence() == "unproved: every environment that is made shares common"
    assert common["calls"] == 12


def test_arguments_that_an_environment_changes_are_its_own():
    env = rlopt.make_env("hidden/Given-v0", 1, env_kwargs={"left": [3.0, 2.0, 1.0] * 20})
    env.reset()
    state, recording = env.get_state(), Recording(env)
    steps(env, 12, 1)
    recording.stop()
    assert prove(env, state, recording.steps, 0, 60.0).kind == EXACT
    assert len(env.envs[0].unwrapped.left) == 60 - 12


def restored(name, change):
    """The paths that are lost when ``change`` damages the nodes of a state, and the environment."""
    env = made(name, n_envs=1)
    env.reset()
    steps(env, BEFORE, 0)
    state = env.get_state()
    change(state["objects"]["nodes"])
    fresh = made(name, n_envs=1)
    with pytest.raises(StateUnavailableError) as error:
        fresh.set_state(state)
    return str(error.value), fresh.envs[0].unwrapped


def node_of(nodes, name):
    return next(node for node in nodes if node.get("class", "").endswith(name))


def test_a_state_makes_no_class_that_the_environment_does_not_have():
    def other(nodes):
        node_of(nodes, ".Particle")["class"] = "subprocess.Popen"

    said, env = restored("GrowingParticles", other)
    assert "particles[0] cannot be restored" in said
    assert {type(part).__name__ for part in env.particles if part is not None} == {"Particle"}


def test_a_state_sends_an_environment_to_no_other_file():
    def other(nodes):
        node_of(nodes, ".OddValues")["attributes"]["text"] = "/etc/passwd"

    said, env = restored("OddValues", other)
    assert "text cannot be restored" in said
    assert env.text == ""


def test_a_state_names_no_function_of_other_modules():
    def other(nodes):
        node_of(nodes, ".appended")["class"] = "os.system"

    said, env = restored("Partial", other)
    assert "append cannot be restored" in said
    assert env.append.func.__name__ == "appended"


def test_a_large_table_that_does_not_change_is_in_no_checkpoint():
    env = made("LargeTable")
    env.reset()
    arrays = [node for node in env.get_state()["objects"]["nodes"] if node["kind"] == "array"]
    assert not any("value" in node for node in arrays)
    assert sum("digest" in node for node in arrays) == 2
    env.envs[0].unwrapped.table[7] += 1.0
    arrays = [node for node in env.get_state()["objects"]["nodes"] if node["kind"] == "array"]
    assert sum("digest" in node for node in arrays) == 1


class Generated(type):
    """A metaclass as of generated bindings, Box2D's among them: its classes do not say where they are defined."""

    @property
    def __module__(cls):  # type: ignore[override]
        raise AttributeError("__module__")


class Handle(metaclass=Generated):
    pass


def test_a_class_that_names_no_module_is_no_class_of_the_environment():
    walk = Walk()
    walk.classes.add(Handle)
    assert shared_values(walk) == {}
