"""Reference returns, and the normalised score that they define: 0 is a random policy, 100 an expert.

normalised = 100 (return - random) / (expert - random). The table is D4RL's own (``d4rl/infos.py``; Fu et al. 2020,
arXiv 2004.07219, appendix B). It belongs to D4RL's environments; Gymnasium's v5 tasks and gymnasium-robotics' mazes pay
other rewards, so that their returns must not be divided by it.
"""

from typing import Any

import numpy as np

from rlopt.data.metadata import GENERATIONS
from rlopt.data.names import D4RL_NAMES
from rlopt.errors import DataError, unknown_name

_GYM = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
_ADROIT = {
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
}
_MAZE2D = {
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
}


def _reference(name: str, family: str) -> tuple[float, float]:
    if family == "maze2d":
        return _MAZE2D[name]
    if family in ("antmaze", "kitchen"):
        return (0.0, 1.0) if family == "antmaze" else (0.0, 4.0)
    return (_GYM if family == "gym" else _ADROIT)[name.split("-")[0]]


D4RL_REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    name: _reference(name, entry.family) for name, entry in D4RL_NAMES.items()
}
"""(random, expert) by D4RL name. The maze2d experts are waypoint controllers that were not reset between episodes, so
that scores above 100 are common."""


def normalized_score(returns: Any, name: str, generation: str) -> np.ndarray:
    """Normalised scores of episode returns in D4RL's environments: 100 is the reference expert, 0 the random policy.

    :param returns: undiscounted episode returns, any shape
    :param name: a D4RL name
    :param generation: of the environment in which the returns were earned: ``d4rl``, ``minari`` or ``rlopt``
        (:attr:`rlopt.data.Metadata.generation`). Only ``d4rl`` has reference returns here
    :return: float64 of the same shape
    :raises rlopt.errors.DataError: another generation, or a name that is not a D4RL name, such as ``Hopper-v5``
    """
    if generation not in GENERATIONS:
        raise DataError(str(unknown_name("generation", generation, GENERATIONS)))
    if generation != "d4rl":
        raise DataError(
            f"D4RL's reference returns do not hold for {generation} environments ({name}): their rewards, lengths and "
            "physics differ; report the returns, or use score() with references measured in the same environment"
        )
    if name not in D4RL_REFERENCE_RETURNS:
        hint = "D4RL's reference returns hold for D4RL's own tasks only; use score() with your own references"
        if not name.startswith(tuple(entry.split("-")[0] + "-" for entry in D4RL_NAMES)):
            raise DataError(f"{name!r} is not a D4RL data set: {hint}")
        raise DataError(str(unknown_name("D4RL data set", name, D4RL_REFERENCE_RETURNS, hint)))
    return score(returns, D4RL_REFERENCE_RETURNS[name])


def score(returns: Any, reference_returns: tuple[float, float]) -> np.ndarray:
    """100 (return - random) / (expert - random) for references (random, expert) of the same environment.

    :raises rlopt.errors.DataError: unless random is below expert
    """
    random, expert = reference_returns
    if not random < expert:
        raise DataError(f"reference returns {reference_returns}: give (random, expert) with random < expert")
    return 100.0 * (np.asarray(returns, np.float64) - random) / (expert - random)
