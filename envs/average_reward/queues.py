"""Queues with servers: admission of customers, and which queue a server works for."""

from math import comb

import numpy as np

from rlopt.envs.average_reward.finite import FiniteEnv, Outcome
from rlopt.errors import ConfigError, unknown_name

ORDERS = ("accept_first", "free_first")


class AccessControl(FiniteEnv):
    """``rlopt/AccessControl-v0``: accept a customer and earn its priority, or keep the server for a better one.

    State: 4 * (free servers) + (index of the waiting customer's priority). Action 0 rejects, 1 accepts; without a free
    server the customer is rejected. Priorities are 1, 2, 4, 8, equally likely; the reward is the priority over 8, so in
    [0, 1]. Every busy server becomes free with probability ``free_probability`` in a step.

    :param order: ``accept_first``: the customer takes a server, then servers become free, that one too (Sutton and
        Barto 2018, example 10.2); ``free_first``: servers become free, then the customer takes one, even if the state
        showed none as free. Gain and span differ.
    """

    def __init__(self, n_servers: int = 10, free_probability: float = 0.06, order: str = "accept_first") -> None:
        if type(n_servers) is not int or n_servers < 1 or not 0 < free_probability < 1:
            raise ConfigError(
                f"n_servers is {n_servers!r} and free_probability {free_probability!r}: give a whole number of at "
                "least 1 and a probability in (0, 1)"
            )
        if order not in ORDERS:
            raise unknown_name("order", order, ORDERS)
        freed = [_binomial(busy, free_probability) for busy in range(n_servers + 1)]

        def outcomes(free: int, priority: int, accept: bool) -> list[Outcome]:
            pay, found = 2**priority / 8, []
            if order == "accept_first":
                served = accept and free > 0
                left = free - served
                for count, p in enumerate(freed[n_servers - left]):
                    found += [(p / 4, 4 * (left + count) + after, pay if served else 0.0) for after in range(4)]
                return found
            for count, p in enumerate(freed[n_servers - free]):
                served = accept and free + count > 0
                left = free + count - served
                found += [(p / 4, 4 * left + after, pay if served else 0.0) for after in range(4)]
            return found

        states = [(free, priority) for free in range(n_servers + 1) for priority in range(4)]
        start = np.zeros(len(states))
        start[-4:] = 0.25
        super().__init__([[outcomes(*state, accept) for accept in (False, True)] for state in states], start=start)


class ServerAllocation(FiniteEnv):
    """``rlopt/ServerAllocation-v0``: one server, two queues; each step it works for one of them.

    State: (capacity + 1) * n_0 + n_1, the customers in each queue. In a step the served queue loses a customer with its
    ``service`` probability, then each queue gains one with its ``arrival`` probability, if it has room. Reward: 1 minus
    the holding cost of the customers present before the step over its largest value, in [0, 1]. Far from the capacity,
    it is optimal to serve the nonempty queue with the larger cost * service (Buyukkoc, Varaiya and Walrand 1985).
    """

    def __init__(
        self,
        capacity: int = 6,
        arrival: tuple[float, float] = (0.2, 0.2),
        service: tuple[float, float] = (0.5, 0.8),
        cost: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        probabilities = (*arrival, *service)
        if type(capacity) is not int or capacity < 1 or not all(0 < p < 1 for p in probabilities) or min(cost) <= 0:
            raise ConfigError(
                f"capacity is {capacity!r}, arrival {arrival}, service {service}, cost {cost}: give a whole number of "
                "at least 1, probabilities in (0, 1) and costs above 0"
            )
        largest = capacity * sum(cost)

        def outcomes(customers: tuple[int, int], served: int) -> list[Outcome]:
            reward = 1 - (cost[0] * customers[0] + cost[1] * customers[1]) / largest
            found: list[Outcome] = []
            for done in (0, 1):
                for arrived in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    p = service[served] if done else 1 - service[served]
                    after = list(customers)
                    after[served] = max(after[served] - done, 0)
                    for queue in (0, 1):
                        p *= arrival[queue] if arrived[queue] else 1 - arrival[queue]
                        after[queue] = min(after[queue] + arrived[queue], capacity)
                    found.append((p, (capacity + 1) * after[0] + after[1], reward))
            return found

        states = [(i, j) for i in range(capacity + 1) for j in range(capacity + 1)]
        super().__init__([[outcomes(state, served) for served in (0, 1)] for state in states])


def _binomial(trials: int, p: float) -> list[float]:
    return [comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
