"""What a table of results must fulfil before it is written, so that it cannot flatter.

Each check raises :class:`RefusedError` in one line. ``scripts/reproduce_*.py`` call them where they write.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


class RefusedError(SystemExit):
    """A table that would show less than was run, or what was tuned on."""


@dataclass(frozen=True)
class Arm:
    """One contestant of a study; ``key`` names its rows."""

    key: str
    title: str
    role: Literal["ours", "ablation", "peer"]
    """``ablation``: the method without what is its own, everything else equal."""


@dataclass(frozen=True)
class Declared:
    """What a study chose its settings on, and what it reports. A task with other rewards is another task."""

    tuning_tasks: frozenset[str]
    tuning_seeds: frozenset[int]
    test_tasks: frozenset[str]
    test_seeds: frozenset[int]
    tasks_too: bool = True
    """Whether tasks must differ as well: for claims about settings that are the same on every task."""

    def check(self) -> None:
        """Refuses seeds, and tasks, that are both tuned on and reported."""
        seeds = self.tuning_seeds & self.test_seeds
        if seeds:
            raise RefusedError(f"seeds {_listed(seeds)} were tuned on and would be reported: take others")
        tasks = self.tuning_tasks & self.test_tasks if self.tasks_too else frozenset()
        if tasks:
            raise RefusedError(f"tasks {_listed(tasks)} were tuned on and would be reported: take others")

    def reported(self, rows: Iterable[Mapping[str, Any]], task: str = "task") -> list[Mapping[str, Any]]:
        """The rows of test tasks and test seeds; refuses what :meth:`check` refuses."""
        self.check()
        return [row for row in rows if row[task] in self.test_tasks and row["seed"] in self.test_seeds]


def check_all_shown(rows: Iterable[Mapping[str, Any]], arms: Sequence[Arm], key: str = "arm") -> None:
    """Refuses a table that leaves out an arm of which there are runs."""
    left_out = {str(row[key]) for row in rows} - {arm.key for arm in arms}
    if left_out:
        raise RefusedError(f"arms {_listed(left_out)} were run and are not shown: show them")


def check_headline(
    scores: Mapping[str, Sequence[float]],
    arms: Sequence[Arm],
    shown: Iterable[str],
    statistic: Callable[[Any], float],
    where: str,
) -> None:
    """Refuses a headline row without our method, its ablation, or the best of its peers.

    :param scores: of every arm by key, in a unit of which more is better; empty where it was not run
    :param shown: keys of the arms in the row
    :param where: the row, for people
    """
    shown = set(shown)
    for role in ("ours", "ablation"):
        keys = [arm.key for arm in arms if arm.role == role]
        if not keys:
            raise RefusedError(f"{where}: the study has no arm {role}: run one")
        not_run = [key for key in keys if not len(scores.get(key, ()))]
        if not_run:
            raise RefusedError(f"{where}: {_listed(not_run)} ({role}) was not run: run it")
        missing = [key for key in keys if key not in shown]
        if missing:
            raise RefusedError(f"{where}: the row leaves out {_listed(missing)} ({role}): show it")
    peers = [arm.key for arm in arms if arm.role == "peer" and len(scores.get(arm.key, ()))]
    if not peers:
        raise RefusedError(f"{where}: no peer was run: run one")
    best = max(peers, key=lambda key: statistic(scores[key]))
    if best not in shown:
        raise RefusedError(f"{where}: the row leaves out {best}, the best peer: show it")


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted(names, key=str)))
