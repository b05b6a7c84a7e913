"""AILBoost and DAC from images: what the discriminator sees, single frames, rewards, exact resume, a real renderer."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camera import camera, expert_of_camera
from demonstrated import TASK, target_demonstrations
from gymnasium import spaces

import rlopt
from rlopt.agents.ailboost.algorithm import DAC, AILBoost
from rlopt.agents.ailboost.config import DACConfig
from rlopt.checkpoint.files import read_checkpoint
from rlopt.checkpoint.model_state import capture_state, learn_from, save_checkpoint
from rlopt.data import DemonstrationMetadata
from rlopt.envs import rendering
from rlopt.envs.settings import EnvSettings
from rlopt.errors import ConfigError, DataError
from rlopt.nn.encoders import DrQV2Encoder
from rlopt.runs.demonstrations import demonstrations as chosen_demonstrations
from rlopt.settings.run import RunConfig

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "learner_steps": 15,
    "policy_steps": 15,
    "discriminator_steps": 3,
    "discriminator_batch_size": 8,
    "discriminator_net_arch": [8],
    "batch_size": 8,
    "buffer_size": 200,
    "n_steps": 3,
    "gamma": 0.9,
    "random_shift": 2,
    "policy_kwargs": {"net_arch": [8], "features_extractor_class": "drqv2"},
    "replay_buffer_kwargs": {"frames": 3},
    "learning_rate": 1e-3,
    "seed": 0,
    "device": "cpu",
}


def small(algorithm: type[AILBoost] = AILBoost, side: int = 20, **settings: Any) -> AILBoost:
    return algorithm("CnnPolicy", camera(side), expert_of_camera(side), **{**SMALL, **settings})


def parameters(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def features_of(model: AILBoost, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.critic.features_extractor(images.float() / 255)


def test_the_discriminator_sees_the_critics_features_as_they_were_at_its_last_training() -> None:
    model = small(policy_steps=1000)
    images = torch.from_numpy(expert_of_camera().observations)
    model.boundary_hook = lambda learner: learner.rounds.n_rounds < 1
    model.learn(200)
    then = features_of(model, images)
    model.boundary_hook = None
    model.learn(20, reset_num_timesteps=False)
    assert model._n_updates > 10 and not torch.allclose(features_of(model, images), then, atol=1e-3)
    expert = model.expert.gather(torch.arange(len(images)))
    inputs = model.adversary.inputs(expert)
    assert inputs.shape == (30, 50 + 2)  # features and action
    expected = model.adversary.statistics(then)
    deviation = expected.std(0, correction=0)
    assert (deviation < 1 + 1e-4).all() and (deviation > 0.2).float().mean() > 0.5
    assert torch.allclose(inputs[:, :50], expected, atol=1e-4)
    assert torch.equal(inputs[:, 50:52], expert.actions)
    seen = model.adversary.look_again(model.critic, model.expert)
    now = features_of(model, images)
    assert torch.allclose(seen.observations, now, atol=1e-6)
    shown = model.adversary.inputs(seen.gather(torch.arange(30)))
    assert torch.allclose(shown, model.adversary.inputs(expert), atol=1e-5)
    assert torch.allclose(shown[:, :50].mean(0), torch.zeros(50), atol=1e-5)


def test_training_the_discriminator_leaves_every_encoder_as_it_was() -> None:
    model = small().learn(60)
    model.adversary.look_again(model.critic, model.expert)
    before = parameters(model.policy), parameters(model.adversary.features)
    discriminator = parameters(model.adversary.discriminator)
    model._train_discriminator()
    assert torch.equal(parameters(model.policy), before[0])
    assert torch.equal(parameters(model.adversary.features), before[1])
    assert not torch.equal(parameters(model.adversary.discriminator), discriminator)


def test_both_states_are_seen_where_the_discriminator_takes_them() -> None:
    model = small(discriminator_input="state_next_state").learn(60)
    batch = model.replay_buffer.transitions(torch.arange(6))
    seen = model.adversary.features
    scaled = model.adversary.statistics
    expected = [scaled(seen(part)) for part in (batch.observations, batch.next_observations)]
    assert torch.equal(model.adversary.inputs(batch), torch.cat(expected, dim=1))
    assert not torch.equal(*expected)


def test_several_step_returns_sum_the_rewards_of_images_that_are_not_shifted() -> None:
    model = small().learn(60)
    buffer: Any = model.replay_buffer
    rows = torch.tensor([15, 27, 28])  # the episode ends with row 29
    stored = buffer.transitions(torch.arange(15, 30))
    single = model.adversary.discriminator(model.adversary.inputs(stored)).flatten()
    expected = torch.stack(
        [single[0] + 0.9 * single[1] + 0.81 * single[2], single[12] + 0.9 * single[13] + 0.81 * single[14],
         single[13] + 0.9 * single[14]]
    )  # fmt: skip
    batch = buffer.gather(rows)
    assert torch.allclose(batch.rewards.flatten(), expected, atol=1e-5)
    assert torch.allclose(batch.discounts.flatten(), torch.tensor([0.729, 0.729, 0.81]))
    assert torch.equal(batch.observations, stored.observations[[0, 12, 13]])


@pytest.mark.parametrize("buffer_size", [200, 50], ids=["", "overwritten"])
def test_single_frames_train_alike(buffer_size: int) -> None:
    frames = small(buffer_size=buffer_size).learn(110)
    stacks = small(buffer_size=buffer_size, replay_buffer_kwargs={}).learn(110)
    assert frames.replay_buffer.full is (buffer_size == 50)
    assert torch.equal(parameters(frames.policy), parameters(stacks.policy))
    rows, _ = frames.rounds.rows.row_weights()
    assert rows.tolist() == stacks.rounds.rows.row_weights()[0].tolist()
    one, other = (model.replay_buffer.transitions(torch.from_numpy(rows)) for model in (frames, stacks))
    assert torch.equal(one.observations, other.observations)
    assert torch.equal(one.next_observations, other.next_observations)


def test_snapshots_have_their_own_encoder() -> None:
    model = small().learn(60)
    image = camera().reset()
    kept = {name: value.clone() for name, value in model.learners.parameters(0).items()}
    assert any("convolutions" in name for name in kept)
    learner = model.rounds.rows.learner_ids[0]
    then = model.learners.act(learner, model.actor, torch.from_numpy(image), True)
    model.learn(60, reset_num_timesteps=False)
    assert all(torch.equal(kept[name], value) for name, value in model.learners.parameters(0).items())
    assert torch.equal(model.learners.act(learner, model.actor, torch.from_numpy(image), True), then)
    assert model.predict(image, policy="mixture")[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (AILBoost, {}),
        (AILBoost, {"relabel": False, "n_steps": 1}),
        (AILBoost, {"side": 36, "policy_kwargs": {"net_arch": [8]}}),
        (DAC, {"learner_steps": 0, "policy_steps": 20, "normalize_inputs": False}),
    ],
    ids=["ailboost", "stale", "nature", "dac"],
)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, algorithm: type[AILBoost], settings: dict[str, Any]) -> None:
    whole = small(algorithm, **settings).learn(110)
    stopped = small(algorithm, **settings)
    stopped.boundary_hook = lambda model: model.num_timesteps < 77
    stopped.learn(110)
    assert stopped.num_timesteps == 77 and stopped.rounds.n_rounds > 0
    trees = read_checkpoint(save_checkpoint(stopped, tmp_path)).trees
    resumed = small(algorithm, **settings)
    learn_from(resumed, trees, 110)
    assert resumed.rounds.n_rounds > stopped.rounds.n_rounds
    one, other = (capture_state(model)["networks"]["modules"] for model in (whole, resumed))
    assert one.keys() == other.keys() and {"policy", "adversary.discriminator", "adversary.features"} <= one.keys()
    for name, tensors in one.items():
        assert all(torch.equal(tensor, other[name][key]) for key, tensor in tensors.items()), name


def test_a_loaded_model_predicts_and_learns_on(tmp_path: Path) -> None:
    model = small().learn(80)
    image = camera().reset()
    loaded = rlopt.load(save_checkpoint(model, tmp_path))
    assert type(loaded.critic.features_extractor) is DrQV2Encoder
    assert np.array_equal(loaded.predict(image, deterministic=True)[0], model.predict(image, deterministic=True)[0])
    batch = model.replay_buffer.transitions(torch.arange(5))
    assert torch.equal(loaded.adversary.reward(batch), model.adversary.reward(batch))
    loaded.set_env(camera())
    loaded.set_demonstrations(expert_of_camera())
    loaded.learn(80)
    assert torch.isfinite(parameters(loaded.policy)).all()


def test_demonstrations_of_other_images_are_refused() -> None:
    other = expert_of_camera()
    for images in (other.observations[:, :2], other.observations[:, :, :18, :18]):
        data = dataclasses.replace(other, observations=images, next_observations=images)
        with pytest.raises(DataError):
            AILBoost("CnnPolicy", camera(), data, **SMALL)
    settings = EnvSettings("dm_control/walker-walk", action_repeat=2, from_pixels=True, frame_stack=3, image_size=20)
    space, actions = spaces.Box(0, 255, (9, 20, 20), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    seen = np.zeros((30, 9, 20, 20), np.uint8)
    metadata = DemonstrationMetadata("dm_control/walker-walk", action_repeat=2, observation_keys=("pixels",))
    fitting = dataclasses.replace(other, observations=seen, next_observations=seen, metadata=metadata)
    fitting.check_fits(settings, space, actions)
    with pytest.raises(DataError, match="in this order"):
        states = dataclasses.replace(metadata, observation_keys=("orientations", "height", "velocity"))
        dataclasses.replace(fitting, metadata=states).check_fits(settings, space, actions)
    with pytest.raises(DataError, match="repeat an action"):
        fitting.check_fits(dataclasses.replace(settings, action_repeat=1), space, actions)


REAL = """
import sys
import numpy as np
import torch
import rlopt
from rlopt.cli.main import main
from rlopt.collect import record_demonstrations
from rlopt.envs.settings import EnvSettings

