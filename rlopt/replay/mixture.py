"""Which rows of a replay buffer each weak learner collected, and how rows are drawn from the learners' mixture.

Boosting (AILBoost, arXiv 2404.08513) trains its discriminator on d_t = sum_i w_i d^{pi_i}, the mixture of the learners'
occupancies. Row r of learner i, who has n_i rows, is drawn with probability w_i / n_i.
"""

import itertools
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from rlopt.errors import CheckpointError, ConfigError, unknown_name
from rlopt.settings.fields import Range, check_setting
from rlopt.storage.tree import Tree

WeightRule = Literal["constant", "bias_corrected", "uniform"]


class WeightedRows:
    """Learners with explicit ids, their rows and their weights, drawn by one uniform number a row.

    A new learner, the t-th, gets the weight a_t and the weights before are multiplied by 1 - a_t:

    - ``constant``: a_1 = 1, then a_t = ``mixture_weight``, the paper's. The first learner, usually an untrained
      network, keeps (1 - a)^(t - 1), which is most of the mass for the first rounds
    - ``bias_corrected``: a_t = max(``mixture_weight``, 1 / t): the mean of all learners until 1 / t falls below
    - ``uniform``: every row weighs the same, as in replay without weights

    This is the exact distribution. The oldest learners are dropped while there are more than ``max_learners``, and as
    long as the mass that is then missing from the exact distribution stays within ``truncated_mass``; the others share
    the missing mass in proportion.

    :param mixture_weight: a, in (0, 1]; the uniform rule does not use it
    :param truncated_mass: in [0, 1); 0 drops nobody who can be drawn
    :param max_learners: learners kept, >= 1, or None for any number. With the uniform rule a small number makes the
        replay a window of the newest rollouts
    :param device: where rows are drawn; there sampling waits for nothing
    :raises rlopt.errors.ConfigError: a setting outside its range
    """

    def __init__(
        self,
        rule: WeightRule = "constant",
        mixture_weight: float = 0.05,
        truncated_mass: float = 1e-3,
        max_learners: int | None = 128,
        device: torch.device | str = "cpu",
    ) -> None:
        if rule not in get_args(WeightRule):
            raise unknown_name("weight rule", str(rule), get_args(WeightRule))
        check_setting("mixture_weight", mixture_weight, Annotated[float, Range(gt=0, le=1)])
        check_setting("truncated_mass", truncated_mass, Annotated[float, Range(ge=0, lt=1)])
        check_setting("max_learners", max_learners, Annotated[int, Range(ge=1)] | None)
        self.rule: WeightRule = rule
        self.mixture_weight, self.truncated_mass, self.max_learners = mixture_weight, truncated_mass, max_learners
        self.device = torch.device(device)
        self.learner_ids: list[int] = []
        """Ids of the learners kept, oldest first."""
        # The exact distribution's masses, kept and missing, sum to 1; with the uniform rule, to all rows ever added.
        self._masses = np.zeros(0)
        self._missing = 0.0
        self._rows: list[np.ndarray] = []
        self._added = 0
        self._cached: tuple[Tensor, ...] | None = None  # the tensors that rows_at needs, until something changes

    @property
    def weights(self) -> np.ndarray:
        """The weights of the learners kept, (L,) float64, oldest first; they sum to 1."""
        return self._masses / self._masses.sum() if len(self._masses) else self._masses.copy()

    @property
    def dropped_mass(self) -> float:
        """What is missing from the exact distribution, in [0, 1]: learners dropped, and rows of theirs forgotten."""
        total = self._masses.sum() + self._missing
        return float(self._missing / total) if total else 0.0

    @property
    def n_rows(self) -> int:
        """Rows that can be drawn."""
        return sum(map(len, self._rows))

    def add_learner(self, rows: np.ndarray) -> int:
        """Takes in the newest learner and sets the weights anew.

        :param rows: (n,) integers >= 0, distinct, n >= 1: the rows of its rollout. Older learners who had one of them
            lose it, for the replay buffer has overwritten it
        :returns: its id: 0, 1, 2, ... in the order of adding
        :raises rlopt.errors.ConfigError: no rows, or rows that are no such numbers
        """
        rows = _checked_rows(rows)
        if not len(rows) or len(np.unique(rows)) != len(rows):
            raise ConfigError(
                f"a learner's rollout of {len(rows)} rows is empty or has a row twice: give distinct rows"
            )
        self.forget(rows)
        learner, self._added = self._added, self._added + 1
        if self.rule == "uniform":
            mass = float(len(rows))
        else:
            bias = 1 / self._added if self.rule == "bias_corrected" or learner == 0 else 0.0
            mass = max(self.mixture_weight, bias)
            self._masses, self._missing = self._masses * (1 - mass), self._missing * (1 - mass)
        self._masses = np.append(self._masses, mass)
        self.learner_ids.append(learner)
        self._rows.append(rows)
        self._truncate()
        self._cached = None
        return learner

    def _truncate(self) -> None:
        """Drops the oldest learners, but never the newest."""
        allowed = self.truncated_mass * (self._masses.sum() + self._missing)
        most = len(self._masses) if self.max_learners is None else self.max_learners
        missing, drop = self._missing, 0
        while drop < len(self._masses) - 1:
            within = missing + self._masses[drop] <= allowed
            if not within and len(self._masses) - drop <= most:
                break
            missing, drop = missing + float(self._masses[drop]), drop + 1
        self._missing, self._masses = missing, self._masses[drop:]
        del self.learner_ids[:drop], self._rows[:drop]

    def forget(self, rows: np.ndarray) -> None:
        """Takes out rows (n,) that the replay buffer has overwritten, in time proportional to all rows.

        A learner keeps its whole weight as long as it has a row; with the uniform rule its weight shrinks with its
        rows. The weight of a learner without rows goes to the others in proportion.
        """
        rows = _checked_rows(rows)
        if not len(rows) or not self._rows:
            return
        gone = np.isin(np.concatenate(self._rows), rows)
        if not gone.any():
            return
        ends = list(itertools.accumulate(map(len, self._rows)))
        kept = [own[~lost] for own, lost in zip(self._rows, np.split(gone, ends[:-1]), strict=True)]
        left = np.array([len(own) for own in kept])
        masses = left.astype(np.float64) if self.rule == "uniform" else np.where(left > 0, self._masses, 0.0)
        self._missing += float(np.sum(self._masses - masses))
        stay = np.flatnonzero(masses > 0)
        self._masses = masses[stay]
        self.learner_ids = [self.learner_ids[index] for index in stay]
        self._rows = [kept[index] for index in stay]
        self._cached = None

    def sample(self, batch_size: int) -> Tensor:
        """Rows (B,) int64 on ``device``, drawn independently from the mixture: :meth:`rows_at` of uniform numbers.

        They come from numpy's global generator on the CPU, from torch's on an accelerator.

        :raises rlopt.errors.ConfigError: there are no rows
        """
        if self.device.type == "cpu":
            return self.rows_at(torch.from_numpy(np.random.random_sample(batch_size)))
        return self.rows_at(torch.rand(batch_size, dtype=torch.float64, device=self.device))

    def rows_at(self, uniforms: Tensor) -> Tensor:
        """The inverse distribution function: rows (B,) int64 from (B,) float64 in [0, 1), in O(log L) each.

        Learners follow one another oldest first, their rows in the order of adding. With the uniform rule u gives
        exactly row number floor(u n) of all n.
        """
        rows, ends, starts, masses_before, rows_per_mass, last = self._cached or self._tensors()
        # In units of mass, not scaled to 1: whole numbers of rows then stay whole with the uniform rule.
        drawn = uniforms * ends[-1]
        learner = torch.searchsorted(ends, drawn, right=True).clamp_(max=len(ends) - 1)
        within = ((drawn - masses_before[learner]) * rows_per_mass[learner]).long()
        return rows[torch.minimum(starts[learner] + within, last[learner])]

    def _tensors(self) -> tuple[Tensor, ...]:
        if not self._rows:
            raise ConfigError("no learner has rows to sample: add one first (add_learner)")
        counts = np.array([len(own) for own in self._rows])
        lasts = np.cumsum(counts) - 1
        ends = np.cumsum(self._masses)
        # A mass below the smallest normal number would make its quotient infinite; it is never drawn.
        parts = (
            np.concatenate(self._rows),
            ends,
            lasts + 1 - counts,
            np.append(0.0, ends[:-1]),
            counts / np.maximum(self._masses, 1e-290),
            lasts,
        )
        self._cached = tuple(torch.from_numpy(part).to(self.device) for part in parts)
        return self._cached

    def row_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """All rows (n,) int64, in the order of :meth:`rows_at`, and the probability of each, (n,) float64."""
        if not self._rows:
            return np.zeros(0, np.int64), np.zeros(0)
        counts = np.array([len(own) for own in self._rows])
        return np.concatenate(self._rows), np.repeat(self.weights / counts, counts)

    def get_state(self) -> dict[str, Tree]:
        """Learners, masses and rows as numbers and numpy arrays, for :mod:`rlopt.checkpoint.files`."""
        return {
            "rule": self.rule,
            "added": self._added,
            "missing": self._missing,
            "learner_ids": np.array(self.learner_ids, np.int64),
            "masses": self._masses.copy(),
            "counts": np.array([len(own) for own in self._rows], np.int64),
            "rows": np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64),
        }

    def check_state(self, state: Tree, buffer_rows: int | None = None) -> None:
        """Raises :class:`rlopt.errors.CheckpointError` unless ``state`` is well-formed and of this rule.

        :param buffer_rows: how many rows the replay buffer has; None leaves it to the caller that all are there
        """
        try:
            rule, added, missing = state["rule"], state["added"], state["missing"]
            ids, masses, counts, rows = (state[name] for name in ("learner_ids", "masses", "counts", "rows"))
            if rule != self.rule:
                raise CheckpointError(f"the checkpoint's replay weights are {rule!r}, not {self.rule!r}: use that rule")
            columns: list[Any] = [ids, counts, rows]
            valid = (
                all(isinstance(part, np.ndarray) and part.ndim == 1 for part in (*columns, masses))
                and all(part.dtype == np.int64 and (part >= 0).all() for part in columns)
                and len(ids) == len(counts) == len(masses)
                and (type(added), type(missing), masses.dtype) == (int, float, np.float64)
                and 0 <= added < 2**62
                and (np.diff(ids) > 0).all()
                and len(ids) <= added
                and (not len(ids) or ids[-1] < added)
                and (counts > 0).all()
                and int(counts.sum()) == len(rows) == len(np.unique(rows))
                and (buffer_rows is None or not len(rows) or rows.max() < buffer_rows)
                and bool(np.isfinite(masses).all() and (masses >= 0).all() and 0 <= missing < float("inf"))
                and (not len(ids) or masses.sum() > 0)
                and self._masses_fit(masses, missing, counts, added)
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError("the checkpoint's replay weights are malformed: use an older checkpoint") from error
        if not valid:
            raise CheckpointError("the checkpoint's replay weights are malformed: use an older checkpoint")

    def _masses_fit(self, masses: np.ndarray, missing: float, counts: np.ndarray, added: int) -> bool:
        """Whether the masses sum to what the rule says."""
        if self.rule == "uniform":
            return bool((masses == counts).all())
        return abs(masses.sum() + missing - (added > 0)) < 1e-6

    def set_state(self, state: Tree, buffer_rows: int | None = None) -> None:
        """Continues from what :meth:`get_state` gave; raises as :meth:`check_state` does."""
        self.check_state(state, buffer_rows)
        self.learner_ids = state["learner_ids"].tolist()
        self._masses, self._missing, self._added = state["masses"].copy(), state["missing"], state["added"]
        ends = np.cumsum(state["counts"])
        self._rows = [part.copy() for part in np.split(state["rows"], ends[:-1])] if len(ends) else []
        self._cached = None


def _checked_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and (rows.dtype.kind not in "iu" or rows.min() < 0)):
        raise ConfigError(f"rows are {rows.dtype} of shape {rows.shape}: give whole numbers >= 0 in one axis")
    return rows.astype(np.int64)
