"""Exported policies against predict on every kind of space, what is refused, and the command line."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from demonstrated import demonstrations, vec_env
from gymnasium import spaces
from runs import AGENT, settings
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlopt
from rlopt.cli.main import main
from rlopt.errors import CheckpointError, ConfigError, ExportError, SpaceError, UnknownNameError
from rlopt.export.write import export, normalization_path, random_observations
from rlopt.runs.train import train

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
DICT = spaces.Dict({"where": BOX, "phase": spaces.Discrete(4), "flags": spaces.MultiBinary(2)})
UNEVEN = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([1.0, 3.0], np.float32))


class Drawn(gymnasium.Env[Any, Any]):
    """Random observations; actions do nothing."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def on_policy(observation_space: Any, action_space: Any, policy: str = "MlpPolicy", **changes: Any) -> rlopt.MDPO:
    env = DummyVecEnv([lambda: Drawn(observation_space, action_space)])
    model = rlopt.MDPO(policy, env, seed=0, device="cpu", n_steps=16, **changes)
    return unsettled(model)


def unsettled(model: Any, scale: float = 0.5) -> Any:
    """Weights that are far from the small ones that a policy begins with, so that actions differ and reach bounds."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


MODELS: dict[str, Any] = {
    "clipped": lambda: on_policy(BOX, UNEVEN),
    "discrete": lambda: on_policy(BOX, spaces.Discrete(5)),
    "multi_discrete": lambda: on_policy(BOX, spaces.MultiDiscrete([3, 2, 4])),
    "multi_binary": lambda: on_policy(BOX, spaces.MultiBinary(3)),
    "states": lambda: on_policy(spaces.Discrete(7), spaces.Discrete(3)),
    "several_states": lambda: on_policy(spaces.MultiDiscrete([3, 4]), spaces.Discrete(3)),
    "dict": lambda: on_policy(DICT, UNEVEN, "MultiInputPolicy"),
    "images": lambda: on_policy(IMAGE, spaces.Discrete(4), "CnnPolicy"),
    "two_extractors": lambda: on_policy(BOX, UNEVEN, policy_kwargs={"share_features_extractor": False}),
    "gsde_squashed": lambda: on_policy(BOX, UNEVEN, use_sde=True, policy_kwargs={"squash_output": True}),
    "scaled": lambda: unsettled(
        rlopt.OffPolicyMDPO("MlpPolicy", DummyVecEnv([lambda: Drawn(BOX, UNEVEN)]), buffer_size=10, device="cpu")
    ),
    "scaled_dict": lambda: unsettled(
        rlopt.OffPolicyMDPO(
            "MultiInputPolicy", DummyVecEnv([lambda: Drawn(DICT, UNEVEN)]), buffer_size=10, use_sde=True, device="cpu"
        )
    ),
    "drqv2": lambda: unsettled(
        rlopt.OffPolicyMDPO(
            "CnnPolicy",
            DummyVecEnv([lambda: Drawn(IMAGE, UNEVEN)]),
            buffer_size=10,
            policy_kwargs={"features_extractor_class": "drqv2"},
            device="cpu",
        ),
        scale=0.05,
    ),
    "offline_dict": lambda: unsettled(rlopt.BC("MultiInputPolicy", DummyVecEnv([lambda: Drawn(DICT, UNEVEN)]))),
    "offline_discrete": lambda: unsettled(
        rlopt.AWAC("MlpPolicy", DummyVecEnv([lambda: Drawn(BOX, spaces.Discrete(5))]))
    ),
}


@pytest.mark.parametrize("to", ["torchscript", "onnx"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_an_exported_policy_is_predict(kind: str, to: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    path = tmp_path / f"policy.{to}"
    export(model, path, to)
    policy = rlopt.load_policy(path)
    for count in (1, 3, 20):
        observations = random_observations(model.observation_space, count, seed=count)
        expected = model.predict(observations, deterministic=True)[0]
        np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-4, atol=1e-4)
        assert policy.predict(observations)[0].dtype == expected.dtype
    assert len(np.unique(expected, axis=0)) > 1, "an action that never changes would prove nothing"
    assert policy.action_space == model.action_space and policy.observation_space == model.observation_space


@pytest.mark.parametrize("to", ["torchscript", "onnx"])
def test_frames_as_the_environment_gives_them_are_taken_as_sb3_takes_them(to: str, tmp_path: Path) -> None:
    """An environment's frames have their channels last, the model's and the file's first."""
    both = spaces.Dict({"camera": IMAGE, "where": BOX})
    for name, space, policy in (("one", IMAGE, "CnnPolicy"), ("dict", both, "MultiInputPolicy")):
        model = on_policy(space, spaces.Discrete(4), policy)
        export(model, tmp_path / name, to)  # type: ignore[arg-type]
        exported = rlopt.load_policy(tmp_path / name)
        frames = random_observations(space, 6)
        np.testing.assert_array_equal(exported.predict(frames)[0], model.predict(frames, deterministic=True)[0])
        single = {key: value[2] for key, value in frames.items()} if isinstance(frames, dict) else frames[2]
        assert exported.predict(single)[0] == model.predict(single, deterministic=True)[0]
    with pytest.raises(SpaceError, match=r"the observation has shape \(36, 36\), and the policy takes \(3, 36, 36\)"):
        rlopt.load_policy(tmp_path / "one").predict(np.zeros((36, 36), np.uint8))
    with pytest.raises(SpaceError, match="a dictionary of camera, where"):
        exported.predict({"camera": frames["camera"]})