class Random:
    def __init__(self, space):
        self.action_space, self.rng = space, np.random.default_rng(0)
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.rng.uniform(-1, 1, (len(observation), *self.action_space.shape)).astype(np.float32), None

settings = EnvSettings("dm_control/ball_in_cup-catch", action_repeat=2, image_size=48, max_episode_steps=30)
env = rlopt.make_env(**settings.as_dict())
data = record_demonstrations(Random(env.action_space), settings, 2, pixels=True)
assert data.extras["pixels"].shape == (30, 3, 48, 48) and data.extras["pixels"].std() > 5
data.save(sys.argv[1] + "/demos")
flags = f"--preset dmc/pixels --demos {sys.argv[1]}/demos".split()
flags += "--image-size 48 --max-episode-steps 30 --learning-starts 20 --learner-steps 15 --policy-steps 10".split()
flags += "--batch-size 8 --discriminator-steps 5 --discriminator-batch-size 8 --net-arch 16 --buffer-size 500".split()
flags += "--total-timesteps 60 --eval-every 60 --eval-episodes 1 --checkpoint-every 60 --num-threads 1".split()
for agent in ("ailboost", "dac"):
    run = f"{sys.argv[1]}/{agent}"
    assert main(["train", agent, "--run-dir", run, *flags]) == 0
    model = rlopt.load(run)
    assert model.observation_space.shape == (9, 48, 48) and model.rounds.n_rounds >= 1
    assert model.replay_buffer.frames == 3 and model.n_steps == 3 and model.random_shift == 4
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())
"""


@pytest.mark.parametrize("fast", [False, True])
def test_images_that_were_drawn_otherwise_are_refused(fast: bool, tmp_path: Path) -> None:
    shown = target_demonstrations()
    images = np.random.default_rng(0).integers(0, 256, (len(shown), 3, 8, 8), np.uint8)
    wrappers = {"fast_render": True} if fast else {}
    metadata = dataclasses.replace(shown.metadata, wrappers=wrappers)
    dataclasses.replace(shown, extras={"pixels": images, "next_pixels": images}, metadata=metadata).save(tmp_path)
    config = DACConfig(demos=str(tmp_path))
    run = RunConfig(env=TASK, from_pixels=True, image_size=8, fast_render=fast)
    assert chosen_demonstrations(run, config)["demonstrations"].observations.shape[1:] == (3, 8, 8)
    flag = "--fast-render" if fast else "--no-fast-render"
    with pytest.raises(ConfigError, match=f"give {flag}"):
        chosen_demonstrations(dataclasses.replace(run, fast_render=not fast), config)


@pytest.mark.slow
@pytest.mark.gl
@pytest.mark.skipif(rendering.available_gl() is None, reason=f"no GL here: apt-get install {rendering.APT_EGL}")
def test_short_runs_from_rendered_images(tmp_path: Path) -> None:
    # In a process of its own: the GL platform is chosen once per process.
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    command = [sys.executable, "-c", REAL, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for agent in ("ailboost", "dac"):
        header, *rows = (tmp_path / agent / "progress.csv").read_text().splitlines()
        assert rows and "discriminator/loss" in header
