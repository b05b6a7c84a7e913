"""Statistics of the discriminator's inputs, which scale observations in any unit."""

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Share of the learner's deviation that is added in quadrature to the expert's: what the expert holds still is told
apart at this resolution."""
LARGEST = 10.0
"""Bound of a scaled observation, as VecNormalize's."""


class InputStatistics(nn.Module):
    """Observations (N, F) less the expert's mean, over a deviation, within [-10, 10].

    The deviation is sqrt(s_e^2 + (0.1 s)^2), with s_e the expert's and s the root mean square distance of the learner's
    observations from the expert's mean, over all its trainings. Both are in the unit of the observation, so the result
    has none. What neither has ever varied is 0.

    :param size: F
    """

    centre: Tensor
    """(F,) the expert's mean."""
    scale: Tensor
    """(F,) what the distance from it is multiplied by; 0 where nothing varied."""
    expert_square: Tensor
    """(F,) float64, s_e^2."""
    learner_square: Tensor
    """(F,) float64, s^2."""
    n_trainings: Tensor
    """(), how many samples of the learner's are in it."""
    learner_ends: Tensor
    """() float64, the learner's true ends a transition, the mean of all trainings."""
    n_judged: Tensor
    """(), of how many."""
    ended: Tensor
    """() float32, 1 once the expert or the learner has reached a true end."""
    absorbing_output: Tensor
    """() float32, what the discriminator says of the state that follows; 0 before its first training."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(size, device=device))
        self.register_buffer("scale", torch.ones(size, device=device))
        self.register_buffer("expert_square", torch.zeros(size, dtype=torch.float64, device=device))
        self.register_buffer("learner_square", torch.zeros(size, dtype=torch.float64, device=device))
        self.register_buffer("n_trainings", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("learner_ends", torch.zeros((), dtype=torch.float64, device=device))
        self.register_buffer("n_judged", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("ended", torch.zeros((), device=device))
        self.register_buffer("absorbing_output", torch.zeros((), device=device))

    def see_expert(self, rows: Tensor, features_changed: bool = False) -> None:
        """Takes the expert's observations (N, F).

        :param features_changed: forget the learner's, which were features of another encoder
        """
        rows = rows.double()
        self.centre.copy_(rows.mean(dim=0))
        self.expert_square.copy_(rows.var(dim=0, correction=0))
        if features_changed:
            self.learner_square.zero_()
            self.n_trainings.zero_()
        self._rescale()

    def see_learner(self, rows: Tensor) -> None:
        """Takes observations (N, F) of the learner, before a training of the discriminator."""
        square = (rows.double() - self.centre).square().mean(dim=0)
        self.n_trainings += 1
        self.learner_square += (square - self.learner_square) / self.n_trainings
        self._rescale()

    def see_ends(self, ends: float) -> float:
        """Takes the learner's true ends a transition; the larger of that and of the mean of all trainings.

        Who has unlearned to end for now has not made ending like the expert.
        """
        self.n_judged += 1
        self.learner_ends += (ends - self.learner_ends) / self.n_judged
        return max(ends, float(self.learner_ends))

    def _rescale(self) -> None:
        deviation = (self.expert_square + FLOOR**2 * self.learner_square).sqrt()
        # Of a constant the mean's rounding is left.
        varies = deviation > 1e-6 * self.centre.abs()
        # In place, for compiled steps.
        self.scale.copy_(torch.where(varies, 1 / deviation, torch.zeros_like(deviation)))

    def forward(self, rows: Tensor) -> Tensor:
        """Scaled observations (N, F) of (N, F)."""
        return ((rows - self.centre) * self.scale).clamp(-LARGEST, LARGEST)
