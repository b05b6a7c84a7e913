"""Loops whose rewards tempt a discounted agent away from the best average."""

from rlopt.envs.average_reward.finite import FiniteEnv, Outcome
from rlopt.errors import ConfigError


class TwoChoiceLoop(FiniteEnv):
    """``rlopt/TwoChoiceLoop-v0``: in state 0 choose the near loop, paid at once, or the far loop, paid at its end.

    Loops have ``length`` steps; all moves are certain and only state 0 has a choice. Gains: ``near`` / length and
    ``far`` / length. A discount below (near / far)^(1 / (length - 1)) prefers the near loop whichever is better.

    :param length: steps of a loop, at least 2
    :param near: reward of the first step of the near loop (action 0)
    :param far: reward of the last step of the far loop (action 1)
    """

    def __init__(self, length: int = 5, near: float = 0.5, far: float = 1.0) -> None:
        if type(length) is not int or length < 2:
            raise ConfigError(f"length is {length!r}: give a whole number of at least 2")
        inside = length - 1
        outcomes: list[list[list[Outcome]]] = [[[(1.0, 1, near)], [(1.0, 1 + inside, 0.0)]]]
        for loop, pay in enumerate((0.0, far)):
            for place in range(inside):
                last = place == inside - 1
                target = 0 if last else 2 + loop * inside + place
                outcomes.append([[(1.0, target, pay if last else 0.0)]] * 2)
        super().__init__(outcomes)
