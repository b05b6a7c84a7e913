"""How well a reward model predicts answers that it was not fitted to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlopt.preferences.folder import PreferenceFolder
from rlopt.preferences.fragments import Preferences
from rlopt.preferences.losses import agreement


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
