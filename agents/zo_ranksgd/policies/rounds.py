"""A round of a policy search: its query, episodes, answers and outcome."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlopt.agents.zo_ranksgd.config import ZORankSGDConfig
from rlopt.agents.zo_ranksgd.policies.candidates import Evaluation
from rlopt.agents.zo_ranksgd.query import Outcome, Query
from rlopt.console.progress import Counted
from rlopt.feedback.ranking import Ranking


@dataclass(frozen=True)
class Round:
    """A query that was answered."""

    query: Query
    answers: tuple[Ranking, ...]
    """One of each annotator."""
    evaluation: Evaluation
    outcome: Outcome
    observation_statistics: dict[str, Any]
    """Count, mean and squared deviations by which observations were normalised all through the round."""

    def episodes(self) -> Iterator[dict[str, Any]]:
        """Return and length of each episode, as Stable-Baselines3's Monitor gives them; of finite returns."""
        returns, lengths = self.evaluation.episode_returns.ravel(), self.evaluation.lengths.ravel()
        for value, length in zip(returns.tolist(), lengths.tolist(), strict=True):
            if np.isfinite(value):
                yield {"r": value, "l": length}

    def for_callbacks(self) -> dict[str, Any]:
        """The round, and its episodes as a step of a VecEnv in which all of them ended."""
        infos = [{"episode": episode} for episode in self.episodes()]
        rewards = np.array([info["episode"]["r"] for info in infos])
        return {"round": self, "infos": infos, "rewards": rewards, "dones": np.ones(len(infos), bool)}


def logged(played: Round, search: Any) -> dict[str, float]:
    """Values to log for a round, finite numbers only.

    :param search: that played it, after it
    """
    returns = played.evaluation.returns
    finite = returns[np.isfinite(returns)]
    values: dict[str, float] = {
        "rollout/ep_rew_mean": _mean([episode["r"] for episode in search.ep_info_buffer]),
        "rollout/ep_len_mean": _mean([episode["l"] for episode in search.ep_info_buffer]),
        "zo_ranksgd/best_candidate": float(finite.max()) if len(finite) else np.nan,
        "zo_ranksgd/median_candidate": float(np.median(finite)) if len(finite) else np.nan,
        "zo_ranksgd/non_finite_candidates": float(len(returns) - len(finite)),
        "zo_ranksgd/comparisons": float(played.outcome.edges),
        "zo_ranksgd/step_norm": played.outcome.step_norm,
        "zo_ranksgd/point_norm": float(np.linalg.norm(search.point)),
        "zo_ranksgd/queries": float(search.num_queries),
        "zo_ranksgd/episodes": float(search.num_episodes),
    }
    current = played.query.current
    if current is not None:
        values["zo_ranksgd/current_point"] = float(returns[current])
    return {name: value for name, value in values.items() if np.isfinite(value)}


def budget_of(config: ZORankSGDConfig, total_timesteps: int, line_search: bool) -> Counted:
    """The budget by which a search tells how far it is: that of rounds or of episodes which it is to spend first.

    How many steps an episode will have is not known beforehand, so that the one of steps is told only if it is alone.

    :param line_search: whether every second round may be a line search
    """
    found = Counted(total_timesteps)
    rounds = None
    if config.total_episodes is not None:
        found = Counted(config.total_episodes, "episodes", "num_episodes")
        points = config.line_search_points if line_search else 0
        played = (config.m + points) / (2 if points else 1)
        rounds = config.total_episodes / (played * config.episodes_per_candidate)
    if config.total_queries is not None and (rounds is None or config.total_queries < rounds):
        found = Counted(config.total_queries, "rounds", "num_queries")
    return found


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan
