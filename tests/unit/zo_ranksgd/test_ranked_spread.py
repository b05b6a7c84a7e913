"""Candidates played by the processes of an engine: the same search, bit for bit, whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fragile_env
import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from rlopt.agents.zo_ranksgd.policies.search import RankedPolicySearch
from rlopt.agents.zo_ranksgd.policies.spread import pack, unpack
from rlopt.checkpoint.files import list_checkpoints, read_checkpoint
from rlopt.cli.main import main
from rlopt.engine import Engine, make_engine
from rlopt.engine.local import LocalEngine
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, NonFiniteError, RunError


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with make_engine("local", workers=2) as local:
        local.retry_seconds = 0.1
        yield local


def search(env: Any, policy: Any = "LinearPolicy", **settings: Any) -> RankedPolicySearch:
    return RankedPolicySearch(policy, env, **{"m": 5, "k": 5, "line_search_points": 3, "seed": 2, **settings})


def fragile(folder: Path, **kwargs: Any) -> EnvSettings:
    return EnvSettings(fragile_env.ID, env_kwargs={"folder": str(folder), **kwargs})


def assert_same(found: RankedPolicySearch, wanted: RankedPolicySearch) -> None:
    assert found.optimizer.digest() == wanted.optimizer.digest()
    for name in ("num_timesteps", "num_episodes", "num_queries", "log_values"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert list(found.ep_info_buffer) == list(wanted.ep_info_buffer)
    ours, theirs = found.normalizer.get_state(), wanted.normalizer.get_state()
    assert ours["count"] == theirs["count"]
    assert all(np.array_equal(ours[name], theirs[name]) for name in ("mean", "deviations"))


@pytest.mark.parametrize(
    ("env", "policy", "settings"),
    [
        ("Hopper-v5", "LinearPolicy", {}),
        ("Hopper-v5", "MlpPolicy", {"common_random_numbers": False, "policy_kwargs": {"activation_fn": "tanh"}}),
        ("CartPole-v1", "MlpPolicy", {"net_arch": [7], "normalize_observations": False, "max_envs": 2}),
        ("Pendulum-v1", "LinearPolicy", {"oracle": "noisy", "annotators": 2, "subspace": 2}),
    ],
)
def test_the_search_is_that_of_one_process(env: str, policy: str, settings: dict[str, Any], engine: Engine) -> None:
    task = EnvSettings(env, max_episode_steps=40)
    here = search(task, policy, episodes_per_candidate=3, **settings)
    there = search(task, policy, episodes_per_candidate=3, engine=engine, **settings)
    assert here.env is not None and there.env is not None
    assert there.env.num_envs == 1 and there.env.settings.backend == here.env.settings.backend  # type: ignore[attr-defined]
    assert_same(there.learn(10**6, total_queries=5), here.learn(10**6, total_queries=5))
    assert here.num_episodes == 3 * (5 + 3 + 5 + 3 + 5)


def test_the_number_of_processes_changes_nothing(engine: Engine) -> None:
    task = EnvSettings("Swimmer-v5", max_episode_steps=30)
    wanted = search(task).learn(10**6, total_queries=4)
    with make_engine("local", workers=1) as alone:
        assert_same(search(task, engine=alone).learn(10**6, total_queries=4), wanted)
    assert_same(search(task, engine=engine).learn(10**6, total_queries=4), wanted)


def test_a_round_is_whole_when_processes_die(engine: Engine, tmp_path: Path) -> None:
    here = search(fragile(tmp_path / "here")).learn(10**6, total_queries=3)
    there = search(fragile(tmp_path / "there", fatal=3), engine=engine).learn(10**6, total_queries=3)
    assert_same(there, here)
    assert len(list((tmp_path / "there").glob("death*"))) == 3
    # Those of the dead were begun again, and counted once.
    assert len(fragile_env.begun(tmp_path / "here")) == 13 < len(fragile_env.begun(tmp_path / "there"))


def test_a_request_to_stop_gives_the_round_up(tmp_path: Path) -> None:
    whole = search(fragile(tmp_path / "whole")).learn(10**6, total_queries=2)
    model = search(fragile(tmp_path / "parts"))

    def boundary(model: RankedPolicySearch) -> bool:
        going_on = model.stop_request.received is None
        model.stop_request.received = signal.SIGTERM if model.num_queries else None
        return going_on

    model.boundary_hook = boundary
    before = model.learn(10**6, total_queries=2).num_queries
    assert before == 1 and len(fragile_env.begun(tmp_path / "parts")) == 5 + 3  # begun, but no step was taken
    model.boundary_hook, model.stop_request.received = None, None
    model.learn(10**6, total_queries=2, reset_num_timesteps=False)
    assert_same(model, whole)


def test_what_fails_each_time_is_told_and_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    model = search(fragile(tmp_path, broken=True), engine=engine)
    before = model.optimizer.digest()
    with pytest.raises(
        RunError, match=r"episodes failed 4 times: .* failed in step\(\): RuntimeError: the joint is loose"
    ):
        model.learn(10**6)
    model.optimizer.ask()
    assert model.num_episodes == model.normalizer.count == 0
    fresh = search(fragile(tmp_path / "other"))
    assert fresh.optimizer.digest() == before


def test_an_engine_of_its_own_lasts_as_long_as_learning(tmp_path: Path) -> None:
    model = search(fragile(tmp_path), engine="local", workers=1)
    model.learn(10**6, total_queries=4)
    processes = {process for _, process in fragile_env.begun(tmp_path)}
    assert len(processes) == 1 and os.getpid() not in processes
    with pytest.raises(ProcessLookupError):
        os.kill(processes.pop(), 0)


def test_a_saved_search_does_not_know_where_it_was_played(engine: Engine, tmp_path: Path) -> None:
    task = EnvSettings("CartPole-v1", max_episode_steps=20)
    search(task, engine=engine).learn(10**6, total_queries=3).save(tmp_path / "there")
    search(task).learn(10**6, total_queries=3).save(tmp_path / "here")
    there = RankedPolicySearch.load(tmp_path / "there", task).learn(10**6, total_queries=2)
    here = RankedPolicySearch.load(tmp_path / "here", task, engine=engine).learn(10**6, total_queries=2)
    assert_same(here, there)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: search("CartPole-v1", workers=2), ConfigError, "--workers needs an engine: add --engine"),
        (lambda: search("CartPole-v1", address="a:1"), ConfigError, "--address needs an engine"),
        (lambda: search("CartPole-v1", engine="locale"), ConfigError, "engine"),
        (lambda: search(gymnasium.make("CartPole-v1"), engine="local"), ConfigError, "give an id or EnvSettings"),
        (
            lambda: search(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), engine="local"),
            ConfigError,
            "give an id or EnvSettings",
        ),
        (
            lambda: search("CartPole-v1", search("CartPole-v1", "MlpPolicy").policy, engine="local").learn(1),
            ConfigError,
            "name it, such as MlpPolicy",
        ),
        (
            lambda: search("CartPole-v1", "MlpPolicy", policy_kwargs={"activation_fn": nn.Tanh}, engine="local").learn(
                1
            ),
            ConfigError,
            "name it, such as activation_fn='tanh'",
        ),
        (lambda: search("CartPole-v1", engine="local", address="a:1").learn(1), ConfigError, "add --engine ray"),
    ],
)
def test_what_an_engine_cannot_take_is_told_in_one_line(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["ray", "--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["ray", "--address", "nowhere.invalid:6379"], "no Ray cluster answers at nowhere.invalid:6379"),
        (["ray", "--address", "nonsense"], "error: --address 'nonsense' is not an address"),
        (["local", "--gpus-per-job", "1.5"], "gpus_per_job must be a share in [0, 1] or a whole number"),
    ],
)
def test_an_engine_that_cannot_be_had_is_told_before_there_is_a_folder(
    flags: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(train(tmp_path, "run", "--engine", *flags)) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_parameters_that_are_not_finite_are_refused_before_they_are_sent(engine: Engine) -> None:
    model = search("CartPole-v1", engine=engine)
    with pytest.raises(NonFiniteError, match="candidate 1"):
        model._spread.evaluate(model, np.array([[0.0], [np.nan]]), np.zeros((2, 1), np.int64))  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", ">f8"])
def test_every_bit_of_an_array_arrives(kind: str) -> None:
    array = np.frombuffer(np.random.default_rng(0).bytes(96), kind).reshape(2, -1)
    for given in (array, array.T, array[:, ::2], array[:0]):
        found = unpack(pack(given))
        assert found.shape == given.shape and found.tobytes() == given.astype(found.dtype).tobytes()
        assert found.dtype == array.dtype.newbyteorder("=") and found.flags.writeable


def train(folder: Path, run: str, *flags: str, seconds: float = 0.0) -> list[str]:
    kwargs = f'{{"folder": "{folder / "traces"}", "seconds": {seconds}}}'
    common = ["--m", "4", "--k", "4", "--line-search-points", "4", "--seed", "3", "--eval-every", "0"]
    task = ["--env", fragile_env.ID, "--env-kwargs", kwargs, "--total-queries", "4"]
    return ["train", "zo_ranksgd", "--run-dir", str(folder / run), *common, *task, *flags]


def final(run: Path) -> Any:
    return read_checkpoint(list_checkpoints(run / "checkpoints")[-1]).trees["agent"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (["--engine", "local", "--workers", "2"], "giving up the current work"),
        ([], "checkpoint of the last whole update"),
    ],
)
def test_a_run_stopped_within_a_round_goes_on(engine: list[str], told: str, tmp_path: Path) -> None:
    """A signal while candidates play: the round is given up, and the run stops with a checkpoint of the one before."""
    helpers = str(Path(fragile_env.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "rlopt.cli.main", *train(tmp_path, "parts", *engine, seconds=0.05)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 180
    while len(fragile_env.begun(tmp_path / "traces")) < 6:  # the second round
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert process.stderr is not None and process.stderr.read().count(told) == 1
    assert final(tmp_path / "parts")["num_queries"] == 1
    assert main(["resume", str(tmp_path / "parts")]) == 0
    assert main(train(tmp_path, "whole")) == 0
    np.testing.assert_equal(final(tmp_path / "parts"), final(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Ray's clusters are supported on Linux only")
def test_the_same_search_on_a_ray_cluster_that_loses_a_machine(tmp_path: Path) -> None:
    """Two nodes of one CPU; the second goes while it plays its half of the second round."""
    from ray.cluster_utils import Cluster

    one = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    try:
        node = cluster.add_node(**one)
        with make_engine("ray", address=cluster.address) as ray:
            ray.retry_seconds = 0.1
            until = time.monotonic() + 60
            while ray.places() != 2:  # type: ignore[attr-defined]
                assert time.monotonic() < until
                time.sleep(0.1)
            lost: list[int] = []

            def remove() -> None:
                """When the second round has begun in two processes."""
                while len(begun := fragile_env.begun(tmp_path / "there")) < 8 or len({p for _, p in begun[5:]}) < 2:
                    if time.monotonic() > until + 120:
                        return
                    time.sleep(0.01)
                lost.append(len(begun))
                cluster.remove_node(node, allow_graceful=False)

            thread = threading.Thread(target=remove)
            thread.start()
            there = search(fragile(tmp_path / "there", seconds=0.1), m=5, line_search_points=5, engine=ray)
            there.learn(10**6, total_queries=3)
            thread.join()
        assert lost, "no round was played on two nodes"
        here = search(fragile(tmp_path / "here"), m=5, line_search_points=5).learn(10**6, total_queries=3)
        assert_same(there, here)
        assert len(fragile_env.begun(tmp_path / "there")) > 15 == len(fragile_env.begun(tmp_path / "here"))
    finally:
        cluster.shutdown()


def test_the_local_engine_is_the_default_kind() -> None:
    model = search("CartPole-v1", engine="local", workers=1)
    with model._spread.opened() as opened:  # type: ignore[union-attr]
        assert isinstance(opened, LocalEngine) and opened.capacity() == 1 and not opened.ahead
