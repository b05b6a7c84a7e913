"""Behaviour cloning of images: alone, channels last or first, and as a part of Dict observations."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

import rlopt
from rlopt.checkpoint.load import load
from rlopt.checkpoint.model_state import learn_from, save_checkpoint
from rlopt.collect.demonstration_recording import record_demonstrations
from rlopt.errors import SpaceError
from rlopt.testing import equal, parameters

KINDS = ["last", "first", "dict"]


class Stripe(gymnasium.Env[Any, Any]):
    """A bright third of the image says which of three actions is right; episodes of eight steps."""

    action_space = spaces.Discrete(3)

    def __init__(self, kind: str) -> None:
        self.kind = kind
        shape = (3, 40, 36) if kind == "first" else (40, 36, 3)
        image = spaces.Box(0, 255, shape, np.uint8)
        parts = {"camera": image, "mode": spaces.Discrete(2), "speed": spaces.Box(0, 99, (2,), np.float32)}
        self.observation_space = spaces.Dict(parts) if kind == "dict" else image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        reward = float(action == self.right)
        return self._shown(), reward, False, self.count == 8, {}

    def _shown(self) -> Any:
        self.right = int(self.np_random.integers(3))
        image = np.zeros((40, 36, 3), np.uint8)
        image[:, 12 * self.right : 12 * self.right + 12] = 200
        if self.kind == "dict":
            return {"camera": image, "mode": 1, "speed": self.np_random.uniform(50, 60, 2).astype(np.float32)}
        return np.ascontiguousarray(np.moveaxis(image, -1, 0)) if self.kind == "first" else image


class Sees:
    """The right action."""

    def predict(self, shown: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, None]:
        image = np.asarray(shown["camera"] if isinstance(shown, dict) else shown)
        rows = image[:, 0, 0, :] if image.shape[1] == 3 else image[:, 0, :, 0]
        return rows.argmax(axis=1) // 12, None


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_cloned_evaluated_continued_and_loaded(kind: str, tmp_path: Path) -> None:
    shown = record_demonstrations(Sees(), Stripe(kind), 12)  # type: ignore[arg-type]
    assert shown.episode_returns().tolist() == [8] * 12

    def build() -> Any:
        settings: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-3, "policy_kwargs": {"net_arch": [16]}}
        policy = "MultiInputPolicy" if kind == "dict" else "CnnPolicy"
        return rlopt.BC(policy, Stripe(kind), dataset=shown, seed=0, compile="off", device="cpu", **settings)

    def keep(model: Any) -> bool:
        if model.num_timesteps < 100:
            return True
        save_checkpoint(model, tmp_path)
        return False

    whole = build().learn(120)
    assert evaluate_policy(whole, Stripe(kind), n_eval_episodes=3, warn=False)[0] == 8
    encoder = whole.policy.actor.encoder
    assert type(encoder) is (CombinedExtractor if kind == "dict" else NatureCNN)
    stopped = build()
    stopped.boundary_hook = keep
    stopped.learn(120)
    resumed = build()
    learn_from(resumed, load_trees(tmp_path), 120)
    assert equal(parameters(whole), parameters(resumed))
    whole.save(tmp_path / "model.zip")
    seen, _ = Stripe(kind).reset(seed=5)
    for loaded in (rlopt.BC.load(tmp_path / "model.zip", device="cpu"), load(tmp_path, device="cpu")):
        assert loaded.predict(seen, deterministic=True)[0] == Sees().predict(batch_of(seen))[0][0]


def load_trees(folder: Path) -> Any:
    from rlopt.checkpoint.files import latest_checkpoint

    return latest_checkpoint(folder, print).trees


def batch_of(seen: Any) -> Any:
    return {key: np.asarray(part)[None] for key, part in seen.items()} if isinstance(seen, dict) else seen[None]


def test_the_actor_is_the_encoder_and_what_follows_it() -> None:
    """By hand: images in [0, 1], numbers shifted and scaled, the parts of the Dict in its order."""
    shown = record_demonstrations(Sees(), Stripe("dict"), 4)  # type: ignore[arg-type]
    policy: Any = rlopt.BC("MultiInputPolicy", Stripe("dict"), dataset=shown, seed=0, device="cpu").policy
    speeds = shown.observations["speed"]  # type: ignore[index, call-overload]
    mean, std = policy.observation_mean, policy.observation_std
    np.testing.assert_allclose(mean[2:], speeds.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std[2:], speeds.std(axis=0) + 1e-3, rtol=1e-3)
    rows = {
        "camera": torch.from_numpy(np.moveaxis(shown.observations["camera"], -1, 1).copy()),  # type: ignore[index, call-overload]
        "mode": torch.from_numpy(shown.observations["mode"]),  # type: ignore[index, call-overload]
        "speed": torch.from_numpy(speeds),
    }
    modes = torch.nn.functional.one_hot(rows["mode"], 2).float()
    with torch.no_grad():
        seen = torch.cat([
            policy.actor.encoder.extractors["camera"](rows["camera"] / 255),
            (modes - mean[:2]) / std[:2],
            (rows["speed"] - mean[2:]) / std[2:],
        ], dim=1)  # fmt: skip
        logits = policy.actor.network(seen)
        found = policy.actor.function.outputs(policy.actor.ordered_parameters(), policy.normalized(rows))[0]
    torch.testing.assert_close(found, logits)


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"images, which AWAC does not encode.* rlopt\.BC"):
        rlopt.AWAC("MlpPolicy", Stripe("last"))

    class Small(Stripe):
        def __init__(self) -> None:
            super().__init__("last")
            self.observation_space = spaces.Box(0, 255, (20, 30, 3), np.uint8)

    with pytest.raises(SpaceError, match="20 x 30 pixels are too small"):
        rlopt.BC("CnnPolicy", Small())
