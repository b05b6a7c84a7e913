"""Fragments of episodes, and what was said of them. Knows numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlopt.errors import DataError
from rlopt.feedback.ranking import Ranking

WORST = 2**30
"""Place of a fragment that an answer leaves unranked: worse than every place, and never chosen."""
ABSENT = -1
"""Place of what is not a fragment, where a question has fewer than others."""


def places_of(answer: Ranking, m: int) -> np.ndarray:
    """(m,) int64: the tier of each candidate from 0, the best; :data:`WORST` for the unranked.

    :raises rlopt.errors.AnswerError: the answer does not fit, or abstains
    """
    answer.check(m)
    places = np.full(m, WORST, np.int64)
    for place, tier in enumerate(answer.tiers):
        places[list(tier)] = place
    return places


def ranking_of(places: np.ndarray) -> Ranking:
    """The inverse of :func:`places_of`."""
    tiers = [tuple(np.flatnonzero(places == place).tolist()) for place in np.unique(places[places != WORST])]
    return Ranking(tuple(tiers), tuple(np.flatnonzero(places == WORST).tolist()))


@dataclass(frozen=True)
class Fragments:
    """F fragments of at most L steps. Entries beyond the end of a shorter one are 0 and have no meaning."""

    observations: np.ndarray
    """(F, L, O) float32, flat, before each step."""
    actions: np.ndarray
    """(F, L, ...) in the environment's units."""
    lengths: np.ndarray
    """(F,) int64, 1 to L; less than L only where the episode truly ended, so that later rewards are 0."""
    rewards: np.ndarray
    """(F, L) float32 of the environment; NaN where they are not known."""
    last_observations: np.ndarray
    """(F, O) float32, after the last step; NaN where it is not known."""
    episodes: np.ndarray
    """(F,) int64, the episode; -1 where it is not known."""
    starts: np.ndarray
    """(F,) int64, the step of the episode at which the fragment begins; -1 where it is not known."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def returns(self) -> np.ndarray:
        """(F,) float64, sums of the environment's rewards; NaN where they are not known."""
        return np.where(self.steps, self.rewards.astype(np.float64), 0.0).sum(axis=1)

    @property
    def steps(self) -> np.ndarray:
        """(F, L) bool: which steps there are."""
        return np.arange(self.observations.shape[1]) < self.lengths[:, None]

    def take(self, rows: np.ndarray | slice) -> Fragments:
        """Those at ``rows``."""
        return Fragments(**{name: column[rows] for name, column in self.arrays().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """Every column by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def check(self) -> None:
        """Raises :class:`rlopt.errors.DataError` unless the columns fit each other, and all numbers are finite."""
        arrays, count = self.arrays(), len(self)
        dimensions = {"observations": 3, "rewards": 2, "last_observations": 2, "lengths": 1, "episodes": 1, "starts": 1}
        length = self.observations.shape[1] if self.observations.ndim == 3 else 0
        for name, column in arrays.items():
            if len(column) != count or column.ndim != dimensions.get(name, column.ndim):
                raise DataError(f"{name} of shape {column.shape} do not fit {count} fragments: one row for each")
        if self.rewards.shape[1] != length or self.actions.ndim < 2 or self.actions.shape[1] != length:
            raise DataError(f"actions {self.actions.shape} and rewards {self.rewards.shape} do not have {length} steps")
        if self.last_observations.shape[1] != self.observations.shape[2]:
            raise DataError(f"last observations of {self.last_observations.shape[1]} numbers, others of "
                            f"{self.observations.shape[2]}")  # fmt: skip
        if count and not (self.lengths.min() >= 1 and self.lengths.max() <= length):
            raise DataError(f"a fragment has {self.lengths.min()} to {self.lengths.max()} steps of {length}")
        if not (np.isfinite(self.observations).all() and np.isfinite(self.actions).all()):
            raise DataError("an observation or action of a fragment is not finite")

    @staticmethod
    def joined(parts: Sequence[Fragments]) -> Fragments:
        """Those of all ``parts``; shorter ones are taken to have ended truly."""
        longest = max(part.observations.shape[1] for part in parts)
        padded = [part.padded(longest).arrays() for part in parts]
        shapes = {(part["observations"].shape[2:], part["actions"].shape[2:]) for part in padded}
        if len(shapes) > 1:
            raise DataError(f"fragments of different observations or actions cannot be joined: {sorted(shapes)}")
        return Fragments(**{name: np.concatenate([part[name] for part in padded]) for name in padded[0]})

    def padded(self, length: int) -> Fragments:
        """The same with room for ``length`` steps, so that all seem to have ended truly before."""

        def filled(column: np.ndarray) -> np.ndarray:
            return np.pad(column, [(0, 0), (0, length - column.shape[1])] + [(0, 0)] * (column.ndim - 2))

        wide = {name: filled(getattr(self, name)) for name in ("observations", "actions", "rewards")}
        return dataclasses.replace(self, **wide)


@dataclass(frozen=True)
class Preferences:
    """Fragments, and answers to questions about them."""

    fragments: Fragments
    questions: np.ndarray
    """(Q, n) int64: the fragments of each question, :data:`ABSENT` where it has fewer."""
    places: np.ndarray
    """(Q, n) int64: what was answered, see :func:`rlopt.preferences.reward_model.plackett_luce_loss`."""

    def __len__(self) -> int:
        """Answers."""
        return len(self.questions)

    @classmethod
    def of(cls, fragments: Fragments, questions: Sequence[Sequence[int]], answers: Sequence[Ranking]) -> Preferences:
        """From the fragments of each question and its answer; answers that abstain are left out.

        :raises rlopt.errors.AnswerError: an answer does not fit its question
        """
        kept = [pair for pair in zip(questions, answers, strict=True) if not pair[1].abstain]
        widest = max((len(question) for question, _ in kept), default=2)
        shown = np.full((len(kept), widest), ABSENT, np.int64)
        places = np.full_like(shown, ABSENT)
        for row, (question, answer) in enumerate(kept):
            shown[row, : len(question)] = question
            places[row, : len(question)] = places_of(answer, len(question))
        return cls(fragments, shown, places)

    @classmethod
    def none(cls, observation_size: int, actions: np.ndarray, length: int) -> Preferences:
        """No fragment, and no answer.

        :param actions: (0, ...), for their shape and type
        """
        room = np.zeros((0, length), np.float32)
        return cls.of(
            Fragments(
                np.zeros((0, length, observation_size), np.float32),
                np.zeros((0, length, *actions.shape[1:]), actions.dtype),
                *(np.zeros(0, np.int64), room, np.zeros((0, observation_size), np.float32)),
                *(np.zeros(0, np.int64), np.zeros(0, np.int64)),
            ),
            [],
            [],
        )

    def check(self) -> None:
        """Raises :class:`rlopt.errors.DataError` unless all fits."""
        self.fragments.check()
        present = self.questions != ABSENT
        if self.questions.shape != self.places.shape or self.questions.ndim != 2:
            raise DataError("questions and places of different shapes")
        if (
            (present != (self.places != ABSENT)).any()
            or (self.places < ABSENT).any()
            or (present.sum(axis=1) < 2).any()
        ):
            raise DataError("a question has fewer than two fragments, or one without a place")
        if present.any() and not (self.questions[present].min() >= 0 and self.questions.max() < len(self.fragments)):
            raise DataError(f"a question names a fragment that is none of the {len(self.fragments)}")

    def more(self, other: Preferences) -> Preferences:
        """These, and behind them those of ``other``.

        :raises rlopt.errors.DataError: their fragments have other lengths, observations or actions
        """
        if not len(self.fragments):
            return other
        lengths = [part.fragments.observations.shape[1] for part in (self, other)]
        if lengths[0] != lengths[1]:
            raise DataError(
                f"fragments of {lengths[0]} and of {lengths[1]} steps cannot be compared: choose one length"
            )
        before, widest = len(self.fragments), max(self.questions.shape[1], other.questions.shape[1])
        moved = np.where(other.questions == ABSENT, ABSENT, other.questions + before)

        def wide(rows: np.ndarray) -> np.ndarray:
            return np.pad(rows, [(0, 0), (0, widest - rows.shape[1])], constant_values=ABSENT)

        return Preferences(
            Fragments.joined([self.fragments, other.fragments]),
            np.concatenate([wide(self.questions), wide(moved)]),
            np.concatenate([wide(self.places), wide(other.places)]),
        )

    def answers(self) -> list[tuple[list[int], Ranking]]:
        """Each question with its answer."""
        found = []
        for shown, places in zip(self.questions, self.places, strict=True):
            present = shown != ABSENT
            found.append((shown[present].tolist(), ranking_of(places[present])))
        return found

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Every comparison of two fragments that the answers say: (P, 2) fragments, and (P,) float64, 1 where the first
        was preferred, 0 where the second, .5 for a tie.
        """
        rows: list[tuple[int, int]] = []
        said: list[float] = []
        for question, answer in self.answers():
            places = places_of(answer, len(question))
            for first in range(len(question)):
                for second in range(first + 1, len(question)):
                    both_unranked = first in answer.unranked and second in answer.unranked
                    if not both_unranked:
                        rows.append((question[first], question[second]))
                        said.append(float(np.sign(places[second] - places[first]) + 1) / 2)
        return np.array(rows, np.int64).reshape(-1, 2), np.array(said)

    def tree(self) -> dict[str, Any]:
        """For :mod:`rlopt.storage`."""
        return {"fragments": self.fragments.arrays(), "questions": self.questions, "places": self.places}

    @classmethod
    def from_tree(cls, tree: Any) -> Preferences:
        """The inverse of :meth:`tree`; raises DataError, KeyError or TypeError for a damaged one."""
        found = cls(Fragments(**tree["fragments"]), tree["questions"], tree["places"])
        found.check()
        return found
