"""The likelihood of rankings against brute force and closed forms."""

import itertools

import numpy as np
import pytest
import torch

from rlopt.feedback.ranking import Ranking
from rlopt.preferences.fragments import ABSENT, WORST, places_of, ranking_of
from rlopt.preferences.reward_model import agreement, plackett_luce_loss

SCORES = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)


def likelihood(order: tuple[int, ...], m: int) -> float:
    places = torch.from_numpy(places_of(Ranking.from_order(order, m), m))
    return float(torch.exp(-plackett_luce_loss(SCORES[None, :m], places[None])))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_probabilities_of_all_answers_sum_to_one(k: int) -> None:
    total = sum(likelihood(order, 4) for order in itertools.permutations(range(4), k))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_pair_is_bradley_terrys_and_a_tie_is_twice_the_cross_entropy_with_one_half() -> None:
    pair = SCORES[None, :2]
    gap = pair[0, 0] - pair[0, 1]
    better = plackett_luce_loss(pair, torch.tensor([[0, 1]]))
    assert torch.allclose(better, -torch.nn.functional.logsigmoid(gap))
    tie = plackett_luce_loss(pair, torch.tensor([[0, 0]]))
    both = -torch.nn.functional.logsigmoid(gap) - torch.nn.functional.logsigmoid(-gap)
    assert torch.allclose(tie, both)


@pytest.mark.parametrize(
    "places", [[0, 3, 1, 2], [0, WORST, 1, WORST], [1, 0, 0, WORST], [0, ABSENT, 1, ABSENT], [0, 0, 0, 0]]
)
def test_the_gradient_is_that_of_the_closed_form(places: list[int]) -> None:
    """d/ds_i is, over the chosen, the probability of i among what is as bad or worse, less 1 where i is chosen."""
    scores = SCORES.clone().requires_grad_()
    plackett_luce_loss(scores[None], torch.tensor([places])).backward()
    values, expected = SCORES.numpy(), np.zeros(4)
    for chosen, place in enumerate(places):
        if place in (ABSENT, WORST):
            continue
        rivals = [j for j in range(4) if places[j] != ABSENT and places[j] >= place]
        weights = np.exp(values[rivals])
        expected[rivals] += weights / weights.sum()
        expected[chosen] -= 1
    assert scores.grad is not None
    np.testing.assert_allclose(scores.grad.numpy(), expected, atol=1e-12)


def test_ensembles_and_questions_of_several_sizes_are_the_mean_of_each_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 2, 4, generator=generator)
    places = torch.tensor([[0, 1, ABSENT, ABSENT], [2, 0, WORST, 1]])
    together = plackett_luce_loss(scores, places)
    for member in range(3):
        alone = [plackett_luce_loss(scores[member, :1, :2], places[:1, :2])]
        alone.append(plackett_luce_loss(scores[member, 1:], places[1:]))
        assert torch.allclose(together[member], torch.stack(alone).mean())


def test_agreement_counts_ordered_pairs() -> None:
    places = torch.tensor([[0, 1, WORST, WORST], [0, 0, ABSENT, ABSENT]])
    scores = torch.tensor([[2.0, 3.0, 1.0, 0.0], [5.0, 5.0, 9.0, 9.0]])
    assert agreement(scores, places).item() == pytest.approx(4 / 5)  # of 0-1, 0-2, 0-3, 1-2, 1-3 the first is wrong


@pytest.mark.parametrize("answer", [Ranking(((2,), (0, 1)), (3,)), Ranking(((0, 1, 2, 3),)), Ranking((), (0, 1, 2, 3))])
def test_places_and_answers_are_one_another(answer: Ranking) -> None:
    assert ranking_of(places_of(answer, 4)) == answer
