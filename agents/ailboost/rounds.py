"""The rounds of boosting: whose transitions are whose, and when a learner is complete."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rlopt.errors import CheckpointError
from rlopt.replay.mixture import WeightedRows, WeightRule
from rlopt.storage.tree import Tree

Phase = Literal["rollout", "improvement"]


class Rounds:
    """Counts the environment steps of a run in rounds and keeps the weak learners' rows of the replay buffer.

    A round is a *rollout* of ``learner_steps`` transitions with the policy as it is, whole episodes but for the last,
    then an *improvement* of ``policy_steps`` transitions, in which the policy is trained. With ``learner_steps`` 0
    there is no rollout, and the transitions of the improvement stand for the learner at its end; those from before
    training for the first one.

    :param rows: of the learners
    :param recent_size: rows that can be drawn at most, the newest; None for no bound
    :param buffer_rows: of the replay buffer, all environments together
    """

    def __init__(
        self,
        rows: WeightedRows,
        learner_steps: int,
        policy_steps: int,
        recent_size: int | None,
        n_envs: int,
        buffer_rows: int,
    ) -> None:
        self.rows = rows
        self.learner_steps, self.policy_steps, self.recent_size = learner_steps, policy_steps, recent_size
        self.buffer_rows = buffer_rows
        self.phase: Phase = "rollout"
        self.n_rounds = 0
        """Learners completed."""
        self.steps = 0
        """Transitions of this phase so far; in a rollout those that count."""
        self.begun = False
        """Whether the first round has begun: warm-up transitions come before."""
        self._current: list[int] = []
        self._overwritten: list[int] = []
        self._at_start = np.ones(n_envs, bool)
        self._counts = np.ones(n_envs, bool)
        self._n_ends: int | None = None
        """Episodes that ended among the rollout's rows; None where it was not watched from its beginning."""
        self._waited = 0

    @classmethod
    def of(cls, model: Any) -> Rounds:
        """As the settings of an :class:`rlopt.AILBoost` ask for."""
        uniform = model.weighting in ("uniform", "recent")
        rule: WeightRule = "uniform" if uniform else model.weighting
        rows = WeightedRows(
            rule,
            model.mixture_weight,
            0.0 if uniform else model.truncated_mass,
            None if uniform else model.max_learners,
            model.device,
        )
        recent = model.recent_size if model.weighting == "recent" else None
        buffer_rows = model.replay_buffer.buffer_size * model.n_envs
        return cls(rows, model.learner_steps, model.policy_steps, recent, model.n_envs, buffer_rows)

    def begin_episodes(self) -> None:
        """Every environment has been reset."""
        self._at_start[:] = True
        self._counts[:] = True

    def keep_below(self, limit: int) -> None:
        """Only rows below ``limit`` exist, as after loading without the replay."""
        own, _ = self.rows.row_weights()
        self.rows.forget(own[own >= limit])
        kept = [row for row in self._current if row < limit]
        if self.begun and self.phase == "rollout":
            self.steps -= len(self._current) - len(kept)
        self._current, self._overwritten = kept, [row for row in self._overwritten if row < limit]

    def stored(self, position: int, was_full: bool, dones: np.ndarray, warming_up: bool = False) -> None:
        """One transition of every environment was written at ``position`` of the replay buffer.

        :param was_full: whether older ones were overwritten
        :param dones: (n_envs,) whether they ended an episode
        :param warming_up: whether the actions were random, as in the first steps of every ``learn``. A round that has
            begun does not count them, nor the rest of the episodes that began with them
        """
        n_envs = len(dones)
        rows = position * n_envs + np.arange(n_envs)
        if was_full:
            self._overwritten += rows.tolist()
        in_rollout = self.begun and self.phase == "rollout"
        self._at_start = np.asarray(dones, bool).copy()
        if warming_up and self.begun and self.learner_steps:
            self._counts = self._at_start.copy()
            return
        own = rows[self._counts] if in_rollout else rows
        if in_rollout or self.learner_steps == 0:
            self._current += own.tolist()
        self.steps += len(own)
        if in_rollout:
            self._watch(n_envs)
        self._counts = self._counts | self._at_start

    def _watch(self, n_envs: int) -> None:
        if self._n_ends is not None:
            self._n_ends += int(self._at_start[self._counts].sum())
        if self.steps:
            return
        self._waited += n_envs
        if self._waited == 10 * self.learner_steps * n_envs:
            warnings.warn(
                f"no episode has ended for {self._waited} transitions, but a weak learner's rollout begins with a "
                f"new episode: nothing is trained until then; give the environment a time limit, or learner_steps=0",
                stacklevel=2,
            )

    def due(self) -> bool:
        """Whether the phase is over. The first call begins the first round."""
        if not self.begun:
            self.begun = True
            self._begin("rollout" if self.learner_steps else "improvement")
            return self.learner_steps == 0
        return self.steps >= (self.learner_steps if self.phase == "rollout" else self.policy_steps)

    def next_phase(self) -> bool:
        """Goes to the next phase; returns whether the learner of the round is complete now.

        Warns of a rollout that no episode ended in.
        """
        complete = self.learner_steps == 0 or self.phase == "rollout"
        if self.phase == "rollout" and self._n_ends == 0:
            warnings.warn(
                f"no episode ended in the {self.steps} transitions of a weak learner's rollout in {len(self._counts)} "
                "environments: the discriminator never sees the later parts of episodes; raise learner_steps to a "
                "whole episode "
                "of each environment, or take fewer environments",
                stacklevel=2,
            )
        self._begin("rollout" if self.learner_steps and self.phase == "improvement" else "improvement")
        return complete

    def _begin(self, phase: Phase) -> None:
        self.phase, self.steps = phase, 0
        self._counts = self._at_start.copy()
        self._n_ends = self._waited = 0

    def add_learner(self) -> int:
        """The rows collected since the last learner become those of a new one; returns its id."""
        self.rows.forget(np.array(self._overwritten, np.int64))
        learner = self.rows.add_learner(np.array(list(dict.fromkeys(self._current)), np.int64))
        self._current, self._overwritten = [], []
        self.n_rounds += 1
        if self.recent_size is not None and self.rows.n_rows > self.recent_size:
            self.rows.forget(self.rows.row_weights()[0][: -self.recent_size])
        return learner

    def sample(self, batch_size: int) -> Tensor:
        """Rows (B,) of the mixture of the learners' occupancies."""
        return self.rows.sample(batch_size)

    def get_state(self) -> dict[str, Tree]:
        """Everything as numbers and numpy arrays."""
        return {
            "rows": self.rows.get_state(),
            "phase": self.phase,
            "n_rounds": self.n_rounds,
            "steps": self.steps,
            "begun": self.begun,
            "current": np.array(self._current, np.int64),
            "overwritten": np.array(self._overwritten, np.int64),
            "at_start": self._at_start.copy(),
            "counts": self._counts.copy(),
        }

    def check_state(self, state: Tree) -> None:
        """Raises :class:`rlopt.errors.CheckpointError` unless ``state`` is well-formed and fits."""
        try:
            self.rows.check_state(state["rows"], buffer_rows=self.buffer_rows)
            lists = [state["current"], state["overwritten"]]
            flags = [state["at_start"], state["counts"]]
            valid = (
                state["phase"] in ("rollout", "improvement")
                and all(type(state[name]) is int and state[name] >= 0 for name in ("n_rounds", "steps"))
                and type(state["begun"]) is bool
                and all(
                    part.dtype == np.int64 and part.ndim == 1 and ((part >= 0) & (part < self.buffer_rows)).all()
                    for part in lists
                )
                and all(part.dtype == bool and part.ndim == 1 and part.shape == flags[0].shape for part in flags)
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError("the checkpoint's rounds are malformed: use an older checkpoint") from error
        if not valid:
            raise CheckpointError("the checkpoint's rounds are malformed: use an older checkpoint")

    def set_state(self, state: Tree) -> None:
        """Continues from what :meth:`get_state` gave and :meth:`check_state` accepted."""
        self.rows.set_state(state["rows"])
        self.phase, self.n_rounds, self.steps, self.begun = (
            state[name] for name in ("phase", "n_rounds", "steps", "begun")
        )
        self._current, self._overwritten = state["current"].tolist(), state["overwritten"].tolist()
        if state["counts"].shape == self._counts.shape:  # else other environments, whose episodes begin
            self._at_start, self._counts = state["at_start"].copy(), state["counts"].copy()
        self._n_ends = None