@pytest.mark.parametrize("to", ["torchscript", "onnx"])
def test_a_file_may_take_raw_frames(to: str, tmp_path: Path) -> None:
    model = on_policy(spaces.Dict({"camera": IMAGE, "where": BOX}), spaces.Discrete(4), "MultiInputPolicy")
    export(model, tmp_path / "policy", to, raw_frames=True)  # type: ignore[arg-type]
    exported = rlopt.load_policy(tmp_path / "policy")
    assert exported.observation_space["camera"] == IMAGE  # (H, W, C), where the model's has its channels first
    frames = random_observations(exported.observation_space, 6)
    expected = model.predict(frames, deterministic=True)[0]
    np.testing.assert_array_equal(exported.predict(frames)[0], expected)
    if to == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="of the extra test")
        session = onnxruntime.InferenceSession(str(tmp_path / "policy"))
        np.testing.assert_array_equal(session.run(None, frames)[0], expected)


def test_a_file_named_as_another_format_is_refused(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "policy.pt")]) == 2
    assert "policy.pt is the name of a torchscript file, and onnx is asked for: name it policy.onnx, or ask for" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_onnx_inputs_are_the_parts_of_the_observation_by_name(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="of the extra test")
    export(MODELS["dict"](), tmp_path / "policy.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    assert [entry.name for entry in session.get_inputs()] == ["flags", "phase", "where"]
    assert [entry.name for entry in session.get_outputs()] == ["action"]
    assert [entry.shape[1:] for entry in session.get_inputs()] == [[2], [], [3]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with normalised observations."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train("mdpo", settings(folder, total_timesteps=128, eval_every=0), AGENT)
    return folder


@pytest.mark.parametrize("to", ["torchscript", "onnx"])
def test_the_runs_normalisation_is_in_the_file(run: Path, to: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(run), "--to", to, "--out", str(tmp_path / f"policy.{to}")]) == 0
    assert "largest difference" in capsys.readouterr().out
    model, policy = rlopt.load(run, device="cpu"), rlopt.load_policy(tmp_path / f"policy.{to}")
    assert model.observation_statistics is not None
    observations = 3 * random_observations(model.observation_space, 30) + 1
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(policy.predict(observations)[0], expected, rtol=1e-5, atol=1e-6)
    bare = model.policy.predict(observations, deterministic=True)[0]
    assert np.abs(bare - expected).max() > 1e-3, "the statistics must matter for this test to say something"
    ours = rlopt.evaluate(policy, "rlopt/RandomTarget-v0", n_episodes=3)
    assert ours.mean == pytest.approx(rlopt.evaluate(model, "rlopt/RandomTarget-v0", n_episodes=3).mean, rel=1e-4)
    mean, _ = evaluate_policy(policy, rlopt.make_env("rlopt/RandomTarget-v0"), n_eval_episodes=2, warn=False)  # type: ignore[arg-type]
    assert np.isfinite(mean)


def test_without_a_name_the_file_is_here_and_none_is_replaced(
    run: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--to", "torchscript"]) == 0
    assert rlopt.load_policy(tmp_path / "policy.pt") is not None
    assert main(["export", str(run), "--to", "torchscript"]) == 2
    assert "policy.pt exists: give --out policy.pt to replace it" in capsys.readouterr().err


def test_a_zip_comes_with_its_statistics(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "policy.zip"
    assert main(["export", str(run), "--to", "sb3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "only from people you trust" in printed and str(normalization_path(out)) in printed
    model, zipped = rlopt.load(run, device="cpu"), rlopt.MDPO.load(out, device="cpu")
    statistics = VecNormalize.load(str(normalization_path(out)), rlopt.make_env("rlopt/RandomTarget-v0"))
    observations = random_observations(model.observation_space, 30)
    expected = model.predict(observations, deterministic=True)[0]
    seen = statistics.normalize_obs(observations)
    np.testing.assert_array_equal(zipped.predict(seen, deterministic=True)[0], expected)


def test_a_model_in_a_normalised_environment_is_exported_with_its_statistics(tmp_path: Path) -> None:
    env = VecNormalize(rlopt.make_env("Pendulum-v1", n_envs=2, seed=0))
    model = rlopt.MDPO("MlpPolicy", env, n_steps=64, device="cpu", seed=0).learn(256)
    export(model, tmp_path / "policy.pt", "torchscript")
    observations = random_observations(model.observation_space, 10)
    expected = model.predict(env.normalize_obs(observations), deterministic=True)[0]
    actions = rlopt.load_policy(tmp_path / "policy.pt").predict(observations)[0]
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


class Odd(ActorCriticPolicy):
    """Acts by rules of its own."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return -super()._predict(observation, deterministic)


class Shifted(rlopt.MDPO):
    """Its predict does more than its policy."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        actions, state = super().predict(*args, **kwargs)
        return actions + 0.01, state


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.pt"
    tabular = rlopt.LOOP("rlopt/RiverSwim-v0")
    with pytest.raises(ExportError, match="LOOP is tabular"):
        export(tabular, path, "torchscript")
    with pytest.raises(ExportError, match="the policy Odd of MDPO"):
        export(rlopt.MDPO(Odd, "Pendulum-v1"), path, "torchscript")
    with pytest.raises(ExportError, match=r"differs from predict by 0\.01"):
        export(Shifted("MlpPolicy", "Pendulum-v1", device="cpu"), path, "torchscript")
    with pytest.raises(UnknownNameError, match="did you mean 'onnx'"):
        export(rlopt.MDPO("MlpPolicy", "Pendulum-v1"), path, "onxx")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="is a folder"):
        export(rlopt.MDPO("MlpPolicy", "Pendulum-v1"), tmp_path, "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = rlopt.MDPO("MlpPolicy", "Pendulum-v1", device="cpu")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ExportError, match=r"rlopt\[onnx\]"):
        export(model, tmp_path / "policy.onnx", "onnx")
    (tmp_path / "policy.onnx").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"rlopt\[onnx\]"):
        rlopt.load_policy(tmp_path / "policy.onnx")


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt"])
def test_files_that_are_none_of_ours_are_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not a file"):
        rlopt.load_policy(tmp_path / name)
    (tmp_path / name).write_bytes(b"not a policy")
    with pytest.raises(ExportError, match="not a policy that rlopt export wrote") as found:
        rlopt.load_policy(tmp_path / name)
    assert "\n" not in str(found.value)


def test_the_command_line_says_what_is_missing(run: Path, tmp_path: Path, capsys: Any) -> None:
    for argv, message in (
        ([str(run)], "--to onnx|torchscript|sb3"),
        ([str(run), "--to", "onx", "--out", "x"], "did you mean 'onnx'"),
        ([str(tmp_path / "none"), "--to", "onnx", "--out", "x"], "is not a run folder"),
    ):
        assert main(["export", *argv]) == 2
        assert message in capsys.readouterr().err


def test_ailboosts_zip_holds_the_mixture(tmp_path: Path) -> None:
    small = {"learner_steps": 20, "policy_steps": 20, "discriminator_steps": 2, "discriminator_batch_size": 8}
    off_policy = {"learning_starts": 20, "buffer_size": 500, "batch_size": 8, "policy_kwargs": {"net_arch": [8]}}
    model = rlopt.AILBoost("MlpPolicy", vec_env(), demonstrations(), seed=5, device="cpu", **small, **off_policy)
    model.learn(200)
    assert len(model.learners) > 1
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", device="cpu")
    observations = random_observations(model.observation_space, 6)
    for seed in range(3):
        actions = []
        for own in (model, loaded):
            np.random.seed(seed)
            actions.append(own.predict(observations, deterministic=True, policy="mixture")[0])
        np.testing.assert_array_equal(*actions)
    assert loaded.rounds.n_rounds == model.rounds.n_rounds
    parameters = model.get_parameters()
    del parameters["boosting"]
    with pytest.raises(ConfigError, match="weak learners"):
        loaded.set_parameters(parameters)
    loaded.set_parameters(parameters, exact_match=False)
    broken = model.get_parameters()
    broken["boosting"]["learners"].popitem()
    with pytest.raises(CheckpointError, match="weak learners are malformed"):
        loaded.set_parameters(broken)
