"""Preferences and reward models as folders: settings, fragments, answers, and the model once it was fitted."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlopt.checkpoint.files import latest_checkpoint
from rlopt.errors import CheckpointError, DataError, one_line
from rlopt.preferences.config import PreferenceConfig
from rlopt.preferences.fragments import Preferences
from rlopt.preferences.learner import PreferenceLearner
from rlopt.preferences.reward_model import agreement
from rlopt.settings.fields import from_mapping
from rlopt.storage.checked_folder import MANIFEST, FolderKind, read_checked, replace_checked

KIND = FolderKind("preferences", "rlopt-preferences", error=DataError)
_WRAPPER = "LearnedReward"


@dataclass(frozen=True)
class PreferenceFolder:
    """What a folder holds."""

    config: PreferenceConfig
    preferences: Preferences | None = None
    """None before there are any."""
    model: Any = None
    """The tree of a fitted :class:`rlopt.preferences.reward_model.RewardEnsemble`."""

    def learner(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **arguments: Any
    ) -> PreferenceLearner:
        """A learner that continues from it, in environments of these spaces.

        :param arguments: arguments of :class:`PreferenceLearner`
        """
        made = PreferenceLearner(
            self.config, observation_space, action_space, preferences=self.preferences, **arguments
        )
        if self.model is not None:
            made.model.restore(self.model)
        return made


def save_preferences(
    path: str | Path, config: PreferenceConfig, preferences: Preferences | None = None, model: Any = None
) -> Path:
    """Writes a folder, whole or not at all; it replaces an existing folder of preferences, but nothing else.

    :raises rlopt.errors.DataError: something else is there, or the file system refuses
    """
    tree = {
        "config": dataclasses.asdict(config),
        "preferences": None if preferences is None or not len(preferences) else preferences.tree(),
        "model": model,
    }
    return replace_checked(Path(path), KIND, {"preferences": tree})


def load_preferences(path: str | Path) -> PreferenceFolder:
    """Reads a folder of :func:`save_preferences`, or the preferences of a run that was trained on a learned reward.

    :raises rlopt.errors.DataError: it is neither, or damaged
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        return _of_run(path)
    if not (path / MANIFEST).exists():
        raise DataError(
            f"{path} holds no preferences: make some with rlopt preferences new {path}, or give a run that was trained "
            "with --reward"
        )
    _, trees = read_checked(path, KIND)
    return _read(path, trees["preferences"])


def _read(path: Path, tree: Any) -> PreferenceFolder:
    try:
        known = {field.name for field in dataclasses.fields(PreferenceConfig)}
        settings = {name: value for name, value in tree["config"].items() if name in known}
        config = from_mapping(PreferenceConfig, settings, str(path))
        preferences = None if tree["preferences"] is None else Preferences.from_tree(tree["preferences"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} holds no preferences ({one_line(error)}): it is malformed") from error
    return PreferenceFolder(config, preferences, tree["model"])


def _of_run(path: Path) -> PreferenceFolder:
    try:
        checkpoint = latest_checkpoint(path / "checkpoints", lambda line: None)
    except CheckpointError as error:
        raise DataError(f"{path} has no checkpoint with preferences: {error}") from error
    found: Mapping[str, Any] | None = None
    for entry in checkpoint.trees["env"]["wrappers"]:
        if entry["kind"] == _WRAPPER:
            found = entry["state"]
    if found is None:
        raise DataError(f"the run {path} was trained on its environment's rewards: give one that was trained with "
                        "--reward")  # fmt: skip
    learner = found["learner"]
    return _read(path, {**learner, "config": found["config"]})


def held_out_agreement(
    there: PreferenceFolder, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], *, seed: int
) -> float | None:
    """Share of the ordered pairs in a fifth of the answers that a model fitted to the others puts in the same order;
    None for fewer than ten answers, or no ordered pair.
    """
    answers = there.preferences
    if answers is None or len(answers) < 10:
        return None
    held = np.random.default_rng(seed).permutation(len(answers)) < len(answers) // 5
    shown, rest = (
        Preferences(answers.fragments, answers.questions[rows], answers.places[rows]) for rows in (~held, held)
    )
    learner = dataclasses.replace(there, preferences=shown, model=None).learner(
        observation_space, action_space, seed=seed
    )
    learner.fit()
    scores = torch.from_numpy(learner.model.member_returns(answers.fragments)).mean(dim=0)
    share = agreement(scores[torch.from_numpy(rest.questions).clamp(min=0)], torch.from_numpy(rest.places)).item()
    return share if np.isfinite(share) else None
